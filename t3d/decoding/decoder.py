"""Block-diffusion decoding: the plain decoder, with a prefix cache, in batches.

A response is written block by block on the global grid. A block starts as masks (the first may hold the prompt's tail),
each denoising step commits some of them (`remasking.py`), and a commit pass writes the finished block into the cache.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from t3d.decoding import remasking, sampling
from t3d.decoding.request import DecodingOptions, Request, Response, checked
from t3d.models.folder import mask_id
from t3d.models.masks import PADDING, block_causal
from t3d.models.sdar import SDARForCausalLM
from t3d.params import Budget, Sampling, read_budget


@torch.inference_mode()
def decode(
    model: SDARForCausalLM,
    requests: Sequence[Request],
    budget: Budget,
    options: DecodingOptions,
    on_finished: Callable[[int], None] | None = None,
    engine: bool | None = None,
) -> list[Response]:
    """Decode every request; the result does not depend on the batch size or on the order of requests.

    Args:
        model: an SDAR, in `eval` mode.
        requests: what to decode, any lengths.
        budget: block size, and steps or threshold.
        options: how; see there.
        on_finished: called with the number of responses that finished, for progress.
        engine: whether `t3d/decoding/engine.py` decodes, or the plain decoder of this file; on a GPU unless given.

    Returns:
        One response per request, in the order of `requests`.

    Raises:
        DecodingError: the model computes NaN or infinity; the message names the request.
    """
    if engine is None:
        engine = model.device.type == "cuda"
    if engine:
        from t3d.decoding import engine as fast

        return fast.run(model, requests, budget, options, on_finished)
    # Prompts of like length share a batch, so that little of the cache is padding.
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids))
    responses: list[Response | None] = [None] * len(requests)
    for start in range(0, len(order), options.batch_size):
        chunk = order[start : start + options.batch_size]
        batch = _Batch(model, [requests[i] for i in chunk], budget, options)
        while batch.rows:
            finished = batch.write_block()
            for row, response in finished:
                responses[chunk[row]] = checked(requests[chunk[row]], response)
            if on_finished is not None and finished:
                on_finished(len(finished))
    return [response for response in responses if response is not None]


def generate(
    model: SDARForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Tensor,
    budget: str,
    max_new_tokens: int = 256,
    attention_mask: Tensor | None = None,
    sample: Sampling | None = None,
    seed: int = 0,
) -> Tensor:
    """What `model.generate()` of transformers is for other models: greedy unless `sample` says otherwise.

    Args:
        model: an SDAR, in `eval` mode.
        tokenizer: its tokenizer, which knows the mask and the padding token.
        input_ids: prompts `[batch, length]`, on any side padded where `attention_mask` is 0.
        budget: `b4s2` (blocks of 4 tokens in 2 steps) or `b4t0.9` (threshold .9).
        max_new_tokens: longest response, rounded up to whole blocks.
        attention_mask: `[batch, length]`; every token counts unless given.
        sample: how tokens are drawn.
        seed: of the draws; row i has `seed + i`.

    Returns:
        Prompts with their responses up to the end-of-text token, `[batch, length + longest response]`; padding fills
        shorter ones.

    Raises:
        ParameterError: `budget` is none.
    """
    ends = model.generation_config.eos_token_id or model.config.eos_token_id or ()
    stops = frozenset([ends] if isinstance(ends, int) else ends)
    options = DecodingOptions(max_new_tokens, stops, mask_id(tokenizer), sample or Sampling(), len(input_ids))
    visible = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    rows = zip(input_ids, visible.bool(), strict=True)
    requests = [Request(ids[kept].tolist(), seed + row) for row, (ids, kept) in enumerate(rows)]
    found = [torch.tensor(r.ids[: r.length]) for r in decode(model, requests, read_budget(budget), options)]
    pad: Any = tokenizer.pad_token_id
    written = nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=pad)
    return torch.cat([input_ids, written.to(input_ids)], dim=1)


class _PrefixCache:
    """Keys and values of a batch in buffers made once; the block at `length` is overwritten until it is committed."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self.buffers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Called by each attention layer: write the block, return views of everything up to its end."""
        if layer not in self.buffers:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            self.buffers[layer] = keys.new_zeros(shape), values.new_zeros(shape)
        end = self.length + keys.shape[2]
        key_buffer, value_buffer = self.buffers[layer]
        key_buffer[:, :, self.length : end] = keys
        value_buffer[:, :, self.length : end] = values
        return key_buffer[:, :, :end], value_buffer[:, :, :end]

    def get_seq_length(self, *_: object) -> int:
        return self.length

    def keep_rows(self, rows: Tensor) -> None:
        self.buffers = {layer: (k[rows], v[rows]) for layer, (k, v) in self.buffers.items()}


class _Batch:
    """Sequences decoded in step: all write their current block at the same columns of the cache.

    Rows are left-padded to whole blocks, so that their grids line up; positions and masks are per row.
    """

    def __init__(
        self, model: SDARForCausalLM, requests: Sequence[Request], budget: Budget, options: DecodingOptions
    ) -> None:
        self.model, self.budget, self.options, self.mask_id = model, budget, options, options.mask_id
        device = model.device
        size = budget.block_size
        self.rows = list(range(len(requests)))
        self.records: list[list[tuple[int, int, float]]] = [[] for _ in requests]
        self.steps = [0] * len(requests)
        self.blocks = [0] * len(requests)
        self.seeds = torch.tensor([r.seed for r in requests], device=device)
        prompts = [list(r.prompt_ids) for r in requests]
        self.tails = [prompt[len(prompt) // size * size :] for prompt in prompts]
        self.next_block = torch.tensor([len(prompt) // size for prompt in prompts], device=device)
        columns = max(len(prompt) // size for prompt in prompts) * size
        self.key_blocks = torch.full((len(prompts), columns), PADDING, device=device)
        # The last block that may be written holds the token that reaches max_new_tokens.
        self.cache = _PrefixCache(columns + (options.max_new_tokens // size + 2) * size)
        if columns:
            ids = torch.zeros(len(prompts), columns, dtype=torch.long, device=device)
            for row, prompt in enumerate(prompts):
                whole = len(prompt) // size * size
                if whole:
                    ids[row, columns - whole :] = torch.tensor(prompt[:whole], device=device)
                    self.key_blocks[row, columns - whole :] = torch.arange(whole, device=device) // size
            first = columns // size - self.next_block
            positions = (torch.arange(columns, device=device)[None] - first[:, None] * size).clamp(min=0)
            mask = block_causal(self.key_blocks, self.key_blocks)
            mask |= torch.eye(columns, dtype=torch.bool, device=device)
            model.write_keys(ids, mask, positions, self.cache)
            self.cache.length = columns

    def write_block(self) -> list[tuple[int, Response]]:
        """Denoise and commit the next block of every row; return the rows that finished with it."""
        size, device, sample = self.budget.block_size, self.model.device, self.options.sample
        count = len(self.rows)
        tokens = torch.full((count, size), self.mask_id, device=device)
        for row, tail in enumerate(self.tails):
            if tail:
                tokens[row, : len(tail)] = torch.tensor(tail, device=device)
        visible = torch.tensor([len(tail) for tail in self.tails], device=device)
        masked = torch.arange(size, device=device)[None] >= visible[:, None]
        query_blocks = self.next_block[:, None].expand(count, size)
        positions = query_blocks * size + torch.arange(size, device=device)
        key_blocks = torch.cat([self.key_blocks, query_blocks], dim=1)
        mask = block_causal(query_blocks, key_blocks)
        step_map = torch.zeros(count, size, dtype=torch.long, device=device)
        confidence = torch.zeros(count, size, device=device)
        step = torch.zeros(count, dtype=torch.long, device=device)
        while masked.any():
            step = step + masked.any(dim=1).long()
            hidden = self.model.hidden_states(tokens, mask, positions, past_key_values=self.cache, use_cache=True)
            # Without the prompt guard visible tokens of an unfinished block may be overwritten.
            drawable = masked if sample.prompt_guard else masked.any(dim=1, keepdim=True).expand(count, size)
            logits = self.model.lm_head(hidden[drawable]).float()
            logits[:, self.mask_id] = float("-inf")  # the mask is an input, never an answer
            origins = torch.broadcast_tensors(self.seeds[:, None], positions, step[:, None])
            drawn, log_odds = sampling.draw(logits, sample, *(origin[drawable] for origin in origins))
            drawn = tokens.masked_scatter(drawable, drawn)
            log_odds = confidence.new_zeros(count, size).masked_scatter(drawable, log_odds)
            chosen = remasking.choose(log_odds, masked, self.budget, step, sample.prompt_guard)
            tokens = torch.where(chosen, drawn, tokens)
            step_map = torch.where(chosen, step[:, None], step_map)
            confidence = torch.where(chosen, sampling.confidence(log_odds), confidence)
            masked = masked & ~chosen
        finished, going = self._record(tokens, step_map, confidence, step)
        keep = torch.tensor(going, dtype=torch.long, device=device)
        self._drop_all_but(keep)
        if going:
            # The commit pass: the finished block, all visible, replaces the last noisy one in the cache.
            self.model.write_keys(tokens[keep], mask[keep], positions[keep], self.cache)
            self.cache.length += size
            self.key_blocks = key_blocks[keep]
            self.next_block = self.next_block + 1
        return finished

    def _record(self, tokens, step_map, confidence, step) -> tuple[list[tuple[int, Response]], list[int]]:
        """Add the block to each row's record; return the rows that finished with it, and those that go on."""
        finished: list[tuple[int, Response]] = []
        going: list[int] = []
        columns = zip(tokens.tolist(), step_map.tolist(), confidence.tolist(), step.tolist(), strict=True)
        for row, (ids, steps, confidences, taken) in enumerate(columns):
            new = list(zip(ids, steps, confidences, strict=True))[len(self.tails[row]) :]
            record = self.records[row]
            stops = self.options.stop_ids
            stop = next((len(record) + i for i, (token, _, _) in enumerate(new) if token in stops), None)
            record.extend(new)
            self.steps[row] += taken
            self.blocks[row] += 1
            if stop is None and len(record) < self.options.max_new_tokens:
                going.append(row)
                continue
            finished.append((self.rows[row], self._response(row, stop)))
        self.tails = [[] for _ in self.rows]
        return finished, going

    def _response(self, row: int, stop: int | None) -> Response:
        ids, steps, confidences = (list(column) for column in zip(*self.records[row], strict=True))
        length = len(ids) if stop is None else stop + 1
        reason = "length" if stop is None else "stop"
        return Response(ids, steps, confidences, length, reason, self.steps[row], self.blocks[row] - 1)

    def _drop_all_but(self, keep: Tensor) -> None:
        """Take finished rows out of the batch."""
        if len(keep) == len(self.rows):
            return
        self.cache.keep_rows(keep)
        self.next_block, self.seeds = self.next_block[keep], self.seeds[keep]
        going = keep.tolist()
        for name in ("rows", "records", "steps", "blocks", "tails"):
            column = getattr(self, name)
            setattr(self, name, [column[row] for row in going])
