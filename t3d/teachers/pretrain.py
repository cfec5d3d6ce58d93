"""Pretraining a pocket model on procedural problems: an SDAR small enough for a laptop, or a Qwen3 of its shape.

Text and tokenizer are made on the spot, so the stage needs no data set and no network. Each row is a problem and one
phrasing of its worked answer in chat form; only the answer is learned. The SDAR predicts masked tokens in blocks, the
Qwen3 each token from those before it. Where to look next: the problems are in `t3d/prompts/gsm.py`, the rows in
`corpus.py`, the layout in `t3d/models/layout.py`.
"""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from t3d.distributed.checkpoints import Checkpoints
from t3d.errors import TrainingError
from t3d.models.device import autocast
from t3d.models.folder import MASK_TOKEN, SDARConfig
from t3d.models.layout import Layout, lay_out_stored
from t3d.models.packed import compile_layers
from t3d.models.sdar import SDARForCausalLM
from t3d.params import Pretraining
from t3d.progress import Progress
from t3d.prompts.domains import DOMAINS
from t3d.provenance import lineage
from t3d.seeds import seed_for
from t3d.teachers.corpus import END, END_OF_TURN, START_OF_TURN, Row, chat_prompt, draw_rows, shares_of

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TOKENIZER_PROBLEMS = 4_000
_CHECKPOINT_EVERY = 500
"""Optimizer steps after which the state is saved."""


def build_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer: digits are single tokens, special tokens and chat template are SDAR's."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, START_OF_TURN, END_OF_TURN, MASK_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TURN,
        pad_token=END,
        mask_token=MASK_TOKEN,
        additional_special_tokens=[START_OF_TURN],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


class Corpus:
    """Token rows in one tensor: row i is `ids[offsets[i]:offsets[i] + lengths[i]]`, its prompt the first of them."""

    def __init__(self, rows: list[Row]) -> None:
        self.ids = torch.from_numpy(np.concatenate([np.array(p + r, dtype=np.int32) for p, r in rows]))
        self.prompt_lengths = np.array([len(p) for p, _ in rows])
        self.lengths = np.array([len(p) + len(r) for p, r in rows])
        self.offsets = np.cumsum(self.lengths) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, rows: np.ndarray, block_size: int) -> Layout:
        """Lay out `rows`, on the device of `ids`."""
        return lay_out_stored(self.ids, self.offsets[rows], self.lengths[rows], self.prompt_lengths[rows], block_size)

    def texts(self, rows: np.ndarray, filler: int) -> tuple[Tensor, Tensor]:
        """Rows as an autoregressive model reads them, on the device of `ids`.

        Args:
            rows: which.
            filler: the id that completes a last block, which is no text to it, and pads shorter rows.

        Returns:
            Ids `[batch, length]`, int64, trimmed to the longest row; and where a token of a response stands that is to
            be predicted, bool `[batch, length]`.
        """
        columns = np.stack([self.offsets[rows], self.lengths[rows], self.prompt_lengths[rows]])
        offset, length, prompt = torch.from_numpy(columns).to(self.ids.device)[:, :, None]
        positions = torch.arange(int(self.lengths[rows].max()), device=self.ids.device)
        inside = positions < length
        ids = torch.where(inside, self.ids[torch.where(inside, offset + positions, 0)].long(), filler)
        return ids, inside & (positions >= prompt) & (ids != filler)


def mask_blocks(layout: Layout, generator: torch.Generator) -> torch.Tensor:
    """Draw the masked positions of a pretraining state, bool `[batch, N]`.

    In every block the number of masked tokens is uniform in 1..(its response tokens), the positions uniform.
    """
    device = layout.noisy_ids.device
    response = layout.by_block(layout.is_response)
    scores = torch.rand(response.shape, generator=generator, device=device).masked_fill(~response, 2.0)
    rank = scores.argsort(dim=-1).argsort(dim=-1)
    maskable = response.sum(dim=-1)
    drawn = torch.rand(maskable.shape, generator=generator, device=device)
    count = 1 + (drawn * maskable).long().clamp(max=maskable - 1)
    return ((rank < count[..., None]) & response).view_as(layout.is_response)


def batches(corpus: Corpus, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of row indices: every epoch a new order, rows of like length together."""
    epoch = 0
    while True:
        rng = np.random.default_rng(seed_for(seed, "pretrain-order", epoch))
        order = rng.permutation(len(corpus))
        pools = np.array_split(order, max(1, len(order) // (batch_size * 32)))
        parts = [pool[np.argsort(corpus.lengths[pool], kind="stable")] for pool in pools]
        groups = [p[i : i + batch_size] for p in parts for i in range(0, len(p) - batch_size + 1, batch_size)]
        if not groups:
            groups = [order]
        yield from (groups[i] for i in rng.permutation(len(groups)))
        epoch += 1


def pretrain(
    pretraining: Pretraining,
    seed: int,
    device: str,
    folder: Path,
    *,
    autoregressive: bool = False,
    checkpoints: Checkpoints | None = None,
) -> dict[str, float]:
    """Make a pocket model and save it as an SDAR folder, or as a Qwen3 folder.

    Args:
        pretraining: data, shape and schedule.
        seed: base of data, initial weights and masks.
        device: `cpu` or `cuda`; bf16 autocast on `cuda`.
        folder: where config, weights (bf16) and tokenizer go.
        autoregressive: a Qwen3 that predicts next tokens instead of an SDAR.
        checkpoints: where to resume from and save to; None keeps nothing.

    Returns:
        The final training loss (mean over the last 100 steps) and the number of rows and parameters.

    Raises:
        TrainingError: the loss is not finite, or a state cannot be written.
    """
    tokenizer = _tokenizer(pretraining, seed)
    corpus = Corpus(draw_rows(tokenizer.backend_tokenizer, pretraining, seed))
    corpus.ids = corpus.ids.to(device)
    torch.manual_seed(seed_for(seed, "pretrain-weights"))
    shape, ids = _shape(pretraining, tokenizer), tokenizer.get_vocab()
    model: Qwen3ForCausalLM
    if autoregressive:
        model = Qwen3ForCausalLM(Qwen3Config(**shape))
        loss_of = next_token_loss(model, corpus, ids[END])
    else:
        model = SDARForCausalLM(SDARConfig(**shape, block_size=max(pretraining.block_sizes)))
        loss_of = _block_loss(model, corpus, pretraining, seed, ids[MASK_TOKEN])
    model.to(device)  # type: ignore[arg-type]  # transformers wraps the signature away
    loss = _train(model, corpus, pretraining, seed, device, loss_of, checkpoints)
    model.generation_config = GenerationConfig(eos_token_id=[ids[END_OF_TURN], ids[END]])
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"loss": loss, "rows": len(corpus), "parameters": sum(p.numel() for p in model.parameters())}


def _tokenizer(pretraining: Pretraining, seed: int) -> PreTrainedTokenizerFast:
    print("training the tokenizer", flush=True)
    texts = (
        chat_prompt(problem.question)
        + domain.write(problem, Random(seed_for(seed, "tokenizer", problem.id)))
        + END_OF_TURN
        for domain in (DOMAINS[name] for name in shares_of(pretraining))
        for problem in islice(domain.problems("train", seed, pretraining.difficulty), _TOKENIZER_PROBLEMS)
    )
    return build_tokenizer(texts, pretraining.model.vocab_size)


def _shape(pretraining: Pretraining, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What the configurations of SDAR and Qwen3 share."""
    shape = pretraining.model
    return {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.get_vocab()[END_OF_TURN],
        "pad_token_id": tokenizer.get_vocab()[END],
    }


_LossOf = Callable[[int, np.ndarray], Tensor]
"""Optimizer step and rows of its batch -> the loss."""


def _block_loss(model: SDARForCausalLM, corpus: Corpus, pretraining: Pretraining, seed: int, mask_id: int) -> _LossOf:
    """Cross entropy of masked tokens, block sizes taking turns by step."""

    device = corpus.ids.device
    generator = torch.Generator(device=device)

    def loss_of(step: int, rows: np.ndarray) -> Tensor:
        layout = corpus.batch(rows, pretraining.block_sizes[step % len(pretraining.block_sizes)])
        masked = mask_blocks(layout, generator.manual_seed(seed_for(seed, "pretrain-masks", step)))
        with autocast(device):
            hidden = layout.hidden_states(model, layout.noisy_ids.masked_fill(masked, mask_id))
            logits = model.lm_head(hidden[masked])
        return torch.nn.functional.cross_entropy(logits.float(), layout.noisy_ids[masked])

    return loss_of


def next_token_loss(model: Qwen3ForCausalLM, corpus: Corpus, filler: int) -> _LossOf:
    """Cross entropy of a response's tokens up to the end of the turn, each from all that stands before it."""

    def loss_of(step: int, rows: np.ndarray) -> Tensor:
        ids, learned = corpus.texts(rows, filler)
        # Rows are padded at their end, which no token before it sees.
        with autocast(ids.device):
            hidden = model.model(ids[:, :-1], use_cache=False).last_hidden_state
            logits = model.lm_head(hidden[learned[:, 1:]])
        return torch.nn.functional.cross_entropy(logits.float(), ids[learned])

    return loss_of


def _train(
    model: Qwen3ForCausalLM,
    corpus: Corpus,
    pretraining: Pretraining,
    seed: int,
    device: str,
    loss_of: _LossOf,
    checkpoints: Checkpoints | None,
) -> float:
    decay = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": pretraining.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=pretraining.learning_rate, betas=(0.9, 0.95), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step, pretraining))
    recent = torch.zeros(100, device=device)
    first = 0
    if checkpoints is not None and (state := checkpoints.latest()) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        recent.copy_(state["recent"])
        first = state["step"]
        print(f"resuming after step {first}", flush=True)
    if pretraining.compile:
        compile_layers(model)
    model.train()
    file = checkpoints.folder / lineage.STEP if checkpoints else None
    progress = Progress("pretraining steps", pretraining.steps, first, file)
    rows_of = islice(batches(corpus, pretraining.batch_size, seed), first, pretraining.steps)
    for step, rows in enumerate(rows_of, start=first):
        loss = loss_of(step, rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent[step % 100] = loss.detach()
        if progress.due():
            progress.update(step + 1, loss=_mean(recent, step + 1))
        if checkpoints is not None and (step + 1) % _CHECKPOINT_EVERY == 0:
            _mean(recent, step + 1)  # no state is kept of a training that has gone wrong
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "recent": recent}
            checkpoints.save(step + 1, state | {"schedule": schedule.state_dict(), "step": step + 1})
    final = _mean(recent, pretraining.steps)
    progress.update(pretraining.steps, loss=final)
    return final


def _mean(recent: Tensor, steps: int) -> float:
    """The mean loss of the last steps, `steps` were made; raises `TrainingError` where one was not finite."""
    mean = recent[:steps].mean().item()
    if not math.isfinite(mean):
        raise TrainingError(f"pretraining: the loss is {mean} at step {steps} or in the 100 steps before it.")
    return mean


def _learning_rate(step: int, pretraining: Pretraining) -> float:
    if step < pretraining.warmup_steps:
        return (step + 1) / pretraining.warmup_steps
    done = (step - pretraining.warmup_steps) / max(1, pretraining.steps - pretraining.warmup_steps)
    return 0.5 * (1 + float(np.cos(np.pi * done)))
