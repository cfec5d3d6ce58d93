"""Answers of an autoregressive model, which vLLM serves in a separate environment, or the engine in this one.

vLLM's pins exclude the main environment, so it is a process (`vllm_backend.py`) between two files: prompts as ids go
in, responses as ids come out. `make vllm-env` makes the environment; docs/vllm.md says what was run where.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from t3d.decoding.request import NO_MASK, DecodingOptions, Request, Response
from t3d.errors import DataError, MissingInputError, ServingError
from t3d.models import autoregressive
from t3d.models.folder import stop_ids
from t3d.params import Benchmark
from t3d.provenance.lineage import VLLM

ONE_AT_A_TIME = 32
"""Questions that are also asked one at a time, for the latency of a request that has the machine to itself."""
_ROOT = Path(__file__).parents[2]
_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # On a CPU: GiB, more than any pocket model fills; and as many threads as the job has, not every core there is.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


@dataclass(frozen=True)
class Served:
    """What was answered, by question id, and how fast.

    `seconds` is the time of all answers together, `one_at_a_time` has `questions`, `response_tokens` and `seconds` of
    those that were asked again one after the other; starting the engine is in neither. `engine`: its name and version.
    """

    responses: dict[str, Response]
    seconds: float
    one_at_a_time: dict[str, float]
    engine: str


def answer(
    folder: Path,
    requests: Sequence[Request],
    benchmark: Benchmark,
    device: str,
    dtype: str,
) -> Served:
    """Answer a benchmark with a Qwen2 or Qwen3 folder, by vLLM.

    Args:
        folder: the model.
        requests: the questions, each under its id.
        benchmark: sampling, longest answer, and how many sequences are decoded together.
        device: `cpu` or `cuda`, which vLLM must be built for.
        dtype: number format, `float32` or `bfloat16`.

    Raises:
        MissingInputError: vLLM's environment is not there.
        ServingError: vLLM ended without answers; the log above says why.
        DataError: a question has no answer.
        CorruptArtefactError: the model's weights are not whole.
    """
    if not (VLLM / "installed").is_file():
        raise MissingInputError(
            f"{VLLM}/installed is missing: `make vllm-env` makes vLLM's environment (docs/vllm.md)."
        )
    # vLLM itself would serve damaged weights without an error.
    autoregressive.load_model(folder, dtype=dtype)
    sampling = benchmark.sampling.model_dump(include={"temperature", "top_p", "top_k"})
    found = _run(
        {
            "model": str(folder.resolve()),
            "prompts": {request.name: request.prompt_ids for request in requests},
            "seeds": {request.name: request.seed for request in requests},
            "stop_ids": sorted(stop_ids(folder)),
            "sampling": sampling,
            "max_new_tokens": benchmark.max_new_tokens,
            "batch_size": benchmark.batch_size,
            "one_at_a_time": ONE_AT_A_TIME,
            "device": device,
            "dtype": dtype,
        }
    )
    missing = [request.name for request in requests if request.name not in found["responses"]]
    if missing:
        raise DataError(f"vLLM left {len(missing)} of {len(requests)} questions unanswered (e.g. {missing[0]}).")
    return Served(
        {request.name: _response(**found["responses"][request.name]) for request in requests},
        found["seconds"],
        found["one_at_a_time"],
        found["engine"],
    )


def answer_here(folder: Path, requests: Sequence[Request], benchmark: Benchmark, device: str, dtype: str) -> Served:
    """The same with the engine of `t3d/decoding/engine.py`; arguments as in `answer`.

    Raises:
        MemoryTooSmallError: so many sequences do not fit into the GPU's memory.
    """
    # Imported here: with vLLM nothing of it is needed.
    from t3d.decoding import engine

    model, stops = autoregressive.load_model(folder, device, dtype), stop_ids(folder)

    def ask(some: Sequence[Request], together: int) -> tuple[list[Response], float]:
        started = time.monotonic()
        options = DecodingOptions(benchmark.max_new_tokens, stops, NO_MASK, benchmark.sampling, together)
        return engine.run(model, some, None, options), time.monotonic() - started

    responses, seconds = ask(requests, benchmark.batch_size)
    alone, seconds_alone = ask(requests[:ONE_AT_A_TIME], 1)
    one_at_a_time = {
        "questions": len(alone),
        "response_tokens": sum(response.length for response in alone),
        "seconds": seconds_alone,
    }
    names = (request.name for request in requests)
    return Served(dict(zip(names, responses, strict=True)), seconds, one_at_a_time, "t3d")


def _run(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder, "request.json"), Path(folder, "response.json")
        asked.write_text(json.dumps(request))
        command = [str(VLLM / "bin" / "python"), "-m", "t3d.evaluation.vllm_backend", str(asked), str(told)]
        settings = _SETTINGS | os.environ | {"PYTHONPATH": str(_ROOT)}
        if request["device"] == "cuda" and torch.cuda.device_count() > 1:
            # The GPU that this job has claimed, and no other.
            settings["CUDA_VISIBLE_DEVICES"] = f"GPU-{torch.cuda.get_device_properties().uuid}"
        done = subprocess.run(command, env=settings)
        if done.returncode or not told.is_file():
            raise ServingError(f"vLLM ended with status {done.returncode} and gave no answers; the log above says why.")
        return json.loads(told.read_text())


def _response(ids: list[int], finish_reason: str) -> Response:
    """A block of one token and one step for each token.

    Confidences cost time and are not asked for: they are NaN in the answers of served models, and in no others.
    """
    count = len(ids)
    return Response(ids, [1] * count, [float("nan")] * count, count, finish_reason, count, 0)
