"""How fast is decoding? The engine, vLLM, a Hugging Face loop and the plain decoder on one machine, in one command.

    python -m benchmarks.decode --sizes 4b 1.7b 0.5b pocket --with-vllm --out decode.json

Random weights of the true shapes are made on the spot: speed does not depend on what is written, and no answer ends
early. vLLM decodes an autoregressive model of the same shape; `ar` among the budgets is the same by the engine. Beside
the JSON file lie the table (`.md`) and the figure (`.png`) of `benchmarks/decode_report.py`.

What is timed of the engine and of vLLM is steady decoding, after the first 8 tokens of every sequence; compiling,
capturing graphs and reading prompts come before and are reported apart. The plain decoder and the Hugging Face loop
write shorter responses, which favours them: their cache is shorter.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import DynamicCache

from benchmarks import decode_report
from benchmarks.decode_floor import Machine, floor_seconds, forwards, measure_machine, wait
from benchmarks.decode_vllm import SKIPPED, measure_vllm, python_of_vllm, vllm_request
from benchmarks.json_file import json_file
from benchmarks.published import MASK_ID, SIZES
from t3d.decoding.decoder import decode
from t3d.decoding.engine import Engine
from t3d.decoding.request import DecodingOptions, Request
from t3d.errors import MemoryTooSmallError, ParameterError, in_a_sentence
from t3d.models.folder import SDARConfig
from t3d.models.masks import block_causal
from t3d.models.sdar import SDARForCausalLM
from t3d.params import Budget, read_budget

HALF = {"hidden_size": 896, "intermediate_size": 4864, "layers": 24, "heads": 14, "key_value_heads": 2, "head_dim": 64}
"""Shape of Qwen2.5-0.5B, with biases and without norms of queries and keys."""
FEW_TOKENS = 2048
"""Vocabulary of sizes that are no published model's: pocket and tiny."""
POCKET = {"hidden_size": 192, "intermediate_size": 512, "layers": 6, "heads": 3, "key_value_heads": 1, "head_dim": 64}
NAMES = ["pocket", "0.5b", *SIZES]


def random_model(
    size: str, device: str, dtype: torch.dtype = torch.bfloat16, tied: bool = True
) -> tuple[SDARForCausalLM, int]:
    """A model of a size with random weights, and the id of its mask token."""
    small, half = size in ("pocket", "tiny"), size == "0.5b"
    shape = POCKET if size == "pocket" else HALF if half else SIZES[size]
    config = SDARConfig(
        vocab_size=FEW_TOKENS if small else 151_936,
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["key_value_heads"],
        head_dim=shape.get("head_dim", 128),
        max_position_embeddings=32768,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        qkv_bias=half,
        qk_norm=not half,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = SDARForCausalLM._from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval(), 3 if small else MASK_ID


@torch.inference_mode()
def hugging_face(
    model: SDARForCausalLM, requests: list[Request], budget: Budget, mask_id: int, new_tokens: int
) -> None:
    """Greedy static remasking, written the way the model card's loop is: a growing cache, all logits, cropped back."""
    size, device = budget.block_size, model.device
    ids = torch.tensor([request.prompt_ids for request in requests], device=device)
    cache = DynamicCache()
    blocks = torch.arange(ids.shape[1], device=device)[None].expand(ids.shape) // size
    model(ids, attention_mask=block_causal(blocks, blocks), position_ids=None, past_key_values=cache, use_cache=True)
    for start in range(ids.shape[1], ids.shape[1] + new_tokens, size):
        block = torch.full((len(requests), size), mask_id, device=device)
        positions = torch.arange(start, start + size, device=device)[None].expand(block.shape)
        see_all = torch.ones(len(requests), size, start + size, dtype=torch.bool, device=device)
        for step in range((budget.steps or 1) + 1):
            logits = model(
                block, attention_mask=see_all, position_ids=positions, past_key_values=cache, use_cache=True
            ).logits
            if step == budget.steps:
                break  # the pass that writes the finished block
            cache.crop(-size)
            masked = block == mask_id
            probabilities = logits.float().softmax(dim=-1)
            confidence, tokens = probabilities.max(dim=-1)
            confidence = torch.where(masked, confidence, float("-inf"))
            for row in range(len(requests)):
                best = confidence[row].topk(min(size // (budget.steps or 1), int(masked[row].sum()))).indices
                block[row, best] = tokens[row, best]


def requests_of(model: SDARForCausalLM, mask_id: int, batch: int, prompt: int) -> list[Request]:
    """Random prompts."""
    generator = torch.Generator().manual_seed(0)
    top = min(model.config.vocab_size, mask_id) if mask_id > prompt else model.config.vocab_size
    return [Request(torch.randint(4, top, (prompt,), generator=generator).tolist(), seed) for seed in range(batch)]


def time_engine(engine: Engine, requests: list[Request]) -> tuple[float, float]:
    """Seconds of a whole decoding, and of the part after the first `SKIPPED` tokens of every sequence."""
    blocks, advance = SKIPPED // engine.budget.block_size, engine.advance
    calls, begun = 0, 0.0

    def watched(commits: int, prompts: int) -> None:
        nonlocal calls, begun
        if calls == blocks:
            wait(engine.device)
            begun = time.perf_counter()
        calls += 1
        advance(commits, prompts)

    engine.advance = watched  # type: ignore[method-assign]
    started = time.perf_counter()
    engine.run(requests)
    wait(engine.device)
    ended = time.perf_counter()
    engine.advance = advance  # type: ignore[method-assign]
    return ended - started, ended - begun


@torch.inference_mode()
def measure_engine(
    model: Any, mask_id: int, batch: int, budget: Budget | None, prompt: int, response: int, repeats: int
) -> dict[str, Any]:
    """Tokens per second of several runs of one engine, after runs in which it compiles and captures everything."""
    requests = requests_of(model, mask_id, batch, prompt)
    started = time.perf_counter()
    engine = Engine(model, requests, budget, DecodingOptions(response, frozenset(), mask_id, batch_size=batch))
    graphs, warm_ups = -1, 0
    while graphs != len(engine.graphs):
        graphs, warm_ups = len(engine.graphs), warm_ups + 1
        whole, _ = time_engine(engine, requests)
    # What the runs took beyond their decoding, which the last one took alone.
    start = time.perf_counter() - started - warm_ups * whole
    runs = [batch * (response - SKIPPED) / time_engine(engine, requests)[1] for _ in range(repeats)]
    return {"runs": runs, "start_seconds": start}


def measure_slow(
    model: Any, mask_id: int, batch: int, budget: Budget, prompt: int, response: int, repeats: int, how: str
) -> dict[str, Any]:
    """The same of the plain decoder or the Hugging Face loop, prompts included; they have nothing to capture."""
    requests = requests_of(model, mask_id, batch, prompt)

    def seconds(tokens: int) -> float:
        started = time.perf_counter()
        if how == "hugging face":
            hugging_face(model, requests, budget, mask_id, tokens)
        else:
            decode(
                model, requests, budget, DecodingOptions(tokens, frozenset(), mask_id, batch_size=batch), engine=False
            )
        wait(model.device)
        return time.perf_counter() - started

    seconds(2 * budget.block_size)
    return {"runs": [batch * response / seconds(response) for _ in range(repeats)], "start_seconds": 0.0}


def completed(
    row: dict[str, Any], model: Any, machine: Machine, batch: int, budget: Budget | None, prompt: int, response: int
) -> dict[str, Any]:
    """A row with its median and what follows from it: latency, and the floor that this machine sets."""
    work = forwards(model, batch, budget, prompt + response / 2)
    tokens = batch * (budget.block_size if budget else 1)
    speed = statistics.median(row["runs"])
    seconds, least = tokens / speed, floor_seconds(work, machine)
    return row | {
        "batch": batch,
        "tokens_per_second": speed,
        "spread": (max(row["runs"]) - min(row["runs"])) / speed,
        "ms_per_token": 1e3 * batch / speed,
        "ms_per_forward": 1e3 * seconds / len(work),
        "floor_tokens_per_second": tokens / least,
        "of_floor": least / seconds,
        "of_bandwidth": sum(each.read for each in work) / seconds / machine.bandwidth,
        "of_arithmetic": sum(each.operations for each in work) / seconds / machine.arithmetic,
    }


def check_budgets(texts: list[str]) -> dict[str, Budget | None]:
    """Budgets by their names.

    Raises:
        ParameterError: one is none, has no fixed number of steps, or blocks that do not divide the tokens left out.
    """
    budgets = {text: None if text == "ar" else read_budget(text) for text in texts}
    for text, budget in budgets.items():
        if budget is not None and (budget.steps is None or SKIPPED % budget.block_size):
            raise ParameterError(
                f"--budgets: {text} cannot be timed; choose blocks of 1, 2, 4 or 8 and a number of steps, "
                "such as b4s2, or ar."
            )
    return budgets


def measure_size(
    given: argparse.Namespace,
    size: str,
    machine: Machine,
    python: Path | None,
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Every decoder of one model at every batch size and budget; `keep` is given each row as it comes."""
    device = torch.device(given.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    lengths = (given.prompt, given.response)

    def add(row: dict[str, Any], model: Any, batch: int, text: str, how: str, budget: Budget | None) -> None:
        row = completed(row, model, machine, batch, budget, *lengths)
        keep(row | {"size": size, "budget": text, "decoder": how})

    if python is not None:
        # Before there is a model here: vLLM has the GPU to itself.
        shape, _ = random_model(size, "meta", dtype)
        found = measure_vllm(python, vllm_request(shape.config, given.batches, *lengths, given.repeats))
        for row in found["rows"]:
            row |= {"start_seconds": found["start_seconds"], "version": found["vllm"]}
            add(row, shape, row["batch"], "ar", "vLLM", None)
    model, mask_id = random_model(size, given.device, dtype)
    for batch in given.batches:
        for text, budget in check_budgets(given.budgets).items():
            slow = {"plain": given.plain_at, "hugging face": given.loop_at}
            beside = [how for how, at in slow.items() if budget is not None and (at is None or batch in at)]
            for how in ("engine", *beside):
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                try:
                    if how == "engine" or budget is None:
                        row = measure_engine(model, mask_id, batch, budget, *lengths, given.repeats)
                    else:
                        row = measure_slow(
                            model, mask_id, batch, budget, given.prompt, given.slow_response, given.repeats, how
                        )
                except (MemoryTooSmallError, torch.cuda.OutOfMemoryError) as error:
                    print(f"{size}, batch {batch}, {text}, {how}: left out. {str(error).splitlines()[0]}", flush=True)
                    continue
                finally:
                    gc.collect()
                if device.type == "cuda":
                    row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
                add(row, model, batch, text, how, budget)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print rows, and write JSON, table and figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=NAMES, default=["4b", "1.7b", "pocket"], help="models")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 128, 512], help="sequences at a time")
    parser.add_argument(
        "--budgets", nargs="+", default=["b4s4", "b4s2", "b4s1", "b8s1"], help="block size, steps; or ar"
    )
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens")
    parser.add_argument("--response", type=int, default=512, help="response tokens of the engine and of vLLM")
    parser.add_argument("--slow-response", type=int, default=64, help="response tokens of the other two")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs; their median is shown, and their spread")
    for name, what in (("--loop-at", "Hugging Face loop"), ("--plain-at", "plain decoder")):
        parser.add_argument(
            name, nargs="*", type=int, metavar="BATCH", help=f"batches of the {what}: all if not given, none if empty"
        )
    parser.add_argument("--with-vllm", action="store_true", help="measure vLLM beside the engine")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu")
    parser.add_argument("--out", type=json_file, help="JSON file to write; a table and a figure are written beside it")
    given = parser.parse_args(arguments)
    try:
        check_budgets(given.budgets)
        if given.response <= SKIPPED:
            raise ParameterError(f"--response: more than the {SKIPPED} tokens that are not timed.")
        python = python_of_vllm() if given.with_vllm else None
    except ParameterError as error:
        parser.error(str(error))
    machine = measure_machine(torch.device(given.device))
    print(
        f"{machine.name}, {machine.bandwidth / 1e12:.2f} TB/s, {machine.arithmetic / 1e12:.0f} TFLOP/s, "
        f"PyTorch {torch.__version__}, transformers {transformers.__version__}\n{decode_report.HEADING}",
        flush=True,
    )
    content: dict[str, Any] = {"machine": asdict(machine), "torch": torch.__version__, "rows": []}

    def keep(row: dict[str, Any]) -> None:
        content["rows"].append(row)
        print(decode_report.line(row), flush=True)
        if given.out:
            # After each row: what was measured is kept if the command is ended.
            given.out.write_text(json.dumps(content, indent=1) + "\n")

    for size in given.sizes:
        measure_size(given, size, machine, python, keep)
        gc.collect()
        torch.cuda.empty_cache()
        if given.out:
            decode_report.write(content, given.out)


if __name__ == "__main__":
    with in_a_sentence():
        main()
