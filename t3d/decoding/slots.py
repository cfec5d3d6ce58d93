"""What the engine knows about its slots, all of it on the device, and how a step changes it.

A slot is a place for a sequence. `next_blocks` comes before a forward, `commit` after the draw, `finish` after the last
step of a block. On a GPU each is a kernel of `slot_kernels`; what is written here in PyTorch runs elsewhere, and is the
reference in the tests.
"""

import torch
from torch import Tensor

from t3d.decoding import remasking, sampling, slot_kernels
from t3d.decoding.request import DecodingOptions
from t3d.decoding.slot_kernels import Blocks
from t3d.params import Budget


class Slots:
    """The sequences of `count` slots: what is denoised, what was written."""

    def __init__(
        self,
        count: int,
        capacity: int,
        budget: Budget,
        options: DecodingOptions,
        causal: bool,
        device: torch.device,
    ) -> None:
        """Make empty slots of `capacity` positions; a `causal` model reads the token before the one that is written."""
        self.count, self.capacity, self.budget, self.causal = count, capacity, budget, causal
        self.mask_id, self.max_new_tokens = options.mask_id, options.max_new_tokens
        self.guard = options.sample.prompt_guard
        size = budget.block_size
        self.stops = torch.tensor(sorted(options.stop_ids) or [-1], device=device)
        self.numbers = torch.arange(count, device=device)
        self.places = torch.arange(size, device=device)
        self.every_row = torch.arange(count * size, device=device)

        def whole(*shape: int, dtype: torch.dtype = torch.long, value: float = 0) -> Tensor:
            return torch.full((count, *shape), value, dtype=dtype, device=device)

        # Of each slot: its sequence, ...
        self.seeds, self.prompt_lengths = whole(), whole()
        self.working = whole(dtype=torch.bool)
        # ... the block that is denoised, ...
        self.starts, self.step = whole(), whole()
        self.tokens, self.step_map = whole(size, value=self.mask_id), whole(size)
        self.masked = whole(size, dtype=torch.bool)
        self.confidence = whole(size, dtype=torch.float32)
        # ... the block before it (of a causal model the token before), ...
        self.finished = whole(size)
        # ... what was written, by position, ...
        self.ids, self.steps = whole(capacity), whole(capacity, dtype=torch.int16)
        self.confidences = whole(capacity, dtype=torch.float32)
        self.steps_taken, self.blocks = whole(), whole()
        # ... and for the host: whether the sequence ended with the last block, or goes on behind it, so that its final
        # keys have to be written.
        self.flags = torch.zeros(2, count, dtype=torch.bool, device=device)
        self.ended, self.unwritten = self.flags
        self.by_kernel = slot_kernels.take(self.tokens)

    def admit(self, slots: Tensor, seeds: Tensor, lengths: Tensor, starts: Tensor, tails: Tensor, last: Tensor) -> None:
        """Begin new sequences.

        Args:
            slots: of the sequences, `[sequences]`.
            seeds: of their draws, `[sequences]`.
            lengths: of their prompts, `[sequences]`.
            starts: of the first block that is denoised, `[sequences]`.
            tails: this block: the rest of the prompt, then masks, `[sequences, block size]`.
            last: the prompt's last token, `[sequences]`.
        """
        self.finished[slots] = last[:, None]
        self.seeds[slots], self.prompt_lengths[slots], self.starts[slots] = seeds, lengths, starts
        self.tokens[slots] = tails
        self.masked[slots] = starts[:, None] + self.places >= lengths[:, None]
        self.working[slots], self.ended[slots], self.unwritten[slots] = True, False, False
        for column in (self.step, self.step_map, self.confidence, self.steps_taken, self.blocks):
            column[slots] = 0

    def next_blocks(self, commits: int, prompts: Blocks, left: int) -> tuple[Blocks, Tensor]:
        """The blocks of the next forward: that of every slot, `commits` of those finished before, and those of prompts.

        A block without work is put into the scratch slot, number `count`. Where there is room for all finished blocks,
        each is in its slot's place, and attention reads the prefix of a slot's two blocks once; otherwise those with
        something to write come first.

        Args:
            commits: how many finished blocks; 0, or at least as many as are unwritten.
            prompts: blocks of prompts.
            left: at most so many positions of a block are masked.

        Returns:
            The blocks; and which rows of the slots' states `[count * block size]` matter, `[count * left]`: in each
            slot the masked ones first.
        """
        if self.by_kernel:
            return slot_kernels.next_blocks(self, commits, prompts, left)
        return self.next_blocks_plainly(commits, prompts, left)

    def next_blocks_plainly(self, commits: int, prompts: Blocks, left: int) -> tuple[Blocks, Tensor]:
        """`next_blocks` in PyTorch."""
        size, rows = self.budget.block_size, self.every_row
        going = self.working & self.masked.any(dim=1)
        denoised = (
            self.finished if self.causal else self.tokens,
            torch.where(going, self.numbers, self.count),
            torch.where(going, self.starts - int(self.causal), 0),
        )
        chosen = self.numbers[:commits]
        if 0 < commits < self.count:
            chosen = self.unwritten.int().argsort(descending=True, stable=True)[:commits]
        writes = self.unwritten[chosen]
        committed = (
            self.finished[chosen],
            torch.where(writes, chosen, self.count),
            torch.where(writes, self.starts[chosen] - size, 0),
        )
        if left < size:
            order = self.masked.int().argsort(dim=1, descending=True, stable=True)[:, :left]
            rows = (order + self.numbers[:, None] * size).flatten()
        tokens, slots, starts = (torch.cat(column) for column in zip(denoised, committed, prompts, strict=True))
        return (tokens, slots, starts), rows

    def origins(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a draw at `rows` (`next_blocks`) depends on: seeds, positions and steps."""
        slots = rows // self.budget.block_size
        return self.seeds[slots], self.starts[slots] + rows % self.budget.block_size, self.step[slots] + 1

    def commit(self, rows: Tensor, drawn: Tensor, log_odds: Tensor) -> None:
        """Count a step of every slot with work, and write what remasking chooses of its tokens.

        Args:
            rows: of `next_blocks`.
            drawn: tokens at `rows`, int64.
            log_odds: of these tokens, float32.
        """
        if self.by_kernel:
            slot_kernels.commit(self, rows, drawn, log_odds)
        else:
            self.commit_plainly(rows, drawn, log_odds)

    def commit_plainly(self, rows: Tensor, drawn: Tensor, log_odds: Tensor) -> None:
        """`commit` in PyTorch."""
        going = self.working & self.masked.any(dim=1)
        self.step.add_(going)
        if len(rows) < self.masked.numel():
            # Nobody chooses the others.
            drawn = self.tokens.flatten().scatter(0, rows, drawn)
            log_odds = self.confidence.flatten().scatter(0, rows, log_odds)
        drawn, log_odds = drawn.view_as(self.tokens), log_odds.view_as(self.tokens)
        chosen = remasking.choose(log_odds, self.masked, self.budget, self.step, self.guard) & going[:, None]
        self.tokens.copy_(torch.where(chosen, drawn, self.tokens))
        self.step_map.copy_(torch.where(chosen, self.step[:, None], self.step_map))
        self.confidence.copy_(torch.where(chosen, sampling.confidence(log_odds), self.confidence))
        self.masked &= ~chosen

    def finish(self) -> None:
        """Keep the complete blocks, note which sequences end with them, and open the next block of the rest."""
        if self.by_kernel:
            slot_kernels.finish(self)
        else:
            self.finish_plainly()

    def finish_plainly(self) -> None:
        """`finish` in PyTorch."""
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
        self.unwritten.copy_(goes_on)
        self.finished.copy_(torch.where(goes_on[:, None], self.tokens, self.finished))
        self.starts.add_(torch.where(goes_on, self.budget.block_size, 0))
        self.tokens.masked_fill_(goes_on[:, None], self.mask_id)
        self.masked |= goes_on[:, None]
        self.step.masked_fill_(goes_on, 0)
        self.step_map.masked_fill_(goes_on[:, None], 0)

    def written(self, slots: list[int]) -> list[tuple[Tensor, ...]]:
        """What some slots hold, on the host: ids, steps and confidences by position, steps taken, blocks.

        All at once, since every copy waits for the GPU: one by one, 128 sequences that end together are 640 copies.
        """
        chosen = torch.tensor(slots, device=self.ids.device)
        columns = (self.ids, self.steps, self.confidences, self.steps_taken, self.blocks)
        return list(zip(*(column[chosen].cpu() for column in columns), strict=True))
