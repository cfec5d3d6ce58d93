"""Answers that an autoregressive teacher samples to prompts; its conversion learns from them.

An answer depends on its prompt and its number alone, not on its shard or on the rest of its batch.
"""

from contextlib import ExitStack
from pathlib import Path

from t3d.decoding import engine
from t3d.decoding.request import NO_MASK, DecodingOptions, Request
from t3d.distributed import collectives
from t3d.distributed.gpus import pick_device
from t3d.errors import DataError, ParameterError
from t3d.models import autoregressive
from t3d.models.folder import stop_ids
from t3d.params import Experiment
from t3d.prompts import generated
from t3d.prompts.reader import read_prompts
from t3d.provenance import lineage, store, writer
from t3d.provenance.lineage import shard_names
from t3d.seeds import seed_for
from t3d.trajectories.rollout import decode_on_all_ranks


def make(experiment: Experiment, name: str, shard: str, teacher: Path, prompts: Path, out: Path) -> None:
    """Answer one shard of the prompts of generations `name`.

    Args:
        experiment: whose `generations` has `name`.
        name: key of the generations.
        shard: `<index>-of-<count>`; prompt i is in shard i mod count.
        teacher: manifest of the autoregressive teacher.
        prompts: manifest of the prompt set.
        out: manifest to write; `<shard>.parquet` lies beside it.

    Raises:
        ParameterError: there are no such generations or no such shard.
        DataError: the shard is made from other artefacts than those given, or no answer came to an end.
    """
    device = collectives.init_process_group(pick_device(experiment), "gloo")
    with ExitStack() as stack:
        with collectives.raise_on_all_ranks():
            if name not in experiment.generations:
                raise ParameterError(f"experiment {experiment.name} has no generations {name!r}.")
            spec = experiment.generations[name]
            if shard not in (names := shard_names(spec)):
                raise ParameterError(f"no shard {shard!r}; the experiment has {', '.join(names)}.")
            artefact = f"generations/{name}/{shard}"
            inputs = store.read_inputs(experiment, artefact, [teacher, prompts])
            folder, dtype = inputs[0].folder(), lineage.dtype_of(experiment, inputs[0].artefact.partition("/")[2])
            asked = [
                (prompt, sample)
                for prompt in read_prompts(inputs[1])[names.index(shard) :: spec.shards]
                for sample in range(spec.samples)
            ]
            requests = [Request(p.prompt_ids, seed_for(experiment.seed, "generation", p.id, n)) for p, n in asked]
            if collectives.is_main():
                job = stack.enter_context(writer.writing(experiment, artefact, out, inputs=inputs, device=device))
            model = autoregressive.load_model(folder, device, dtype)
            options = DecodingOptions(spec.max_new_tokens, stop_ids(folder), NO_MASK, spec.sampling, spec.batch_size)
        responses, facts, speed = decode_on_all_ranks(
            requests,
            lambda some, on_finished: engine.run(model, some, None, options, on_finished),
            options,
            f"generations {name} {shard}",
        )
        rows = [
            generated.Generation(p.id, n, p.prompt_ids, r.ids, r.finish_reason, request.seed)
            for (p, n), request, r in zip(asked, requests, responses, strict=True)
        ]
        finished = len(generated.complete(rows))
        with collectives.raise_on_all_ranks():
            if not finished:
                raise DataError(
                    f"{artefact}: all {len(rows)} answers reached generations.{name}.max_new_tokens "
                    f"({spec.max_new_tokens}) and none came to an end. Raise it, or check the model's chat template "
                    "and its eos_token_id."
                )
            if collectives.is_main():
                generated.write(rows, job.file(".parquet"))
                job.facts |= {"answers": len(rows), "complete": finished} | facts
                job.receipt["speed"] = speed
    collectives.destroy_process_group()
