"""vLLM's autoregressive decoding of a random model, timed; `benchmarks/decode.py --with-vllm` starts it.

    python -m benchmarks.decode_vllm request.json measured.json

Called so, it runs with the Python that has vLLM, which may be another environment's. The request has `config` (a
Hugging Face configuration), `batches`, `prompt`, `response` and `repeats`. Tokens per second are those of steady
decoding: what the tokens after the first 8 take, measured as the difference of two runs.
"""

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from t3d.errors import ParameterError
from t3d.provenance.lineage import VLLM

ROOT = Path(__file__).parents[1]
SKIPPED = 8
"""Tokens of each sequence that are not timed."""
_VLLM_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # Its kernels come from another package, which decoding greedily does not need.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    # In one process, which is faster here, and on this machine alone.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}


def python_of_vllm() -> Path:
    """The Python that has vLLM: of its environment, else this one.

    Raises:
        ParameterError: neither has it.
    """
    if (VLLM / "installed").is_file():
        return VLLM / "bin" / "python"
    if importlib.util.find_spec("vllm") is not None:
        return Path(sys.executable)
    raise ParameterError(
        "--with-vllm: vLLM is not installed. `make vllm-env VLLM_FOR=cuda` makes its environment (docs/vllm.md); "
        "without --with-vllm the other decoders are measured."
    )


def vllm_request(config: Any, batches: list[int], prompt: int, response: int, repeats: int) -> dict[str, Any]:
    """What this file is asked for: the autoregressive model of an SDAR's shape, and the batch sizes."""
    same = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    )
    same += "max_position_embeddings tie_word_embeddings rms_norm_eps hidden_act"
    kind = "qwen2" if config.qkv_bias else "qwen3"
    described = {name: getattr(config, name) for name in same.split()} | {
        "model_type": kind,
        "architectures": [f"{kind.capitalize()}ForCausalLM"],
        "rope_theta": 1e6,
        "torch_dtype": "bfloat16",
    }
    sizes = {"prompt": prompt, "response": response, "repeats": repeats}
    return {"config": described, "batches": batches, **sizes}


def measure_vllm(python: Path, request: dict[str, Any]) -> dict[str, Any]:
    """vLLM's rows, by a process of its own, which leaves the GPU empty.

    Raises:
        ParameterError: it ended without a result.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "measured.json")
        asked.write_text(json.dumps(request))
        command = [str(python), "-m", "benchmarks.decode_vllm", str(asked), str(answered)]
        ended = subprocess.run(command, cwd=ROOT, env=os.environ | _VLLM_SETTINGS, capture_output=True, text=True)
        if ended.returncode or not answered.is_file():
            last = "\n".join((ended.stdout + ended.stderr).splitlines()[-15:])
            raise ParameterError(f"--with-vllm: vLLM ended with status {ended.returncode} and no result:\n{last}")
        return json.loads(answered.read_text())


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Start vLLM, decode at every batch size, and report rows as `benchmarks.decode` does."""
    import vllm

    config, batches = request["config"], request["batches"]
    longest = request["prompt"] + request["response"]
    heads, width = config["num_key_value_heads"], config["head_dim"]
    # Room for the largest batch, with a block of each sequence to spare.
    cache = max(batches) * (longest + 32) * config["num_hidden_layers"] * 2 * heads * width * 2
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        engine = vllm.LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=max(1024, longest + 16),
            max_num_seqs=max(batches),
            kv_cache_memory_bytes=int(cache * 1.05) + 2**28,
            # Each batch size is replayed as a graph of its own size.
            compilation_config={"cudagraph_capture_sizes": sorted({1, 2, 4, 8, *batches})},
            enable_prefix_caching=False,
        )
    starting = time.perf_counter() - started

    def seconds(batch: int, tokens: int) -> float:
        draw = random.Random(batch)
        ids = [[draw.randrange(4, config["vocab_size"] - 512) for _ in range(request["prompt"])] for _ in range(batch)]
        sampling = vllm.SamplingParams(
            temperature=0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True, detokenize=False
        )
        begun = time.perf_counter()
        outputs = engine.generate([{"prompt_token_ids": each} for each in ids], sampling, use_tqdm=False)
        took = time.perf_counter() - begun
        assert all(len(output.outputs[0].token_ids) == tokens for output in outputs)
        return took

    import torch  # loaded by vLLM by now

    rows = []
    for batch in batches:
        seconds(batch, request["response"])
        runs = []
        for _ in range(request["repeats"]):
            short, whole = seconds(batch, SKIPPED), seconds(batch, request["response"])
            runs.append(batch * (request["response"] - SKIPPED) / (whole - short))
        rows.append({"batch": batch, "runs": runs})
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            rows[-1]["peak_gb"] = (total - free) / 1e9
    return {"rows": rows, "start_seconds": starting, "vllm": vllm.__version__}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text()))))
