"""Rollouts: a teacher, or a student of it, decodes prompts full-step and every commit is recorded.

A rollout depends on its prompt alone, not on its shard, on the process that decodes it, or on the rest of its batch.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from t3d.decoding.decoder import decode
from t3d.decoding.request import DecodingOptions, Request, Response
from t3d.distributed import collectives
from t3d.distributed.gpus import pick_device
from t3d.errors import ParameterError
from t3d.models.folder import load_tokenizer, mask_id, read_config, stop_ids
from t3d.models.sdar import SDARForCausalLM, load_model
from t3d.params import Budget, Experiment, Trajectories
from t3d.progress import Progress
from t3d.prompts.reader import read_prompts
from t3d.provenance import lineage, store, writer
from t3d.provenance.lineage import shard_names
from t3d.seeds import seed_for
from t3d.trajectories import scoring, shards
from t3d.trajectories.record import Trajectory


def make(
    experiment: Experiment,
    name: str,
    shard: str,
    teacher: Path,
    prompts: Path,
    out: Path,
    *student: Path,
) -> None:
    """Decode one shard of trajectories `name`, and score it if they are `scored`.

    Args:
        experiment: whose `trajectories` has `name`.
        name: key of the trajectories.
        shard: `<index>-of-<count>`, or `seed<seed>-<index>-of-<count>` where a student decodes; prompt i is in shard i
            mod count.
        teacher: manifest of the prompt set's teacher, which decodes unless a student does, and scores.
        prompts: the prompt set's manifest.
        out: manifest to write; `<shard>.parquet` lies beside it.
        student: manifest of the run that decodes, where the trajectories have a `model`.

    Raises:
        ParameterError: there are no such trajectories or no such shard, or their budget has no steps.
        DataError: the shard is made from other artefacts than those given.
        DecodingError: the model computes NaN or infinity; the message names the prompt.
    """
    device = collectives.init_process_group(pick_device(experiment), "gloo")
    with ExitStack() as stack:
        with collectives.raise_on_all_ranks():
            if name not in experiment.trajectories:
                raise ParameterError(f"experiment {experiment.name} has no trajectories {name!r}.")
            spec = experiment.trajectories[name]
            index = _index(experiment, spec, shard)
            budget = Budget.parse(spec.budget)
            if budget.steps is None:
                raise ParameterError(
                    f"trajectories.{name}.budget: a rollout needs steps per block, found {spec.budget}."
                )
            artefact = f"trajectories/{name}/{shard}"
            inputs = store.read_inputs(experiment, artefact, [teacher, prompts, *student])
            decoder = inputs[0] if spec.model is None else inputs[2]
            folder, dtype = inputs[0].folder(), lineage.dtype_of(experiment, inputs[0].artefact.partition("/")[2])
            mine = read_prompts(inputs[1], read_config(folder)["vocab_size"])[index :: spec.shards]
            requests = [Request(p.prompt_ids, seed_for(experiment.seed, "rollout", p.id), p.id) for p in mine]
            if collectives.is_main():
                job = stack.enter_context(writer.writing(experiment, artefact, out, inputs=inputs, device=device))
            model, mask = load_model(decoder.folder(), device, dtype), mask_id(load_tokenizer(folder))
            options = DecodingOptions(spec.max_new_tokens, stop_ids(folder), mask, spec.sampling, spec.batch_size)
        responses, facts, speed = decode_on_all_ranks(
            requests,
            lambda some, on_finished: decode(model, some, budget, options, on_finished),
            options,
            f"rollouts {name} {shard}",
        )
        trajectories = [
            Trajectory(p.id, p.prompt_ids, r.ids, r.step_map, r.confidence, r.finish_reason, request.seed)
            for p, request, r in zip(mine, requests, responses, strict=True)
        ]
        if spec.scored:
            with collectives.raise_on_all_ranks():
                if student:
                    # Freed before the teacher takes its place in memory.
                    del model
                    model = load_model(folder, device, dtype)
            trajectories = _scored(model, trajectories, spec, mask, f"scores {name} {shard}")
        with collectives.raise_on_all_ranks():
            if collectives.is_main():
                digest, temperature = decoder.digest(), spec.sampling.temperature
                metadata = shards.ShardMetadata(digest, budget.block_size, budget.steps, temperature)
                shards.write(job.file(".parquet"), trajectories, metadata)
                job.facts |= {"trajectories": len(trajectories)} | facts
                job.receipt["speed"] = speed
    collectives.destroy_process_group()


def decode_on_all_ranks(
    requests: Sequence[Request],
    decode: Callable[[Sequence[Request], Callable[[int], None] | None], list[Response]],
    options: DecodingOptions,
    title: str,
) -> tuple[list[Response], dict[str, int], dict[str, float]]:
    """Decode a shard, shared among the processes.

    Args:
        requests: the same in every process.
        decode: decodes this process's share; see `collectives.map_over_ranks`.
        options: how it does.
        title: shown with the progress.

    Returns:
        The responses of all processes, what the manifest says of their length, and what the receipt says of the speed.
    """
    started = time.monotonic()
    advance = Progress(title, len(requests)).advance if collectives.is_main() else None
    responses = collectives.map_over_ranks(requests, decode, advance)
    tokens = sum(response.length for response in responses)
    speed = {
        "tokens_per_second": tokens / (time.monotonic() - started),
        "batch_size": options.batch_size,
        "processes": collectives.world_size(),
    }
    return responses, {"response_tokens": tokens}, speed


def _scored(
    teacher: SDARForCausalLM, trajectories: Sequence[Trajectory], spec: Trajectories, mask: int, title: str
) -> list[Trajectory]:
    budget = Budget.parse(spec.budget)
    assert budget.steps is not None
    options = {"block_size": budget.block_size, "steps": budget.steps, "mask_id": mask}
    # A row is held twice and as a whole: fewer rows fit than when blocks are decoded against a cache.
    batch_size = max(1, spec.batch_size // 4)
    found = collectives.map_over_ranks(
        trajectories,
        lambda some, on_finished: scoring.scores(
            teacher, some, **options, batch_size=batch_size, on_finished=on_finished
        ),
        Progress(title, len(trajectories)).advance if collectives.is_main() else None,
    )
    return [replace(trajectory, score=score) for trajectory, score in zip(trajectories, found, strict=True)]


def _index(experiment: Experiment, spec: Trajectories, shard: str) -> int:
    seeds = (0,) if spec.model is None else experiment.students[spec.model].seeds
    numbers = {name: index for seed in seeds for index, name in enumerate(shard_names(spec, seed))}
    if shard not in numbers:
        raise ParameterError(f"no shard {shard!r}; the experiment has {', '.join(numbers)}.")
    return numbers[shard]
