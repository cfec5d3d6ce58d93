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

from t3d.decoding import drawing, few_rows, remasking, sampling
from t3d.decoding.memory import check_memory
from t3d.decoding.network import Network
from t3d.decoding.request import DecodingOptions, Request, Response, checked
from t3d.errors import MemoryTooSmallError
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
            self.host = flags

    def read(self) -> list[list[int]]:
        """Slots that are flagged, by kind."""
        if self.event is not None:
            self.event.synchronize()
        return [[slot for slot, flag in enumerate(row) if flag] for row in self.host.tolist()]


class Engine:
    """The slots, what they hold, and the CUDA graphs that advance them."""

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
        self.model, self.budget, self.slots = model, budget, slots
        self.mask_id, self.sample, self.max_new_tokens = options.mask_id, options.sample, options.max_new_tokens
        self.network = Network(model, slots, capacity, budget.block_size)
        device, size = model.device, budget.block_size
        self.device = device
        self.stops = torch.tensor(sorted(options.stop_ids) or [-1], device=device)
        self.numbers = torch.arange(slots, device=device)
        self.places = torch.arange(size, device=device)

        def whole(*shape: int, dtype: torch.dtype = torch.long, value: float = 0) -> Tensor:
            return torch.full((slots, *shape), value, dtype=dtype, device=device)

        # Of each slot: its sequence, ...
        self.seeds, self.prompt_lengths = whole(), whole()
        self.working = whole(dtype=torch.bool)
        self.ended = whole(dtype=torch.bool)
        # ... the block that is denoised, ...
        self.starts, self.step = whole(), whole()
        self.tokens, self.step_map = whole(size, value=self.mask_id), whole(size)
        self.masked = whole(size, dtype=torch.bool)
        self.confidence = whole(size, dtype=torch.float32)
        # ... the block before it, whose final keys are not written yet (of a causal model the token before), ...
        self.finished, self.unwritten = whole(size), whole(dtype=torch.bool)
        # ... and what was written, by position.
        self.ids, self.steps = whole(capacity), whole(capacity, dtype=torch.int16)
        self.confidences = whole(capacity, dtype=torch.float32)
        self.steps_taken, self.blocks = whole(), whole()
        # Prompt blocks that the next tick writes.
        self.prefill = _PREFILL_TOKENS if self.causal else _PREFILL
        self.prompt_tokens = torch.zeros(self.prefill, size, dtype=torch.long, device=device)
        self.prompt_slots = torch.full((self.prefill,), self.network.scratch_slot, device=device)
        self.prompt_starts = torch.zeros(self.prefill, dtype=torch.long, device=device)
        # How many positions of a block may be committed in each of its steps: all, where it is not known before.
        self.left = [size] * (budget.steps or 1)
        if budget.steps is not None and self.sample.prompt_guard:
            quotas = remasking.quota(budget, torch.arange(1, budget.steps + 1))
            self.left = (size - quotas.cumsum(0) + quotas).tolist()
        self.draw = drawing.of(self.sample, self.network.compiled)
        self.graphs: dict[tuple[str, int, int, int], torch.cuda.CUDAGraph] = {}
        self.pool: Any = None

    def run(self, requests: Sequence[Request], on_finished: Callable[[int], None] | None = None) -> list[Response]:
        """Decode the requests, longest prompts first. A second call uses the graphs of the first."""
        waiting = deque(sorted(range(len(requests)), key=lambda i: -len(requests[i].prompt_ids)))
        responses: list[Response | None] = [None] * len(requests)
        free = list(range(self.slots))
        owners: dict[int, int] = {}
        commits = 0
        flags: deque[_Flags] = deque()
        while waiting or owners:
            self.advance(commits, self._admit(requests, waiting, free, owners))
            flags.append(_Flags(torch.stack([self.ended, self.unwritten])))
            if self.budget.steps is not None:
                commits = 0 if self.causal else self.slots
                if len(flags) == 1:
                    continue
            ended, unwritten = flags.popleft().read()
            if self.budget.steps is None:
                commits = len(unwritten)
            for slot in ended:
                owner = owners.pop(slot)
                responses[owner] = checked(requests[owner], self._response(slot, len(requests[owner].prompt_ids)))
                free.append(slot)
            if on_finished is not None and ended:
                on_finished(len(ended))
        return [response for response in responses if response is not None]

    def advance(self, commits: int, prompts: int) -> None:
        """Denoise until the host may have something to decide."""
        # Static: every slot begins its block with the first tick and is done after the last.
        for step, left in enumerate(self.left):
            self._replay("tick", commits if step == 0 else 0, prompts if step == 0 else 0, left)
        self._replay("settle")

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
        slots, seeds, lengths, starts, tails, last = (self._tensor(column) for column in zip(*admitted, strict=True))
        self.finished[slots] = last[:, None]
        self.seeds[slots], self.prompt_lengths[slots], self.starts[slots] = seeds, lengths, starts
        self.tokens[slots] = tails
        self.masked[slots] = starts[:, None] + self.places >= lengths[:, None]
        self.working[slots], self.ended[slots], self.unwritten[slots] = True, False, False
        for column in (self.step, self.step_map, self.confidence, self.steps_taken, self.blocks):
            column[slots] = 0
        # What does not fit beside the next tick is written before it.
        while len(blocks) > self.prefill // 2:
            now, blocks = blocks[: self.prefill], blocks[self.prefill :]
            self._load(now)
            self._replay("prefill", prompts=self.prefill)
        self._load(blocks)
        return len(blocks)

    def _load(self, blocks: list[tuple[int, int, Sequence[int]]]) -> None:
        self.prompt_slots.fill_(self.network.scratch_slot)
        self.prompt_starts.zero_()
        if blocks:
            slots, starts, tokens = (self._tensor(column) for column in zip(*blocks, strict=True))
            count = len(blocks)
            self.prompt_slots[:count], self.prompt_starts[:count], self.prompt_tokens[:count] = slots, starts, tokens

    def _tensor(self, column) -> Tensor:
        return torch.tensor(column, device=self.device)

    def _replay(self, what: str, commits: int = 0, prompts: int = 0, left: int = 0) -> None:
        """Do a piece of work, as a graph where there is a GPU; shapes are rounded up, so that few graphs are made."""
        static = self.budget.steps is not None
        commits = (self.slots if static else min(_rounded(commits), self.slots)) if commits else 0
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
        if what == "settle":
            self._finish_blocks()
        elif what == "prefill":
            self.network.forward(self.prompt_tokens, self.prompt_slots, self.prompt_starts, wanted=0)
        else:
            self._denoise(commits, prompts, left)

    def _denoise(self, commits: int, prompts: int, left: int) -> None:
        """One denoising step of every slot; beside it, finished blocks and prompts are written to the cache.

        At most `left` positions of a block are masked, and only these go through the head.
        """
        size, scratch_slot = self.budget.block_size, self.network.scratch_slot
        going = self.working & self.masked.any(dim=1)
        tokens = [self.finished if self.causal else self.tokens]
        slots = [torch.where(going, self.numbers, scratch_slot)]
        starts = [torch.where(going, self.starts - int(self.causal), 0)]
        if commits:
            # The slots with something to write come first; the others fill the shape. Where there is room for all,
            # each is in its place, and attention reads the prefix of a slot's two blocks once.
            chosen = self.numbers
            if commits < self.slots:
                chosen = self.unwritten.int().argsort(descending=True, stable=True)[:commits]
            writes = self.unwritten[chosen]
            tokens.append(self.finished[chosen])
            slots.append(torch.where(writes, chosen, scratch_slot))
            starts.append(torch.where(writes, self.starts[chosen] - size, 0))
            self.unwritten.zero_()
        if prompts:
            tokens.append(self.prompt_tokens[:prompts])
            slots.append(self.prompt_slots[:prompts])
            starts.append(self.prompt_starts[:prompts])
        pairs = self.slots if commits == self.slots else 0
        hidden = self.network.forward(torch.cat(tokens), torch.cat(slots), torch.cat(starts), self.slots, pairs)
        self.step.add_(going)
        order = self.places.expand(self.slots, -1)
        if left < size:
            # Masked positions come first. Where fewer are masked, others fill the shape; nobody chooses them.
            order = self.masked.int().argsort(dim=1, descending=True, stable=True)[:, :left]
            hidden = hidden.view(self.slots, size, -1).take_along_dim(order[:, :, None], dim=1).flatten(0, 1)
        positions = self.starts[:, None] + order
        origins = torch.broadcast_tensors(self.seeds[:, None], positions, self.step[:, None])
        drawn, log_odds = self._draw(hidden, [origin.flatten() for origin in origins])
        drawn, log_odds = drawn.view_as(positions), log_odds.view_as(positions)
        if left < size:
            drawn = self.tokens.scatter(1, order, drawn)
            log_odds = self.confidence.scatter(1, order, log_odds)
        chosen = remasking.choose(log_odds, self.masked, self.budget, self.step, self.sample.prompt_guard)
        chosen = chosen & going[:, None]
        self.tokens.copy_(torch.where(chosen, drawn, self.tokens))
        self.step_map.copy_(torch.where(chosen, self.step[:, None], self.step_map))
        self.confidence.copy_(torch.where(chosen, sampling.confidence(log_odds), self.confidence))
        self.masked &= ~chosen

    def _draw(self, hidden: Tensor, origins: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens and their log-odds, of states before the final norm; both `[states]`."""
        norm, head = self.model.model.norm, self.model.lm_head
        if not self.sample.temperature and few_rows.by_kernel(hidden):
            return few_rows.likeliest(hidden, norm, head, self.network.epsilon, self.mask_id)
        draw = self.draw if len(hidden) > 1 else drawing.plain
        return draw(head(norm(hidden)), self.mask_id, self.sample, *origins)

    def _finish_blocks(self) -> None:
        """Keep the complete blocks, note which sequences end with them, and open the next block of the rest."""
        done = self.working & ~self.masked.any(dim=1)
        positions = self.starts[:, None] + self.places
        for kept, block in (
            (self.ids, self.tokens),
            (self.steps, self.step_map.short()),
            (self.confidences, self.confidence),
        ):
            kept.scatter_(1, positions, torch.where(done[:, None], block, kept.gather(1, positions)))
        # Not `torch.isin`: from 13 stop tokens on (one block of 4) it sorts, which cannot be captured.
        stopped = (self.tokens[..., None] == self.stops).any(dim=2) & (positions >= self.prompt_lengths[:, None])
        full = self.starts + self.budget.block_size - self.prompt_lengths >= self.max_new_tokens
        self.ended.copy_(done & (stopped.any(dim=1) | full))
        self.steps_taken.add_(torch.where(done, self.step, 0))
        self.blocks.add_(done)
        self.working &= ~self.ended
        goes_on = done & ~self.ended
        self.unwritten.copy_(self.unwritten | goes_on)
        self.finished.copy_(torch.where(goes_on[:, None], self.tokens, self.finished))
        self.starts.add_(torch.where(goes_on, self.budget.block_size, 0))
        self.tokens.masked_fill_(goes_on[:, None], self.mask_id)
        self.masked |= goes_on[:, None]
        self.step.masked_fill_(goes_on, 0)
        self.step_map.masked_fill_(goes_on[:, None], 0)

    def _response(self, slot: int, prompt_length: int) -> Response:
        size = self.budget.block_size
        taken, blocks = int(self.steps_taken[slot]), int(self.blocks[slot])
        end = (prompt_length // size + blocks) * size
        ids = self.ids[slot, prompt_length:end].tolist()
        stops = set(self.stops.tolist())
        stop = next((i for i, token in enumerate(ids) if token in stops), None)
        return Response(
            ids,
            self.steps[slot, prompt_length:end].tolist(),
            self.confidences[slot, prompt_length:end].tolist(),
            len(ids) if stop is None else stop + 1,
            "length" if stop is None else "stop",
            taken,
            0 if self.causal else blocks - 1,
        )


def _rounded(count: int) -> int:
    """The next of 32, 64, 128, ..."""
    shape = _MIN_BLOCKS
    while shape < count:
        shape *= 2
    return shape
