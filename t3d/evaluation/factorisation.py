"""The factorisation error: what is lost when several tokens of a step are drawn as if they were independent.

Its measure is the conditional total correlation (21) between a state x_t and a later state x_s of full-step decoding,

    TC(x_s | x_t) = E[ log p(x_s | x_t) - sum_i log p(x_s^i | x_t) ],

whose first term follows from the chain of states in between, each of which adds one token (docs/method.md derives it).
The stage keeps what is inside the expectation, summed per rollout; `t3d/reporting/figures/factorisation.py` takes the
mean.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from t3d.distributed.gpus import pick_device
from t3d.errors import DataError, DecodingError, ParameterError
from t3d.models.folder import load_tokenizer, mask_id, read_config
from t3d.models.sdar import SDARForCausalLM, load_model
from t3d.params import Budget, Experiment
from t3d.progress import Progress
from t3d.provenance import lineage, store, writer
from t3d.trajectories import scoring, shards
from t3d.trajectories.record import Trajectory

_BATCH_SIZE = 32
"""Rollouts scored together."""


@dataclass(frozen=True)
class Chain:
    """One full-step rollout as a model sees it.

    `log_p [S, response]` holds log p(x_0^i | x_k) for the states k = 0..S-1, NaN where token i is visible already;
    `step_map [response]` is the step 1..S that committed each token, `blocks [response]` its block.
    """

    log_p: np.ndarray
    step_map: np.ndarray
    blocks: np.ndarray


def make(experiment: Experiment, model: Path, trajectories: str, shard_manifests: Sequence[Path], out: Path) -> None:
    """Score a set of rollouts with a model and keep, per rollout, the gaps at every decoding interval.

    Args:
        experiment: whose trajectories have `trajectories`.
        model: manifest of the teacher that decoded them, or of a student of it.
        trajectories: its key; the rollouts are full-step.
        shard_manifests: manifests of all of its shards, in any order.
        out: manifest to write; `<trajectories>.parquet` lies beside it, one row per rollout and interval: id,
            interval, gap (sum of log p(x_s | x_t) - sum_i log p(x_s^i | x_t), nats), terms (how many were summed).

    Raises:
        ParameterError: there are no such trajectories, they are not full-step, or the model belongs to another teacher.
        DataError: the shards are not those of `trajectories`, or a rollout is not full-step.
    """
    if trajectories not in experiment.trajectories:
        known = ", ".join(experiment.trajectories) or "none"
        raise ParameterError(f"experiment {experiment.name} has no trajectories {trajectories!r}: {known}.")
    size = Budget.parse(experiment.trajectories[trajectories].budget).block_size
    device = pick_device(experiment)
    name = store.read(model).artefact.partition("/")[2]
    artefact = f"factorisation/{name}/{trajectories}"
    source, *parts = inputs = store.read_inputs(experiment, artefact, [model, *shard_manifests])
    recorded = _read(experiment, trajectories, source, parts)
    with writer.writing(experiment, artefact, out, inputs=inputs, device=device) as job:
        folder = source.folder()
        found = chains(
            load_model(folder, device, lineage.dtype_of(experiment, name)),
            recorded,
            block_size=size,
            mask_id=mask_id(load_tokenizer(folder)),
            on_finished=Progress(f"factorisation {name} {trajectories}", len(recorded)).advance,
        )
        table = per_rollout(found, [rollout.prompt_id for rollout in recorded], intervals_up_to(size))
        table.sort_values(["id", "interval"]).to_parquet(job.file(".parquet"), index=False, compression="zstd")
        job.facts["rollouts"] = len(recorded)


def chains(
    model: SDARForCausalLM,
    rollouts: Sequence[Trajectory],
    *,
    block_size: int,
    mask_id: int,
    on_finished: Callable[[int], None] | None = None,
) -> list[Chain]:
    """Score every state of full-step rollouts with `model`, the teacher or a student of it; see `scoring.in_states`.

    Raises:
        DataError: a rollout is not full-step, so that its states do not form a chain.
    """
    blocks = [(len(t.prompt_ids) + np.arange(len(t.response_ids))) // block_size for t in rollouts]
    for rollout, numbers in zip(rollouts, blocks, strict=True):
        if len(set(zip(numbers.tolist(), rollout.step_map, strict=True))) != len(rollout.step_map):
            raise DataError(
                f"{rollout.prompt_id} commits several tokens in one step: the chain needs full-step rollouts."
            )
    found = scoring.in_states(
        model,
        rollouts,
        block_size=block_size,
        steps=block_size,
        mask_id=mask_id,
        batch_size=_BATCH_SIZE,
        on_finished=on_finished,
    )
    return [
        Chain(log_p.double().numpy(), np.array(rollout.step_map), numbers)
        for rollout, log_p, numbers in zip(rollouts, found, blocks, strict=True)
    ]


def gaps(chain: Chain, interval: int) -> tuple[float, int]:
    """Sum of log p(x_s | x_t) - sum_i log p(x_s^i | x_t) over a rollout, and the number of its terms.

    Args:
        chain: the rollout.
        interval: decoding interval: x_t are the states 0, d, 2d, .. of each block, x_s the states d steps later.
    """
    starts = (chain.step_map - 1) // interval * interval
    token = np.arange(len(starts))
    joint = chain.log_p[chain.step_map - 1, token]
    factorised = chain.log_p[starts, token]
    terms = len(set(zip(chain.blocks.tolist(), starts.tolist(), strict=True)))
    return float((joint - factorised).sum()), terms


def per_rollout(rollouts: Sequence[Chain], ids: Sequence[str], intervals: Sequence[int]) -> pd.DataFrame:
    """The gaps of every rollout at every interval: one row each, columns id, interval, gap (nats) and terms.

    Raises:
        DecodingError: a gap is not finite.
    """
    rows = [
        (name, interval, *gaps(chain, interval))
        for name, chain in zip(ids, rollouts, strict=True)
        for interval in intervals
    ]
    for name, interval, gap, _ in rows:
        if not math.isfinite(gap):
            raise DecodingError(f"{name}: the model computes NaN or infinity; the gap at interval {interval} is {gap}.")
    return pd.DataFrame(rows, columns=["id", "interval", "gap", "terms"])


def intervals_up_to(steps: int) -> list[int]:
    """Decoding intervals that are measured for S steps a block: the powers of two below S, and S."""
    return sorted({2**power for power in range(steps.bit_length())} | {steps})


def _read(
    experiment: Experiment, trajectories: str, source: store.Manifest, shard_manifests: Sequence[store.Manifest]
) -> list[Trajectory]:
    """The rollouts that are scored, in one order whatever the number of shards: those of like length together."""
    spec = experiment.trajectories[trajectories]
    budget = Budget.parse(spec.budget)
    if budget.steps != budget.block_size:
        raise ParameterError(
            f"params/{experiment.name}.yaml: trajectories.{trajectories}.budget is {spec.budget}; the factorisation "
            f"error is measured on full-step rollouts, b{budget.block_size}s{budget.block_size}."
        )
    teacher = f"teachers/{experiment.prompt_sets[spec.prompts].teacher}"
    if teacher not in source.recipes:
        raise ParameterError(
            f"{source.path}: {source.artefact} is neither {teacher}, whose rollouts are scored, nor its student."
        )
    vocabulary = read_config(source.folder())["vocab_size"]
    rollouts: list[Trajectory] = []
    for manifest in shard_manifests:
        read = shards.read(manifest.file(".parquet"), vocabulary)[0]
        manifest.check_count("trajectories", len(read))
        rollouts += read
    return sorted(rollouts, key=lambda t: (len(t.prompt_ids) + len(t.response_ids), t.prompt_id))
