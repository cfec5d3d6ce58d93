"""Rollouts: the teacher decodes its prompts full-step and every commit is recorded.

A rollout depends on its prompt alone: which shard it is in, which process decodes it, and who shares its batch, changes
nothing.
"""

import time
from contextlib import ExitStack
from pathlib import Path

from t3d import processes, receipts
from t3d.decoding.decoder import Request, decode
from t3d.errors import ParameterError
from t3d.models.device import pick_device
from t3d.models.sdar import load_model, load_tokenizer, mask_id, stop_ids
from t3d.params import Budget, Experiment
from t3d.progress import Progress
from t3d.prompts import sets
from t3d.seeds import seed_for
from t3d.trajectories import shards
from t3d.trajectories.names import shard_names
from t3d.trajectories.record import Trajectory


def make(experiment: Experiment, name: str, shard: str, teacher: Path, prompts: Path, out: Path) -> None:
    """Decode one shard of trajectories `name`.

    Args:
        experiment: whose `trajectories` has `name`.
        name: key of the trajectories.
        shard: `<index>-of-<count>`; prompt i is in shard i mod count.
        teacher: the teacher's manifest.
        prompts: the prompt set's manifest.
        out: manifest to write; `<shard>.parquet` lies beside it.
    """
    device = processes.join(pick_device(experiment), "gloo")
    with ExitStack() as stack:
        with processes.together():
            if name not in experiment.trajectories:
                raise ParameterError(f"experiment {experiment.name} has no trajectories {name!r}.")
            spec = experiment.trajectories[name]
            index, count = _parse(shard, spec.shards)
            budget = Budget.parse(spec.budget)
            if budget.steps is None:
                raise ParameterError(
                    f"trajectories.{name}.budget: a rollout needs steps per block, found {spec.budget}."
                )
            inputs = [receipts.read(teacher, kind="teachers"), receipts.read(prompts, kind="prompts")]
            folder, dtype = inputs[0].folder(), experiment.dtype_of(inputs[0].artefact.partition("/")[2])
            mine = sets.read(inputs[1])[index::count]
            requests = [Request(p.prompt_ids, seed_for(experiment.seed, "rollout", p.id)) for p in mine]
            advance = None
            if processes.is_main():
                advance = Progress(f"rollouts {name} {shard}", len(requests)).advance
                artefact = f"trajectories/{name}/{shard}"
                job = stack.enter_context(receipts.making(experiment, artefact, out, inputs=inputs, device=device))
            model, tokenizer = load_model(folder, device, dtype), load_tokenizer(folder)
        started = time.monotonic()
        responses = processes.share(
            requests,
            lambda some, on_finished: decode(
                model,
                some,
                budget,
                mask_id=mask_id(tokenizer),
                stop_ids=stop_ids(folder),
                max_new_tokens=spec.max_new_tokens,
                sample=spec.sampling,
                batch_size=spec.batch_size,
                on_finished=on_finished,
            ),
            advance,
        )
        seconds = time.monotonic() - started
        with processes.together():
            if processes.is_main():
                trajectories = [
                    Trajectory(p.id, p.prompt_ids, r.ids, r.step_map, r.confidence, r.finish_reason, request.seed)
                    for p, request, r in zip(mine, requests, responses, strict=True)
                ]
                digest, temperature = inputs[0].digest(), spec.sampling.temperature
                metadata = shards.ShardMetadata(digest, budget.block_size, budget.steps, temperature)
                shards.write(job.file(".parquet"), trajectories, metadata)
                tokens = sum(r.length for r in responses)
                job.facts |= {"trajectories": len(trajectories), "response_tokens": tokens}
                job.receipt["speed"] = {
                    "tokens_per_second": tokens / seconds,
                    "batch_size": spec.batch_size,
                    "processes": processes.count(),
                }
    processes.leave()


def _parse(shard: str, count: int) -> tuple[int, int]:
    if shard not in shard_names(count):
        raise ParameterError(f"no shard {shard!r}; the experiment has {', '.join(shard_names(count))}.")
    return int(shard.split("-")[0]), count
