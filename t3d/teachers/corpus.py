"""The text of pretraining: problems and one phrasing of each worked answer, as rows of ids.

It is apart from `pretrain.py`, since the processes that draw rows import it. It must load neither PyTorch nor
transformers, which would take longer than their work.
"""

import os
from collections import deque
from concurrent.futures import Future
from itertools import count
from random import Random

from tokenizers import Tokenizer

from t3d.errors import process_pool
from t3d.params import Pretraining
from t3d.progress import Progress
from t3d.prompts.domains import DOMAINS
from t3d.seeds import seed_for

END, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_DRAWS_PER_TASK = 2_000

Row = tuple[list[int], list[int]]
"""Ids of a prompt in chat form, and of the response, which fills its last block."""


def draw_rows(tokenizer: Tokenizer, pretraining: Pretraining, seed: int) -> list[Row]:
    """Draw and tokenise `pretraining.problems` training rows, on all cores."""
    rows: dict[str, Row] = {}
    progress = Progress("problems", pretraining.problems)
    written = tokenizer.to_str()
    workers = os.cpu_count() or 1
    with process_pool(workers, "spawn") as pool:
        for name, wanted in _rows_per_domain(pretraining).items():
            enough = len(rows) + wanted
            starts = count(0, _DRAWS_PER_TASK)
            pending: deque[Future] = deque()
            while len(rows) < enough:
                # Tasks are taken in order, so the corpus does not depend on the number of workers.
                while len(pending) < 2 * workers:
                    start = next(starts)
                    task = (written, name, seed, range(start, start + _DRAWS_PER_TASK), pretraining)
                    pending.append(pool.submit(_tokenised_rows, task))
                for key, prompt, response in pending.popleft().result():
                    if len(rows) < enough:
                        rows.setdefault(key, (prompt, response))
                progress.update(len(rows))
            # Pending tasks are waited for: if they are cancelled, Python 3.11's pool may never end.
    return list(rows.values())


def shares_of(pretraining: Pretraining) -> dict[str, int]:
    """Domain -> its share of the rows, in the order of `DOMAINS`.

    Rows and the tokenizer's texts are drawn in this order; a recipe digest does not hold that of a file.
    """
    return {name: share for name in DOMAINS for key, share in pretraining.domains.items() if key == name}


def _rows_per_domain(pretraining: Pretraining) -> dict[str, int]:
    shares = shares_of(pretraining)
    total = sum(shares.values())
    rows = {name: pretraining.problems * share // total for name, share in shares.items()}
    first = next(iter(rows))
    return rows | {first: rows[first] + pretraining.problems - sum(rows.values())}


def _tokenised_rows(task: tuple[str, str, int, range, Pretraining]) -> list[tuple[str, list[int], list[int]]]:
    written, name, seed, draws, pretraining = task
    domain = DOMAINS[name]
    assert domain.draw is not None
    grid = max(pretraining.block_sizes)
    backend = Tokenizer.from_str(written)
    filler = backend.get_vocab()[END]
    kept = []
    for draw in draws:
        item = seed_for(seed, name, draw)
        problem = domain.draw(item)
        if problem is not None and problem.split == "train" and problem.fits(pretraining.difficulty):
            # Word problems without end; code problems are few and come again, written another way.
            key = problem.id if name == "gsm" else f"{name}-{draw}"
            kept.append((key, problem.question, domain.write(problem, Random(item))))
    prompts = backend.encode_batch([chat_prompt(question) for _, question, _ in kept])
    responses = backend.encode_batch([text + END_OF_TURN for _, _, text in kept])
    rows = []
    for (key, _, _), prompt, response in zip(kept, prompts, responses, strict=True):
        ids = fill_last_block(prompt.ids, response.ids, grid, filler)
        if len(prompt.ids) + len(ids) <= pretraining.max_length:
            rows.append((key, prompt.ids, ids))
    return rows


def chat_prompt(question: str) -> str:
    """The pocket chat template around one user turn, up to where the answer begins."""
    return f"{START_OF_TURN}user\n{question}{END_OF_TURN}\n{START_OF_TURN}assistant\n"


def fill_last_block(prompt: list[int], response: list[int], block_size: int, filler: int) -> list[int]:
    """The response completed to whole blocks of the global grid; the filler is ordinary text of its last block."""
    missing = -(len(prompt) + len(response)) % block_size
    return response + [filler] * missing
