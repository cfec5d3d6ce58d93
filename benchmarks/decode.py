"""How fast is decoding? The engine, the plain decoder and a straightforward Hugging Face loop, in one process.

    python -m benchmarks.decode --sizes 4b 1.7b pocket --out decode.json

Random weights of the true shapes are made on the spot: speed does not depend on what is written, and no answer ends
early. The slow two write shorter responses, which favours them: their cache is shorter.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import transformers
from transformers import DynamicCache

from benchmarks.published import MASK_ID, SIZES
from t3d.decoding.decoder import decode
from t3d.decoding.request import DecodingOptions, Request
from t3d.models.folder import SDARConfig
from t3d.models.masks import block_causal
from t3d.models.sdar import SDARForCausalLM
from t3d.params import Budget
from t3d.terminal.cost import GPUS

HALF = {"hidden_size": 896, "intermediate_size": 4864, "layers": 24, "heads": 14, "key_value_heads": 2, "head_dim": 64}
"""Shape of Qwen2.5-0.5B, with biases and without norms of queries and keys."""
POCKET = {"hidden_size": 192, "intermediate_size": 512, "layers": 6, "heads": 3, "key_value_heads": 1, "head_dim": 64}


def random_model(
    size: str, device: str, dtype: torch.dtype = torch.bfloat16, tied: bool = True
) -> tuple[SDARForCausalLM, int]:
    """A model of a size with random weights, and the id of its mask token."""
    pocket, half = size == "pocket", size == "0.5b"
    shape = POCKET if pocket else HALF if half else SIZES[size]
    config = SDARConfig(
        vocab_size=2048 if pocket else 151_936,
        hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["key_value_heads"],
        head_dim=shape.get("head_dim", 128),
        max_position_embeddings=32768,
        tie_word_embeddings=tied,
        rope_theta=1e6,
        qkv_bias=half,
        qk_norm=not half,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = SDARForCausalLM._from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval(), 3 if pocket else MASK_ID


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


def measure(model, mask_id: int, batch: int, budget: Budget, prompt: int, new_tokens: int, how: str) -> dict:
    """Seconds of one decoding without its start (what two blocks take), and what follows from them."""
    generator = torch.Generator().manual_seed(0)
    top = min(model.config.vocab_size, mask_id) if mask_id > prompt else model.config.vocab_size
    requests = [Request(torch.randint(4, top, (prompt,), generator=generator).tolist(), seed) for seed in range(batch)]

    def run(tokens: int) -> float:
        started = time.perf_counter()
        if how == "hugging face":
            hugging_face(model, requests, budget, mask_id, tokens)
        else:
            options = DecodingOptions(tokens, frozenset(), mask_id, batch_size=batch)
            decode(model, requests, budget, options, engine=how == "engine")
        torch.cuda.synchronize()
        return time.perf_counter() - started

    torch.cuda.reset_peak_memory_stats()
    # Twice a few blocks: what is compiled is compiled once per machine, what is captured once per job.
    run(2 * budget.block_size)
    start = run(2 * budget.block_size) if how == "engine" else 0.0
    seconds = run(new_tokens) - start
    steps = budget.steps or budget.block_size
    written = new_tokens - (2 * budget.block_size if how == "engine" else 0)
    forwards = written // budget.block_size * (steps if how == "engine" else steps + 1)
    gpu = next((gpu for name, gpu in GPUS.items() if name in torch.cuda.get_device_name()), GPUS["H100"])
    config = model.config
    parameters = sum(p.numel() for p in model.parameters())
    cache = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 2 * (prompt + new_tokens / 2)
    # The engine writes a finished block beside the next one's first step: as many tokens in one forward fewer.
    tokens = batch * written * (steps + 1)
    return {
        "tokens_per_second": batch * written / seconds,
        "ms_per_forward": 1e3 * seconds / forwards,
        "of_bandwidth": (2 * parameters + batch * cache) * forwards / gpu.bandwidth / seconds,
        "of_arithmetic": 2 * parameters * tokens / gpu.arithmetic / seconds,
        "start_seconds": start,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "new_tokens": new_tokens,
    }


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=["4b", "1.7b", "pocket"], help="models")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 128], help="sequences at a time")
    parser.add_argument("--budgets", nargs="+", default=["b4s4", "b4s2", "b4s1"], help="block size and steps")
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens")
    parser.add_argument("--response", type=int, default=512, help="response tokens of the engine")
    parser.add_argument("--slow-response", type=int, default=64, help="response tokens of the other two")
    parser.add_argument("--only-engine", action="store_true", help="leave the other two out")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    given = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, transformers {transformers.__version__}")
    columns = {"tokens/s": 10, "ms/fwd": 9, "bandw.": 8, "arith.": 8, "start s": 9, "GB": 7, "ratio": 8}
    print(f"{'size':8}{'batch':>6} {'budget':7}{'decoder':14}" + "".join(f"{k:>{w}}" for k, w in columns.items()))
    rows = []
    for size in given.sizes:
        model, mask_id = random_model(size, "cuda")
        for batch in given.batches:
            for text in given.budgets:
                budget = Budget.parse(text)
                fastest = None
                for how in ["engine"] if given.only_engine else ["engine", "plain", "hugging face"]:
                    length = given.response if how == "engine" else given.slow_response
                    row = measure(model, mask_id, batch, budget, given.prompt, length, how)
                    fastest = fastest or row["tokens_per_second"]
                    row |= {"size": size, "batch": batch, "budget": text, "decoder": how}
                    row["engine_ratio"] = fastest / row["tokens_per_second"]
                    rows.append(row)
                    shown = [
                        f"{row['tokens_per_second']:10.0f}{row['ms_per_forward']:9.2f}{row['of_bandwidth']:8.0%}",
                        f"{row['of_arithmetic']:8.0%}{row['start_seconds']:9.2f}{row['peak_gb']:7.1f}",
                        f"{row['engine_ratio']:7.1f}x",
                    ]
                    print(f"{size:8}{batch:6} {text:7}{how:14}" + "".join(shown), flush=True)
        del model
        torch.cuda.empty_cache()
    if given.out:
        content = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
        given.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
