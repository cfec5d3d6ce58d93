"""Grouped attention against transformers' sdpa on the CPU: decoding and training, in one process.

    python benchmarks/attention.py

Uses the shipped pocket teacher and checks that both decode the same tokens before it prints how much faster one is.
"""

import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from t3d.decoding.decoder import Request, decode
from t3d.models.layout import lay_out
from t3d.models.sdar import GROUPED, load_model, load_tokenizer, mask_id, stop_ids
from t3d.params import Budget, Difficulty
from t3d.prompts import gsm
from t3d.prompts.sets import encode_prompt

TEACHER = Path("data/shipped/pocket-sdar")
QUESTIONS = 64
REPEATS = 3


def main() -> None:
    """Print seconds and ratios of the two implementations."""
    torch.set_num_threads(1)
    model, tokenizer = load_model(TEACHER), load_tokenizer(TEACHER)
    problems = islice(gsm.problems("validation", 0, Difficulty(max_steps=3, max_number=999)), QUESTIONS)
    requests = [Request(encode_prompt(tokenizer, problem.question), 0) for problem in problems]
    mask, stops = mask_id(tokenizer), stop_ids(TEACHER)

    def answers(budget: str):
        responses = decode(
            model,
            requests,
            Budget.parse(budget),
            mask_id=mask,
            stop_ids=stops,
            max_new_tokens=256,
            batch_size=QUESTIONS,
        )
        return [response.ids for response in responses]

    rows = [np.array([*r.prompt_ids, *ids]) for r, ids in zip(requests[:8], answers("b8s8")[:8], strict=True)]
    layout = lay_out(rows, [len(r.prompt_ids) for r in requests[:8]], 8)

    def training_step():
        hidden = layout.hidden_states(model, layout.noisy_ids.masked_fill(layout.is_response, mask))
        model.lm_head(hidden[layout.is_response]).float().logsumexp(-1).mean().backward()
        model.zero_grad()

    cases = {
        "decode b8s8": lambda: answers("b8s8"),
        "decode b8s1": lambda: answers("b8s1"),
        "decode b4s2": lambda: answers("b4s2"),
        "train 8 rows": training_step,
    }
    print(f"{'':14}{'sdpa':>10}{'grouped':>10}{'ratio':>8}")
    for name, case in cases.items():
        seconds = {}
        results = {}
        for implementation in ("sdpa", GROUPED):
            model.config._attn_implementation = implementation
            results[implementation] = case()
            seconds[implementation] = min(timed(case) for _ in range(REPEATS))
        assert results["sdpa"] == results[GROUPED], f"{name}: the implementations decode different tokens"
        ratio = seconds["sdpa"] / seconds[GROUPED]
        print(f"{name:14}{seconds['sdpa']:9.2f}s{seconds[GROUPED]:9.2f}s{ratio:7.2f}x", flush=True)


def timed(case) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    case()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
