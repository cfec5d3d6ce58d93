"""Block-diffusion decoding at the speed of the GPU; token for token what the plain decoder writes.

Sequences live in slots. A tick is one forward, which denoises every slot's block. The same forward writes the final
keys of the blocks that the last tick finished, and the keys of newly admitted prompts, so that neither costs an extra
forward. What a tick decides stays on the GPU, and the tick is replayed as a CUDA graph. The host learns which sequences
have ended, and gives their slots to waiting ones: once per block with static remasking, while the next block is already
being written, or once per tick with dynamic remasking.

An autoregressive model is decoded in the same way, token by token, p(x_i | x_<i): in blocks of one token without a
commit pass. Its tick reads the token before the one that is written, where a diffusion LM reads a mask.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from t3d.decoding import drawing, few_rows, layer_kernels, remasking
from t3d.decoding.launch import by_kernel
from t3d.decoding.memory import check_memory
from t3d.decoding.network import Network
from t3d.decoding.request import DecodingOptions, Request, Response, checked
from t3d.decoding.slots import Slots
from t3d.errors import MemoryTooSmallError
from t3d.models.device import worth_compiling
from t3d.params import Budget

_PREFILL = 512
"""Blocks of a forward that only reads prompts."""
_PREFILL_TOKENS = 4096
"""The same for an autoregressive model, whose blocks are tokens."""
_MIN_BLOCKS = 32
"""The number of blocks beside the denoised ones is rounded up to this times a power of two; each number is one
graph."""


@torch.inference_mode()
def run(
    model: Any,
    requests: Sequence[Request],
    budget: Budget | None,
    options: DecodingOptions,
    on_finished: Callable[[int], None] | None = None,
) -> list[Response]:
    """Decode every request; arguments and result as in `t3d.decoding.decoder.decode`.

    Without a budget, `model` is autoregressive: a Qwen2 or Qwen3 of transformers, in `eval` mode. Its prompts have at
    least one token.

    Raises:
        MemoryTooSmallError: so many sequences of this length do not fit into the GPU's memory; the message says how
            many do.
        DecodingError: as there.
    """
    if not requests:
        return []
    try:
        return Engine(model, requests, budget, options).run(requests, on_finished)
    except torch.cuda.OutOfMemoryError as error:
        slots = min(options.batch_size, len(requests))
        raise MemoryTooSmallError(
            f"the GPU's memory is full at batch_size {slots}: {error}. Choose a batch_size of {max(1, slots // 2)}."
        ) from error


class _Flags:
    """Booleans of every slot on their way to the host."""

    def __init__(self, flags: Tensor) -> None:
        """Start copying `flags [kinds, slots]`; the GPU goes on meanwhile."""
        self.event = None
        if flags.device.type == "cuda":
            self.host = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True)
            self.host.copy_(flags, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()
        else:
            self.host = flags.clone()

    def read(self) -> list[list[int]]:
        """Slots that are flagged, by kind."""
        if self.event is not None:
            self.event.synchronize()
        return [[slot for slot, flag in enumerate(row) if flag] for row in self.host.tolist()]


class Engine:
    """The slots, which sequences they are given, and the CUDA graphs that advance them."""

    def __init__(
        self, model: Any, requests: Sequence[Request], budget: Budget | None, options: DecodingOptions
    ) -> None:
        """Make room for `requests`, and for any others that are no longer; arguments as in `run`."""
        self.causal = budget is None
        budget = budget or Budget(block_size=1, steps=1)
        slots = min(options.batch_size, len(requests))
        longest = max(len(request.prompt_ids) for request in requests)
        # The last block that may be written holds the token that reaches max_new_tokens.
        capacity = -(-(longest + options.max_new_tokens + budget.block_size) // 64) * 64
        check_memory(model, slots, capacity, budget.block_size, options.sample)
        self.model, self.budget, self.count = model, budget, slots
        self.mask_id, self.sample, self.stop_ids = options.mask_id, options.sample, options.stop_ids
        self.network = Network(model, slots, capacity, budget.block_size)
        device, size = model.device, budget.block_size
        self.device = device
        self.slots = Slots(slots, capacity, budget, options, self.causal, device)
        # Prompt blocks that the next tick writes: tokens, slots, starts.
        self.prefill = _PREFILL_TOKENS if self.causal else _PREFILL
        self.prompts = (
            torch.zeros(self.prefill, size, dtype=torch.long, device=device),
            torch.full((self.prefill,), self.network.scratch_slot, device=device),
            torch.zeros(self.prefill, dtype=torch.long, device=device),
        )
        # How many positions of a block may be committed in each of its steps: all, where it is not known before.
        self.left = [size] * (budget.steps or 1)
        if budget.steps is not None and self.sample.prompt_guard:
            quotas = remasking.quota(budget, torch.arange(1, budget.steps + 1))
            self.left = (size - quotas.cumsum(0) + quotas).tolist()
        self.draw = drawing.of(self.sample, worth_compiling(model.config.hidden_size, device))
        self.graphs: dict[tuple[str, int, int, int], torch.cuda.CUDAGraph] = {}
        self.pool: Any = None

    def run(self, requests: Sequence[Request], on_finished: Callable[[int], None] | None = None) -> list[Response]:
        """Decode the requests, longest prompts first. A second call uses the graphs of the first."""
        waiting = deque(sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt_ids)))
        responses: list[Response | None] = [None] * len(requests)
        free = list(range(self.count))
        owners: dict[int, int] = {}
        commits = 0
        flags: deque[_Flags] = deque()
        while waiting or owners:
            self.advance(commits, self._admit(requests, waiting, free, owners))
            flags.append(_Flags(self.slots.flags))
            if self.budget.steps is not None:
                commits = 0 if self.causal else self.count
                if len(flags) == 1:
                    continue
            ended, unwritten = flags.popleft().read()
            if self.budget.steps is None:
                commits = len(unwritten)
            for slot, written in zip(ended, self.slots.written(ended) if ended else [], strict=True):
                owner = owners.pop(slot)
                responses[owner] = checked(requests[owner], self._response(written, len(requests[owner].prompt_ids)))
                free.append(slot)
            if on_finished is not None and ended:
                on_finished(len(ended))
        return [response for response in responses if response is not None]

    def advance(self, commits: int, prompts: int) -> None:
        """Denoise until the host may have something to decide."""
        # Static: every slot begins its block with the first tick and is done after the last.
        for step, left in enumerate(self.left, start=1):
            self._replay("last tick" if step == len(self.left) else "tick", commits, prompts, left)
            commits = prompts = 0

    def _admit(self, requests, waiting: deque[int], free: list[int], owners: dict[int, int]) -> int:
        """Give free slots to waiting requests; returns how many prompt blocks the next tick has to write."""
        size = self.budget.block_size
        blocks: list[tuple[int, int, Sequence[int]]] = []
        admitted = []
        while free and waiting:
            slot, owner = free.pop(), waiting.popleft()
            owners[slot] = owner
            prompt = list(requests[owner].prompt_ids)
            whole = len(prompt) // size * size
            # A causal model reads the prompt's last token with the first tick.
            read = whole - self.causal
            blocks += [(slot, start, prompt[start : start + size]) for start in range(0, read, size)]
            tail = prompt[whole:] + [self.mask_id] * (size - len(prompt) + whole)
            admitted.append((slot, requests[owner].seed, len(prompt), whole, tail, prompt[-1]))
        if not admitted:
            return 0
        self.slots.admit(*(self._tensor(column) for column in zip(*admitted, strict=True)))
        # What does not fit beside the next tick is written before it.
        while len(blocks) > self.prefill // 2:
            now, blocks = blocks[: self.prefill], blocks[self.prefill :]
            self._load(now)
            self._replay("prefill", prompts=self.prefill)
        self._load(blocks)
        return len(blocks)

    def _load(self, blocks: list[tuple[int, int, Sequence[int]]]) -> None:
        tokens, slots, starts = self.prompts
        slots.fill_(self.network.scratch_slot)
        starts.zero_()
        if blocks:
            columns = (self._tensor(column) for column in zip(*blocks, strict=True))
            slots[: len(blocks)], starts[: len(blocks)], tokens[: len(blocks)] = columns

    def _tensor(self, column) -> Tensor:
        return torch.tensor(column, device=self.device)

    def _replay(self, what: str, commits: int = 0, prompts: int = 0, left: int = 0) -> None:
        """Do a piece of work, as a graph where there is a GPU; shapes are rounded up, so that few graphs are made."""
        static = self.budget.steps is not None
        commits = (self.count if static else min(_rounded(commits), self.count)) if commits else 0
        key = (what, commits, _rounded(prompts) if prompts else 0, left)
        if self.device.type != "cuda":
            self._work(*key)
            return
        if key not in self.graphs:
            # The first call compiles and warms up; it does the work, and what is captured after it does none.
            self._work(*key)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):
                self._work(*key)
            self.pool = self.pool or graph.pool()
            self.graphs[key] = graph
            return
        self.graphs[key].replay()

    def _work(self, what: str, commits: int, prompts: int, left: int) -> None:
        if what == "prefill":
            self.network.forward(*self.prompts, wanted=0)
            return
        self._denoise(commits, prompts, left)
        if what == "last tick":
            self.slots.finish()

    def _denoise(self, commits: int, prompts: int, left: int) -> None:
        """One denoising step of every slot; beside it, finished blocks and prompts are written to the cache.

        At most `left` positions of a block are masked, and only these go through the head.
        """
        tokens, slots, starts = self.prompts
        blocks, rows = self.slots.next_blocks(commits, (tokens[:prompts], slots[:prompts], starts[:prompts]), left)
        pairs = self.count if commits == self.count else 0
        hidden = self.network.forward(*blocks, self.count, pairs)
        if left < self.budget.block_size:
            hidden = hidden[rows]
        self.slots.commit(rows, *self._draw(hidden, rows))

    def _draw(self, hidden: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and their log-odds, of states before the final norm; both `[states]`."""
        norm, head, epsilon = self.model.model.norm.weight, self.model.lm_head, self.network.epsilon
        if not self.sample.temperature and by_kernel(hidden):
            return few_rows.likeliest(hidden, norm, head, epsilon, self.mask_id)
        draw = self.draw if len(hidden) > 1 else drawing.plain
        logits = head(layer_kernels.norm(hidden, norm, epsilon))
        return draw(logits, self.mask_id, self.sample, *self.slots.origins(rows))

    def _response(self, written: tuple[Tensor, ...], prompt_length: int) -> Response:
        size, (every_id, every_step, every_confidence, steps_taken, blocks) = self.budget.block_size, written
        end = (prompt_length // size + int(blocks)) * size
        ids = every_id[prompt_length:end].tolist()
        stop = next((i for i, token in enumerate(ids) if token in self.stop_ids), None)
        return Response(
            ids,
            every_step[prompt_length:end].tolist(),
            every_confidence[prompt_length:end].tolist(),
            len(ids) if stop is None else stop + 1,
            "length" if stop is None else "stop",
            int(steps_taken),
            0 if self.causal else int(blocks) - 1,
        )


def _rounded(count: int) -> int:
    """The next of 32, 64, 128, ..."""
    shape = _MIN_BLOCKS
    while shape < count:
        shape *= 2
    return shape
