import json

import pytest

from t3d.errors import CorruptArtefactError, DataError, MissingInputError, ParameterError, T3DError
from t3d.reporting import scores
from tests.reporting.helpers import ANSWERS, experiment, write_score, write_scores


def test_a_row_per_model_budget_and_question_in_the_experiments_order(tmp_path):
    tiny = experiment()
    frame, _ = scores.load(tiny, tiny.tables["accuracy"], write_scores(tiny, tmp_path)[::-1])
    assert len(frame) == len(ANSWERS) * 8
    assert list(frame["method"].unique()) == ["Original", "T3D"]
    t3d = frame[(frame["method"] == "T3D") & (frame["seed"] == 1) & (frame["budget"] == "b8s4")]
    assert t3d["correct"].all()
    assert set(t3d["block_size"]) == {8}
    assert set(t3d["tokens_per_step"]) == {2.0}


def changed(kind, key, **values):
    tiny = experiment()
    group = getattr(tiny, kind)
    return tiny.model_copy(update={kind: group | {key: group[key].model_copy(update=values)}})


@pytest.mark.parametrize(
    ("edited", "culprit"),
    [
        (changed("benchmarks", "gsm", max_new_tokens=64), "answers/teacher/gsm/b4s2"),
        (changed("benchmarks", "gsm", task="other"), "scores/teacher/gsm/b4s2"),
        (changed("students", "t3d", block_size=4), "students/t3d-seed0"),
    ],
)
def test_old_scores_with_edited_parameters_are_an_error(tmp_path, edited, culprit):
    manifests = write_scores(experiment(), tmp_path)
    with pytest.raises(ParameterError, match=f"{culprit} was made with other parameters"):
        scores.load(edited, edited.tables["accuracy"], manifests)


def test_a_new_label_is_not_another_parameter(tmp_path):
    manifests = write_scores(experiment(), tmp_path)
    edited = changed("students", "t3d", label="Ours")
    assert "Ours" in set(scores.load(edited, edited.tables["accuracy"], manifests)[0]["method"])


def test_a_missing_cell_names_the_file_to_make(tmp_path):
    tiny = experiment()
    manifests = write_scores(tiny, tmp_path)
    with pytest.raises(MissingInputError, match=r"data/tiny/scores/t3d-seed1/gsm/b8s1\.manifest\.json"):
        scores.load(tiny, tiny.tables["accuracy"], manifests[:-1])


def test_a_cell_nobody_asked_for_is_refused(tmp_path):
    tiny = experiment()
    manifests = write_scores(tiny, tmp_path)
    extra = write_score(tiny, tmp_path, "teacher", "gsm", "b8s8", "1" * 8)
    with pytest.raises(DataError, match="scores/teacher/gsm/b8s8 is not asked for"):
        scores.load(tiny, tiny.tables["accuracy"], [*manifests, extra])
    with pytest.raises(DataError, match="or given twice"):
        scores.load(tiny, tiny.tables["accuracy"], [*manifests, manifests[0]])


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_a_flipped_byte_is_found(tmp_path, suffix):
    tiny = experiment()
    manifests = write_scores(tiny, tmp_path)
    damaged = manifests[4].with_name("b8s4" + suffix)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(CorruptArtefactError, match=f"b8s4{suffix}: the content does not match"):
        scores.load(tiny, tiny.tables["accuracy"], manifests)


def test_a_manifest_under_another_name_is_refused(tmp_path):
    tiny = experiment()
    manifests = write_scores(tiny, tmp_path)
    for path, other in zip(manifests[:2], ("b8s4", "b4s2"), strict=True):
        content = json.loads(path.read_text())
        content["artefact"] = f"scores/teacher/gsm/{other}"
        path.write_text(json.dumps(content))
    with pytest.raises(CorruptArtefactError, match=r"recipes lacks that of scores.teacher.gsm.b8s4 itself"):
        scores.load(tiny, tiny.tables["accuracy"], manifests)


@pytest.mark.parametrize("ids", [[f"other-{i}" for i in range(8)], ["gsm-0"] * 8])
def test_models_that_answered_other_questions_are_not_compared(tmp_path, ids):
    tiny = experiment()
    manifests = write_scores(tiny, tmp_path)
    write_score(tiny, tmp_path, "t3d-seed1", "gsm", "b8s1", "10000000", ids)
    with pytest.raises(T3DError, match=r"gsm at b8s1, T3D seed 1|b8s1\.parquet cannot be read: an id stands in two"):
        scores.load(tiny, tiny.tables["accuracy"], manifests)


def test_totals_carry_the_speed_of_the_receipts(tmp_path):
    tiny = experiment()
    manifests = write_scores(tiny, tmp_path)
    _, totals = scores.load(tiny, tiny.tables["accuracy"], manifests)
    assert len(totals) == len(ANSWERS)
    assert set(totals["tokens_per_second"]) == {100.0}
    assert set(totals["device"]) == {"cpu"}
    (tmp_path / "scores" / "teacher" / "gsm" / "b4s2.receipt.json").unlink()
    with pytest.raises(MissingInputError, match=r"b4s2\.receipt\.json is missing"):
        scores.load(tiny, tiny.tables["accuracy"], manifests)


def test_a_score_that_lists_other_files_is_refused(tmp_path):
    tiny = experiment()
    manifests = write_scores(tiny, tmp_path)
    content = json.loads(manifests[0].read_text())
    del content["files"]["b4s2.parquet"]
    manifests[0].write_text(json.dumps(content))
    with pytest.raises(CorruptArtefactError, match=r"b4s2\.manifest\.json lists b4s2\.json; a score is"):
        scores.load(tiny, tiny.tables["accuracy"], manifests)
