"""The stage that answers a benchmark at one budget: decode, and keep ids, step maps and confidences.

Diffusion LMs decode in this process, or in several like it; an autoregressive model is served by vLLM in another, or by
the engine in this one (`vllm_client.py`), and has one budget, `b1s1`. `scores.py` judges what is kept here.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from t3d.decoding.decoder import decode
from t3d.decoding.request import DecodingOptions, Request, Response
from t3d.distributed import collectives
from t3d.distributed.gpus import jobs_on_gpu, pick_device
from t3d.errors import ParameterError
from t3d.evaluation import vllm_client
from t3d.models import autoregressive
from t3d.models.folder import load_tokenizer, mask_id, read_config, stop_ids
from t3d.models.sdar import SDARForCausalLM, load_model
from t3d.params import AUTOREGRESSIVE, Budget, Experiment, PromptSet, read_budget
from t3d.progress import Progress
from t3d.prompts.reader import Prompt, encode_prompt, read_prompts
from t3d.provenance import lineage, store, writer
from t3d.provenance.environment import device_name
from t3d.provenance.parquet import ANSWERS
from t3d.seeds import seed_for


def make(experiment: Experiment, benchmark: str, budget: str, model: Path, prompts: Path, out: Path) -> None:
    """Answer `benchmark` with a model at a budget.

    Args:
        experiment: whose benchmarks have `benchmark`.
        benchmark: its key.
        budget: `b8s2` or `b8t0.9`.
        model: manifest of a teacher or a student.
        prompts: manifest of the benchmark's prompt set.
        out: manifest to write; `<budget>.parquet` lies beside it.

    Raises:
        ParameterError: there is no such benchmark, the prompts do not fit the model, or an autoregressive model is
            asked at a budget that it does not have.
        DataError: the prompts are not the benchmark's, or `model` is no model.
        MissingInputError, ServingError: vLLM is needed and not there, or did not answer.
    """
    device = collectives.init_process_group(pick_device(experiment), "gloo")
    with ExitStack() as stack:
        with collectives.raise_on_all_ranks():
            if benchmark not in experiment.benchmarks:
                raise ParameterError(f"experiment {experiment.name} has no benchmark {benchmark!r}.")
            read_budget(budget)
            name = store.read(model).artefact.partition("/")[2]
            artefact = f"answers/{name}/{benchmark}/{budget}"
            source, questions = inputs = store.read_inputs(experiment, artefact, [model, prompts])
            is_served = name in experiment.teachers and experiment.teachers[name].autoregressive
            if is_served and budget != AUTOREGRESSIVE:
                raise ParameterError(f"{artefact}: {name} is autoregressive and has no budget but {AUTOREGRESSIVE}.")
            if collectives.is_main():
                job = stack.enter_context(writer.writing(experiment, artefact, out, inputs=inputs, device=device))
        before = jobs_on_gpu(device)
        if is_served:
            rows, speed = _served(experiment, benchmark, source, questions, device)
        else:
            rows, speed = _decoded(experiment, benchmark, budget, source, questions, device)
        with collectives.raise_on_all_ranks():
            if collectives.is_main():
                pq.write_table(pa.Table.from_pylist(rows, schema=ANSWERS), job.file(".parquet"), compression="zstd")
                job.facts["questions"] = len(rows)
                batch_size = experiment.benchmarks[benchmark].batch_size
                job.receipt["decoding"] = speed | {"batch_size": batch_size, "device": _devices(device)}
                # A speed says less the more jobs shared the GPU.
                if before and (after := jobs_on_gpu(device)):
                    job.receipt["decoding"]["gpu_jobs"] = max(before, after)
    collectives.destroy_process_group()


_Answered = tuple[list[dict[str, Any]], dict[str, Any]]
"""A row of `ANSWERS` per question, and what the receipt says of the speed."""


def _decoded(
    experiment: Experiment,
    benchmark: str,
    budget: str,
    source: store.Manifest,
    questions: store.Manifest,
    device: str,
) -> _Answered:
    with collectives.raise_on_all_ranks():
        spec, name, folder = experiment.benchmarks[benchmark], source.artefact.partition("/")[2], source.folder()
        tokenizer = load_tokenizer(folder)
        prompts = read_prompts(questions, read_config(folder)["vocab_size"])
        title = f"answers {name} {benchmark} {budget}"
        advance = Progress(title, len(prompts)).advance if collectives.is_main() else None
        _check_prompts(experiment.prompt_sets[spec.prompts], prompts, tokenizer, name)
        model = _loaded(folder, source.digest(), device, lineage.dtype_of(experiment, name))
        mask = mask_id(tokenizer)
    how = DecodingOptions(spec.max_new_tokens, stop_ids(folder), mask, spec.sampling, spec.batch_size)
    requests = [Request(p.prompt_ids, seed_for(experiment.seed, "answer", p.id), p.id) for p in prompts]
    started = time.monotonic()
    responses = collectives.map_over_ranks(
        requests,
        lambda some, on_finished: decode(model, some, Budget.parse(budget), how, on_finished),
        advance,
    )
    seconds = time.monotonic() - started
    rows = [_row(tokenizer, prompt.id, response) for prompt, response in zip(prompts, responses, strict=True)]
    return rows, {"tokens_per_second": sum(row["response_tokens"] for row in rows) / seconds}


@lru_cache(maxsize=1)
def _loaded(folder: Path, digest: str, device: str, dtype: str) -> SDARForCausalLM:
    """The model of a folder whose manifest has this digest; a process that answers at several budgets loads it once."""
    return load_model(folder, device, dtype)


def _served(
    experiment: Experiment, benchmark: str, source: store.Manifest, questions: store.Manifest, device: str
) -> _Answered:
    """The same of an autoregressive model; the receipt also has the speed of one question at a time."""
    spec, name, folder = experiment.benchmarks[benchmark], source.artefact.partition("/")[2], source.folder()
    suffix = experiment.prompt_sets[spec.prompts].suffix
    tokenizer = autoregressive.load_tokenizer(folder)
    # Its own chat template asks the same text; where that is the teacher's, the ids are those of the prompt set.
    # Qwen3's chat models would think aloud first, which the diffusion LMs made of them do not.
    requests = [
        Request(
            encode_prompt(tokenizer, prompt.text + suffix, enable_thinking=False),
            seed_for(experiment.seed, "answer", prompt.id),
            prompt.id,
        )
        for prompt in read_prompts(questions)
    ]
    dtype = lineage.dtype_of(experiment, name)
    if experiment.teachers[name].engine is None:
        found = vllm_client.answer(folder, requests, spec, device, dtype)
    else:
        found = vllm_client.answer_here(folder, requests, spec, device, dtype)
    rows = [_row(tokenizer, key, response) for key, response in found.responses.items()]
    alone = found.one_at_a_time
    return rows, {
        "tokens_per_second": sum(row["response_tokens"] for row in rows) / found.seconds,
        "engine": found.engine,
        "one_at_a_time": {
            "questions": alone["questions"],
            "tokens_per_second": alone["response_tokens"] / alone["seconds"],
            "latency_seconds": alone["seconds"] / alone["questions"],
        },
    }


def _devices(device: str) -> str:
    """What decodes, as tables name it: `4 x NVIDIA H100` for four processes."""
    name, count = device_name(device), collectives.world_size()
    return name if count == 1 else f"{count} x {name}"


def _check_prompts(spec: PromptSet, prompts: Sequence[Prompt], tokenizer, model: str) -> None:
    """Check that a model's own tokenizer and chat template would ask the same ids: they may be another teacher's."""
    for prompt in prompts[:1]:
        if encode_prompt(tokenizer, prompt.text + spec.suffix) != prompt.prompt_ids:
            raise ParameterError(
                f"{model} has another tokenizer or chat template than teacher {spec.teacher}, whose ids ask the "
                "questions of this benchmark. Declare a prompt set of its own teacher."
            )


def _row(tokenizer, key: str, response: Response) -> dict[str, Any]:
    return {
        "id": key,
        "text": tokenizer.decode(response.ids[: response.length], skip_special_tokens=True),
        "response_ids": response.ids,
        "step_map": response.step_map,
        "confidence": response.confidence,
        "response_tokens": response.length,
        "denoising_steps": response.denoising_steps,
        "commit_passes": response.commit_passes,
        "finish_reason": response.finish_reason,
    }
