"""Commit shares against step maps made by hand."""

import numpy as np
import pandas as pd
import pytest

from t3d.errors import CorruptArtefactError
from t3d.reporting.figures import commits
from tests.reporting.helpers import with_figure, write_answers


def answer(step_map, counted=None):
    return {
        "response_ids": list(range(len(step_map))),
        "step_map": step_map,
        "response_tokens": len(step_map) if counted is None else counted,
    }


def test_the_shares_of_a_step_map_made_by_hand():
    # The prompt begins the first answer's first block (two tokens); the last two tokens of the second are filler.
    answers = pd.DataFrame([answer([1, 2, 1, 1, 2, 2]), answer([1, 2, 1, 2, 2, 1, 1, 2], counted=6)])
    expected = np.array([[2 / 3, 2 / 3, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 2, 1]])
    np.testing.assert_allclose(commits.commit_shares(answers, 4, 2), expected)


def test_left_to_right_is_the_diagonal_and_columns_sum_to_one():
    straight = pd.DataFrame([answer([1, 2, 3, 4] * 5)])
    np.testing.assert_array_equal(commits.commit_shares(straight, 4, 4), np.eye(4))
    rng = np.random.default_rng(0)
    mixed = pd.DataFrame([answer((rng.permuted(np.tile([1, 1, 2, 2], (6, 1)), axis=1)).ravel().tolist())])
    np.testing.assert_allclose(commits.commit_shares(mixed, 4, 2).sum(axis=0), 1.0)


def test_a_position_without_tokens_has_no_share():
    shares = commits.commit_shares(pd.DataFrame([answer([1, 1, 2, 2], counted=3)]), 4, 2)
    np.testing.assert_array_equal(shares, [[1, 1, 0, np.nan], [0, 0, 1, np.nan]])


@pytest.mark.parametrize("step_map", [[1, 2, 3, 1], [0, 1, 2, 2], [1, 2, 1]])
def test_a_step_map_that_does_not_fit_names_the_file(step_map, tmp_path):
    tiny = with_figure(kind="commits")
    bad = {"response_ids": [5, 6, 7, 8], "step_map": step_map, "response_tokens": 4}
    rows = {"teacher": [answer([1, 2, 1, 2]), bad], "t3d-seed0": [answer([1, 2, 1, 2])]}
    rows["t3d-seed1"] = rows["t3d-seed0"]
    manifests = [write_answers(tiny, tmp_path, model, "gsm", "b4s2", found) for model, found in rows.items()]
    with pytest.raises(CorruptArtefactError, match=r"teacher/gsm/b4s2\.manifest\.json: answer 1: .* 1\.\.2 per token"):
        commits.draw(tiny, tiny.figures["shown"], manifests)


def test_a_student_is_shown_as_the_difference_of_its_mean_over_seeds_from_the_teacher(tmp_path):
    tiny = with_figure(kind="commits", budgets=["b4s2", "b4s4"])
    maps = {"teacher": [1, 2, 1, 2], "t3d-seed0": [1, 1, 2, 2], "t3d-seed1": [1, 2, 1, 2]}
    manifests = [write_answers(tiny, tmp_path, run, "gsm", "b4s2", [answer(m)]) for run, m in maps.items()]
    manifests += [write_answers(tiny, tmp_path, run, "gsm", "b4s4", [answer([4, 3, 2, 1])]) for run in maps]
    figure = commits.draw(tiny, tiny.figures["shown"], manifests)
    *panels, of_shares, of_differences = figure.axes
    shown = [axis.images[0].get_array() for axis in panels]
    assert [data.shape for data in shown] == [(2, 4), (2, 4), (4, 4), (4, 4)]
    np.testing.assert_allclose(shown[0], [[1, 0, 1, 0], [0, 1, 0, 1]])
    np.testing.assert_allclose(shown[1], [[0, 0.5, -0.5, 0], [0, -0.5, 0.5, 0]])
    np.testing.assert_allclose(shown[2], np.eye(4)[::-1])
    np.testing.assert_allclose(shown[3], 0)
    assert [axis.get_title() for axis in panels] == ["Original", "T3D \N{MINUS SIGN} Original", "", ""]
    assert panels[2].get_title("left") == "GSM_100%, block size 4, 4 steps"
    assert [axis.images[0].get_clim() for axis in panels] == [(0, 1), (-0.5, 0.5)] * 2
    assert of_shares.get_ylabel() == "Share of the position's tokens"
    assert of_differences.get_ylabel() == "Difference from Original"
