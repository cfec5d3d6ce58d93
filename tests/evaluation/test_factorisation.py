"""The factorisation error: on joint distributions whose total correlation is known, and against plain forwards."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from t3d.errors import DataError, ParameterError
from t3d.evaluation import factorisation
from t3d.evaluation.factorisation import Chain, chains, gaps, intervals_up_to, per_rollout
from t3d.models.folder import load_tokenizer, mask_id
from t3d.models.masks import block_causal
from t3d.models.sdar import load_model
from t3d.params import Experiment
from t3d.provenance import store, writer
from t3d.reporting.figures.factorisation import total_correlation
from t3d.trajectories import shards
from t3d.trajectories.record import Trajectory
from tests.artefacts import inputs_of, made
from tests.conftest import MASK, SHIPPED, tiny_model


def measured(rollouts: list[Chain], interval: int) -> tuple[float, float, float]:
    """Value, low and high at one interval, the way stage and figure compute them."""
    table = per_rollout(rollouts, [str(i) for i in range(len(rollouts))], [interval])
    return tuple(total_correlation(table).loc[interval, ["value", "low", "high"]])


def entropy(p):
    return -sum(q * math.log(q) for q in (p, 1 - p) if q)


def equal_bits(agree: float, count: int, rng) -> list[Chain]:
    """Two fair bits that agree with probability `agree`, drawn in random order; their TC is log 2 - H(agree)."""
    made = []
    for _ in range(count):
        same = rng.random() < agree
        first = rng.integers(2)
        log_p = np.full((2, 2), math.log(0.5))
        log_p[1] = np.nan
        log_p[1, 1 - first] = math.log(agree if same else 1 - agree)
        step_map = np.array([1, 2]) if first == 0 else np.array([2, 1])
        made.append(Chain(log_p, step_map, np.zeros(2, dtype=int)))
    return made


@pytest.mark.parametrize("agree", [0.5, 0.8, 0.99])
def test_two_bits_have_the_total_correlation_of_the_closed_form(agree):
    rollouts = equal_bits(agree, 2000, np.random.default_rng(0))
    known = math.log(2) - entropy(agree)
    value, low, high = measured(rollouts, 2)
    assert value == pytest.approx(known, abs=0.02)
    assert low - 1e-9 <= known <= high + 1e-9
    assert measured(rollouts, 1) == (0.0, 0.0, 0.0)


def test_a_repeated_token_costs_its_entropy_each_time_it_is_drawn_again():
    """Eight copies of one of four symbols: drawn d at a time, a step ignores what d - 1 of them would have known."""
    log_p = np.full((8, 8), 0.0)
    log_p[0] = math.log(0.25)
    for step in range(8):
        log_p[step, :step] = np.nan
    copies = [Chain(log_p, np.arange(1, 9), np.zeros(8, dtype=int))] * 3
    assert measured(copies, 1)[0] == 0.0
    assert measured(copies, 8)[0] == pytest.approx(7 * math.log(4))
    # Of the two steps of four only the first meets an unknown symbol.
    assert measured(copies, 4)[0] == pytest.approx(3 * math.log(4) / 2)


def rollout(name, prompt, blocks, rng, steps=None) -> Trajectory:
    length = (prompt // 4 + blocks) * 4 - prompt
    step_map = []
    for block in range(blocks):
        size = min(4, length - len(step_map)) if block else 4 - prompt % 4
        step_map += [int(s) for s in rng.permutation(size) + 1]
    ids = rng.integers(4, 97, prompt + length).tolist()
    return Trajectory(name, ids[:prompt], ids[prompt:], steps or step_map, [0.5] * length, "stop", 0)


def test_chains_equal_one_forward_per_state(monkeypatch):
    monkeypatch.setattr(factorisation, "_BATCH_SIZE", 3)
    rng = np.random.default_rng(1)
    model = tiny_model()
    rollouts = [rollout(f"e{i}", 3 + i, 2 + i % 2, rng) for i in range(4)]
    found = chains(model, rollouts, block_size=4, mask_id=MASK)
    for example, chain in zip(rollouts, found, strict=True):
        ids, prompt = torch.tensor(example.prompt_ids + example.response_ids), len(example.prompt_ids)
        blocks = torch.arange(len(ids))[None] // 4
        for block in set(chain.blocks.tolist()):
            for step in range(4):
                inside = [i for i in range(prompt, len(ids)) if i // 4 == block]
                hidden = [i for i in inside if example.step_map[i - prompt] > step]
                state = ids[: block * 4 + 4].clone()
                state[hidden] = MASK
                seen = blocks[:, : len(state)]
                with torch.no_grad():
                    scores = model(state[None], attention_mask=block_causal(seen, seen)).logits[0].log_softmax(-1)
                for i in inside:
                    value = chain.log_p[step, i - prompt]
                    if i in hidden:
                        assert value == pytest.approx(scores[i, ids[i]].item(), abs=2e-5)
                    else:
                        assert np.isnan(value)


def test_what_is_no_chain_is_refused():
    two_a_step = rollout("e", 4, 1, np.random.default_rng(0), steps=[1, 1, 2, 2])
    with pytest.raises(DataError, match="e commits several tokens in one step"):
        chains(tiny_model(), [two_a_step], block_size=4, mask_id=MASK)
    with pytest.raises(DataError, match="zero rollouts"):
        measured([], 2)


def test_intervals_are_the_powers_of_two_and_all_steps():
    assert [intervals_up_to(steps) for steps in (1, 4, 6, 8)] == [[1], [1, 2, 4], [1, 2, 4, 6], [1, 2, 4, 8]]


def test_an_interval_that_does_not_divide_the_steps_ends_with_a_shorter_one():
    """Six copies of one of two symbols, four a step and then two: the second step knows the symbol already."""
    log_p = np.zeros((6, 6))
    log_p[0] = math.log(0.5)
    chain = Chain(log_p, np.arange(1, 7), np.zeros(6, dtype=int))
    total, terms = gaps(chain, 4)
    assert (total, terms) == (pytest.approx(3 * math.log(2)), 2)


def full_step(budget="b4s4", **changes) -> Experiment:
    content = {
        "name": "x",
        "device": "cpu",
        "teachers": {name: {"source": "shipped", "path": str(SHIPPED)} for name in ("m", "other")},
        "prompt_sets": {"q": {"teacher": "m", "split": "train", "count": 5}},
        "trajectories": {"r": {"prompts": "q", "budget": budget, "shards": 2}},
    }
    return Experiment.model_validate(content | changes)


def written(experiment, root, rollouts, steps=4):
    """Manifests of the teacher and of the rollouts' two shards."""
    model, manifests = made(experiment, root, "teachers/m"), []
    for index in range(2):
        artefact = f"trajectories/r/{index}-of-2"
        out = root / f"{artefact}.manifest.json"
        with writer.writing(experiment, artefact, out, inputs_of(experiment, root, artefact)) as job:
            shards.write(job.file(".parquet"), rollouts[index::2], shards.ShardMetadata("0" * 64, 4, steps, 1.0))
        manifests.append(out)
    return model, manifests


def test_the_stage_keeps_the_gaps_of_every_rollout(tmp_path):
    rng = np.random.default_rng(2)
    rollouts = [rollout(f"e{i}", 3 + i, 2 + i % 2, rng) for i in range(5)]
    experiment = full_step()
    model, manifests = written(experiment, tmp_path, rollouts)
    out = tmp_path / "factorisation" / "m" / "r.manifest.json"
    factorisation.make(experiment, model, "r", manifests[::-1], out)
    manifest = store.read(out, kind="factorisation")
    assert manifest.artefact == "factorisation/m/r"
    origins = {"teachers/m", "prompts/q", "trajectories/r/0-of-2", "trajectories/r/1-of-2"}
    assert set(manifest.recipes) == {manifest.artefact, *origins}
    found = pd.read_parquet(manifest.file(".parquet"))
    shipped, mask = load_model(SHIPPED), mask_id(load_tokenizer(SHIPPED))
    scored = [chains(shipped, [each], block_size=4, mask_id=mask)[0] for each in rollouts]
    expected = per_rollout(scored, [f"e{i}" for i in range(5)], [1, 2, 4])
    pd.testing.assert_frame_equal(found, expected, atol=1e-4)
    assert found.loc[found["interval"] == 1, "gap"].eq(0).all()
    assert found.loc[found["interval"] == 4, "gap"].abs().min() > 0
    # Whole blocks are four terms of one token, two of two, one of four.
    whole = found[found["id"] == "e1"].set_index("interval")["terms"]
    assert (whole[1], whole[2], whole[4]) == (12, 6, 3)
    factorisation.make(experiment, model, "r", manifests, tmp_path / "again" / "r.manifest.json")
    assert (tmp_path / "again" / "r.parquet").read_bytes() == manifest.file(".parquet").read_bytes()


def test_the_stage_refuses_what_it_cannot_score(tmp_path):
    rng = np.random.default_rng(3)
    experiment = full_step()
    rollouts = [rollout("e0", 4, 1, rng), rollout("e1", 4, 1, rng, steps=[1, 1, 2, 2])]
    model, manifests = written(experiment, tmp_path, rollouts)
    out = tmp_path / "r.manifest.json"
    with pytest.raises(ParameterError, match=r"no trajectories 'rr': r\."):
        factorisation.make(experiment, model, "rr", manifests, out)
    with pytest.raises(
        DataError, match=r"is made from teachers/m, trajectories/r/0-of-2, trajectories/r/1-of-2: give data/.*/1-of-2"
    ):
        factorisation.make(experiment, model, "r", manifests[:1], out)
    with pytest.raises(DataError, match="e1 commits several tokens in one step"):
        factorisation.make(experiment, model, "r", manifests, out)
    with pytest.raises(ParameterError, match=r"trajectories\.r\.budget is b4s2; .* full-step rollouts, b4s4"):
        factorisation.make(full_step("b4s2"), model, "r", manifests, out)
    other = made(experiment, tmp_path, "teachers/other")
    with pytest.raises(
        ParameterError, match=r"teachers/other is neither teachers/m, whose rollouts .* nor its student"
    ):
        factorisation.make(experiment, other, "r", manifests, out)
    assert not out.exists()
