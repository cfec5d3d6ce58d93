"""Answers of an autoregressive teacher to prompts, drawn from it: what its conversion learns from.

An answer depends on its prompt and its number alone: which shard it is in and who shares its batch changes nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from t3d import receipts
from t3d.decoding import causal
from t3d.decoding.decoder import Request
from t3d.errors import CorruptArtefactError, DataError, ParameterError
from t3d.models import autoregressive
from t3d.models.device import pick_device
from t3d.models.folder import stop_ids
from t3d.params import Experiment
from t3d.progress import Progress
from t3d.prompts import sets
from t3d.seeds import seed_for
from t3d.trajectories.names import shard_names

_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("sample", pa.int32()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Generation:
    """Answer number `sample` to a prompt; `response_ids` ends with the token that ended it, if one did."""

    prompt_id: str
    sample: int
    prompt_ids: list[int]
    response_ids: list[int]
    finish_reason: str
    seed: int


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
    if name not in experiment.generations:
        raise ParameterError(f"experiment {experiment.name} has no generations {name!r}.")
    spec = experiment.generations[name]
    if shard not in (names := shard_names(spec)):
        raise ParameterError(f"no shard {shard!r}; the experiment has {', '.join(names)}.")
    artefact = f"generations/{name}/{shard}"
    inputs = receipts.read_inputs(experiment, artefact, [teacher, prompts])
    device, folder = pick_device(experiment), inputs[0].folder()
    with receipts.making(experiment, artefact, out, inputs=inputs, device=device) as job:
        asked = [
            (prompt, sample)
            for prompt in sets.read(inputs[1])[names.index(shard) :: spec.shards]
            for sample in range(spec.samples)
        ]
        requests = [Request(p.prompt_ids, seed_for(experiment.seed, "generation", p.id, n)) for p, n in asked]
        model = autoregressive.load_model(folder, device, experiment.dtype_of(inputs[0].artefact.partition("/")[2]))
        started = time.monotonic()
        responses = causal.generate(
            model,
            requests,
            stop_ids=stop_ids(folder),
            max_new_tokens=spec.max_new_tokens,
            sample=spec.sampling,
            batch_size=spec.batch_size,
            on_finished=Progress(f"generations {name} {shard}", len(requests)).advance,
        )
        seconds = time.monotonic() - started
        rows = [
            Generation(p.id, n, p.prompt_ids, r.ids, r.finish_reason, request.seed)
            for (p, n), request, r in zip(asked, requests, responses, strict=True)
        ]
        complete = sum(row.finish_reason == "stop" for row in rows)
        if not complete:
            raise DataError(
                f"{artefact}: all {len(rows)} answers reached generations.{name}.max_new_tokens "
                f"({spec.max_new_tokens}) and none came to an end. Raise it, or check the model's chat template and "
                "its eos_token_id."
            )
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA), job.file(".parquet"))
        tokens = sum(len(row.response_ids) for row in rows)
        job.facts |= {"answers": len(rows), "complete": complete, "response_tokens": tokens}
        job.receipt["speed"] = {"tokens_per_second": tokens / seconds, "batch_size": spec.batch_size}


def read(path: Path) -> list[Generation]:
    """Read a shard.

    Raises:
        CorruptArtefactError: it is not one, or a row's answer is empty.
    """
    try:
        table = pq.read_table(path, schema=_SCHEMA)
    except (pa.ArrowException, OSError) as error:
        raise CorruptArtefactError(f"{path} is not a shard of generations: {error}.") from error
    rows = [Generation(**row) for row in table.to_pylist()]
    for number, row in enumerate(rows):
        if not row.prompt_ids or not row.response_ids:
            raise CorruptArtefactError(f"{path}, row {number}: prompt_ids or response_ids is empty.")
    return rows


def complete(rows: Sequence[Generation]) -> list[Generation]:
    """Those that came to an end by themselves."""
    return [row for row in rows if row.finish_reason == "stop"]
