"""The stage that judges an autoregressive model's own answers, so that its conversion can learn from right ones only.

They are judged as answers to a benchmark are (`scores.py`), by the task that the generations name. Only answers that
came to an end are judged, since nothing learns from others. No model is needed, only the tokenizer.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from t3d.errors import DataError, ParameterError
from t3d.evaluation import scores
from t3d.evaluation.programs import UNTESTED
from t3d.models import autoregressive
from t3d.params import Experiment
from t3d.prompts import generated
from t3d.prompts.reader import read_prompts
from t3d.provenance import store, writer
from t3d.provenance.parquet import JUDGED


def make(experiment: Experiment, name: str, shard: str, inputs: Sequence[Path], out: Path) -> None:
    """Judge the complete answers of one shard of generations `name`.

    Args:
        experiment: whose `generations` has `name`, with a `task`.
        name: key of the generations.
        shard: `<index>-of-<count>`.
        inputs: manifests of the teacher that answered, the prompt set and the shard.
        out: manifest to write; `<shard>.parquet` lies beside it.

    Raises:
        ParameterError: there are no such generations, or they have no task.
        DataError: the inputs are others, or an answer is to no question of the prompt set.
    """
    if name not in experiment.generations:
        raise ParameterError(f"experiment {experiment.name} has no generations {name!r}.")
    task = experiment.generations[name].task
    if task is None:
        raise ParameterError(
            f"params/{experiment.name}.yaml: generations.{name} has no `task` that says which answers are right."
        )
    artefact = f"verdicts/{name}/{shard}"
    teacher, prompts, answers = read = store.read_inputs(experiment, artefact, inputs)
    tokenizer = autoregressive.load_tokenizer(teacher.folder())
    asked = {prompt.id: prompt for prompt in read_prompts(prompts)}
    rows = generated.read(answers.file(".parquet"))
    if others := [row.prompt_id for row in rows if row.prompt_id not in asked]:
        raise DataError(f"{answers.path}: {len(others)} answers are to no question of {prompts.path} ({others[0]!r}).")
    complete = generated.complete(rows)
    with writer.writing(experiment, artefact, out, inputs=read) as job:
        texts = tokenizer.batch_decode([row.response_ids for row in complete], skip_special_tokens=True)
        judged = scores.judge(
            task,
            # A prompt was asked several times, and each answer is judged.
            [replace(asked[row.prompt_id], id=row.id) for row in complete],
            {row.id: text for row, text in zip(complete, texts, strict=True)},
            f"programs {name} {shard}",
        )
        found = [{"id": key, **verdict} for key, verdict in judged.items()]
        pq.write_table(pa.Table.from_pylist(found, schema=JUDGED), job.file(".parquet"), compression="zstd")
        job.facts |= {"answers": len(rows), "complete": len(complete), "right": sum(row["correct"] for row in found)}
        if untested := sum(row["reason"] == UNTESTED for row in found):
            job.facts["untested"] = untested
        print(f"verdicts {name} {shard}: {job.facts}", flush=True)
