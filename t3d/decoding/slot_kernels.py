"""Kernels that change the engine's slots: each function is one of `slots.Slots` as a single kernel.

In PyTorch they are about 80 small kernels, of the 400 of a step of a 0.5B model with one sequence, which takes as long
as it takes to start them. A program has a slot, or a block of a forward, and one warp.
"""

from typing import Any

from torch import Tensor

from t3d.decoding import remasking
from t3d.decoding.launch import by_kernel, early

try:
    import triton
    import triton.language as tl

    from t3d.decoding.launch import begin
except ImportError:  # a CPU build of PyTorch comes without
    triton = None

Blocks = tuple[Tensor, Tensor, Tensor]
"""Tokens `[blocks, block size]`, slots and starts `[blocks]`, as `Network.forward` takes them."""
_LARGEST = 128
"""Positions of a block, each of which is compared with each."""


def take(blocks: Tensor) -> bool:
    """Whether kernels take blocks `[slots, block size]`."""
    return by_kernel(blocks) and blocks.shape[1] <= _LARGEST


def next_blocks(slots: Any, commits: int, prompts: Blocks, left: int) -> tuple[Blocks, Tensor]:
    """`Slots.next_blocks`."""
    count, size = slots.tokens.shape
    blocks = count + commits + len(prompts[0])
    tokens, owners, starts = (slots.tokens.new_empty(shape) for shape in ((blocks, size), (blocks,), (blocks,)))
    rows = slots.every_row if left == size else slots.starts.new_empty(count * left)
    _blocks_kernel[(blocks,)](
        slots.finished if slots.causal else slots.tokens, slots.finished, slots.masked, slots.working, slots.unwritten,
        slots.starts, *prompts, tokens, owners, starts, rows, count, commits,
        AHEAD=int(slots.causal), SOME=0 < commits < count, COUNT_2=triton.next_power_of_2(count), LEFT=left,
        **_shape(slots.tokens),
    )  # fmt: skip
    return (tokens, owners, starts), rows


def commit(slots: Any, rows: Tensor, drawn: Tensor, log_odds: Tensor) -> None:
    """`Slots.commit`."""
    (count, size), steps = slots.tokens.shape, slots.budget.steps
    share, remainder = divmod(size, steps) if steps else (0, 0)
    _commit_kernel[(count,)](
        slots.working, slots.masked, slots.step, slots.tokens, slots.step_map, slots.confidence, drawn, log_odds,
        remainder, 0.0 if steps else remasking.threshold(slots.budget),
        ALL=steps == 1 and slots.guard, STATIC=steps is not None, GUARD=slots.guard, SHARE=share,
        LEFT=len(rows) // count, **_shape(slots.tokens),
    )  # fmt: skip


def finish(slots: Any) -> None:
    """`Slots.finish`."""
    count = len(slots.tokens)
    _finish_kernel[(count,)](
        slots.working, slots.masked, slots.step, slots.tokens, slots.step_map, slots.confidence, slots.starts,
        slots.prompt_lengths, slots.finished, slots.ids, slots.steps, slots.confidences, slots.steps_taken,
        slots.blocks, slots.ended, slots.unwritten, slots.stops, len(slots.stops), slots.capacity,
        slots.max_new_tokens, slots.mask_id, STOPS_2=triton.next_power_of_2(len(slots.stops)), **_shape(slots.tokens),
    )  # fmt: skip


def _shape(blocks: Tensor) -> dict[str, Any]:
    size = blocks.shape[1]
    return {"SIZE": size, "SIZE_2": triton.next_power_of_2(size), "num_warps": 1, **early(blocks, blocks.numel())}


if triton is not None:

    @triton.jit
    def _rank(key, place):
        # How many positions come before each: those of larger keys, of equal ones those on the left.
        larger = key[None, :] > key[:, None]
        first = (key[None, :] == key[:, None]) & (place[None, :] < place[:, None])
        return tl.sum((larger | first).to(tl.int32), 1)

    @triton.jit
    def _any(flags):
        return tl.max(flags.to(tl.int32), 0) > 0

    # `count` may be 1, which Triton would make a constant.
    @triton.jit(do_not_specialize=["count", "commits"])
    def _blocks_kernel(
        read, finished, masked, working, unwritten, starts, prompt_tokens, prompt_slots, prompt_starts,
        tokens, slots, new_starts, rows, count, commits,
        AHEAD: tl.constexpr, SOME: tl.constexpr, COUNT_2: tl.constexpr, LEFT: tl.constexpr, SIZE: tl.constexpr,
        SIZE_2: tl.constexpr, EARLY: tl.constexpr,
    ):  # fmt: skip
        begin(EARLY)
        block, place = tl.program_id(0), tl.arange(0, SIZE_2)
        inside = place < SIZE
        at = block * SIZE + place
        if block < count:
            is_masked = tl.load(masked + at, mask=inside, other=0) != 0
            going = (tl.load(working + block) != 0) & _any(is_masked)
            tl.store(tokens + at, tl.load(read + at, mask=inside), mask=inside)
            tl.store(slots + block, tl.where(going, block, count))
            tl.store(new_starts + block, tl.where(going, tl.load(starts + block) - AHEAD, 0))
            if LEFT < SIZE:
                rank = _rank(is_masked.to(tl.int32), place)
                tl.store(rows + block * LEFT + rank, at, mask=inside & (rank < LEFT))
        elif block < count + commits:
            own = block - count
            if SOME:
                slot = tl.arange(0, COUNT_2)
                flag = (tl.load(unwritten + slot, mask=slot < count, other=0) != 0).to(tl.int32)
                own = tl.min(tl.where((flag > 0) & (tl.cumsum(flag, 0) == own + 1), slot, count), 0)
            there = own < count
            own = tl.minimum(own, count - 1)
            writes = there & (tl.load(unwritten + own) != 0)
            tl.store(tokens + at, tl.load(finished + own * SIZE + place, mask=inside), mask=inside)
            tl.store(slots + block, tl.where(writes, own, count))
            tl.store(new_starts + block, tl.where(writes, tl.load(starts + own) - SIZE, 0))
        else:
            own = block - count - commits
            tl.store(tokens + at, tl.load(prompt_tokens + own * SIZE + place, mask=inside), mask=inside)
            tl.store(slots + block, tl.load(prompt_slots + own))
            tl.store(new_starts + block, tl.load(prompt_starts + own))

    @triton.jit
    def _commit_kernel(
        working, masked, steps, tokens, step_map, confidence, drawn, log_odds, remainder, threshold,
        ALL: tl.constexpr, STATIC: tl.constexpr, GUARD: tl.constexpr, SHARE: tl.constexpr, LEFT: tl.constexpr,
        SIZE: tl.constexpr, SIZE_2: tl.constexpr, EARLY: tl.constexpr,
    ):  # fmt: skip
        begin(EARLY)
        slot, place = tl.program_id(0), tl.arange(0, SIZE_2)
        inside = place < SIZE
        at = slot * SIZE + place
        is_masked = tl.load(masked + at, mask=inside, other=0) != 0
        going = (tl.load(working + slot) != 0) & _any(is_masked)
        step = tl.load(steps + slot) + going.to(tl.int64)
        tl.store(steps + slot, step)
        there, row = inside, at
        if LEFT < SIZE:
            rank = _rank(is_masked.to(tl.int32), place)
            there, row = inside & (rank < LEFT), slot * LEFT + rank
        odds = tl.load(log_odds + row, mask=there, other=float("-inf"))
        chosen = is_masked
        if not ALL:
            # NaN counts as infinity: a sequence with either of them is refused in the end.
            score = tl.where(is_masked, tl.where(odds == odds, odds, float("inf")), float("-inf"))
            rank = _rank(score, place)
            if STATIC:
                chosen = rank < SHARE + (step <= remainder).to(tl.int32)
                if GUARD:
                    chosen = chosen & is_masked
            else:
                chosen = is_masked & ((odds > threshold) | (rank == 0))
        chosen = chosen & (place < tl.where(going, SIZE, 0))
        tl.store(tokens + at, tl.load(drawn + row, mask=there, other=0), mask=chosen)
        tl.store(step_map + at, tl.zeros([SIZE_2], tl.int64) + step, mask=chosen)
        p = tl.where(tl.abs(odds) < float("inf"), 1 / (1 + tl.exp(-odds)), float("nan"))
        tl.store(confidence + at, p, mask=chosen)
        tl.store(masked + at, tl.zeros([SIZE_2], tl.int1), mask=chosen)

    @triton.jit
    def _finish_kernel(
        working, masked, steps, tokens, step_map, confidence, starts, prompt_lengths, finished,
        ids, kept_steps, confidences, steps_taken, blocks, ended, unwritten, stops, stop_count, capacity,
        max_new_tokens, mask_id,
        STOPS_2: tl.constexpr, SIZE: tl.constexpr, SIZE_2: tl.constexpr, EARLY: tl.constexpr,
    ):  # fmt: skip
        begin(EARLY)
        slot, place, number = tl.program_id(0), tl.arange(0, SIZE_2), tl.arange(0, STOPS_2)
        inside = place < SIZE
        at = slot * SIZE + place
        works = tl.load(working + slot) != 0
        done = works & ~_any(tl.load(masked + at, mask=inside, other=0) != 0)
        start, step, length = tl.load(starts + slot), tl.load(steps + slot), tl.load(prompt_lengths + slot)
        own = tl.load(tokens + at, mask=inside, other=-2)
        to, kept = slot.to(tl.int64) * capacity + start + place, place < tl.where(done, SIZE, 0)
        tl.store(ids + to, own, mask=kept)
        tl.store(kept_steps + to, tl.load(step_map + at, mask=kept, other=0).to(tl.int16), mask=kept)
        tl.store(confidences + to, tl.load(confidence + at, mask=kept, other=0.0), mask=kept)
        stop = tl.load(stops + number, mask=number < stop_count, other=-1)
        at_stop = tl.max((own[:, None] == stop[None, :]).to(tl.int32), 1) > 0
        ends = done & (_any(at_stop & (start + place >= length)) | (start + SIZE - length >= max_new_tokens))
        goes_on = done & ~ends
        tl.store(ended + slot, ends)
        tl.store(unwritten + slot, goes_on)
        tl.store(working + slot, works & ~ends)
        tl.store(steps_taken + slot, tl.load(steps_taken + slot) + step, mask=done)
        tl.store(blocks + slot, tl.load(blocks + slot) + 1, mask=done)
        # The next block.
        tl.store(starts + slot, start + SIZE, mask=goes_on)
        tl.store(steps + slot, step * 0, mask=goes_on)
        opens, zeros = place < tl.where(goes_on, SIZE, 0), tl.zeros([SIZE_2], tl.int64)
        tl.store(finished + at, own, mask=opens)
        tl.store(tokens + at, zeros + mask_id, mask=opens)
        tl.store(step_map + at, zeros, mask=opens)
        tl.store(masked + at, zeros == 0, mask=opens)
