"""How fast is a training step? Ours and a plainly written one, and what lies between them, one change at a time.

    python -m benchmarks.train --sizes 1.7b pocket --out train.json     # one GPU; --sizes tiny runs on a CPU
    python -m benchmarks.train --sizes 0.5b --objective redi --ways 7   # a step of a conversion

T3D on random rollouts, with random weights of the true shapes: speed does not depend on what is learned. The plain step
does what the public code does: two forwards of the student and two of the reference, a dense mask built on the CPU,
rows padded to the longest of the data set in both copies, and logits of every position of the noisy copy. All ways see
the same states, take the reference's argmax as the fake token and accumulate over the same micro-batches; their losses
agree. Left out in favour of the plain step: the public code's loop over positions for the path term, and its logits of
the clean copy.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import transformers
from torch import Tensor

from benchmarks.decode import FEW_TOKENS, NAMES, random_model
from benchmarks.json_file import json_file
from t3d.decoding.network import head_shape
from t3d.distillation import objectives, trainer
from t3d.distillation.batches import Batches, TrainingJob, micro_batches
from t3d.distillation.examples import Example
from t3d.distillation.states import Batch
from t3d.distributed import fsdp
from t3d.distributed.gpus import set_up_memory
from t3d.models import packed
from t3d.models.device import autocast, worth_compiling
from t3d.models.masks import PADDING, clean_and_noisy
from t3d.models.sdar import SDARForCausalLM
from t3d.params import Objective, Optimizer, States, Student
from t3d.terminal.cost import GPUS

BLOCK = 8


@dataclass(frozen=True)
class Way:
    """One way to take a step; each of `WAYS` adds a change to the one before."""

    name: str
    forwards: int = 2
    masked_only: bool = True
    trimmed: bool = True
    chunked: bool = True
    fused: bool = True
    compiled: bool = True
    packed: bool = True
    recompute: bool = False


_OLD = Way("", packed=False, compiled=False, fused=False, chunked=False, trimmed=False, masked_only=False)
WAYS = (
    replace(_OLD, name="plain", forwards=4),
    replace(_OLD, name="+ two forwards"),
    replace(_OLD, name="+ head where masked", masked_only=True),
    replace(_OLD, name="+ trimmed layout", masked_only=True, trimmed=True),
    Way("+ head in chunks", packed=False, compiled=False, fused=False),
    Way("+ fused AdamW", packed=False, compiled=False),
    Way("+ compiled layers", packed=False),
    Way("+ block-sparse (ours)"),
    Way("+ recomputed", recompute=True),
)


def random_rollouts(count: int, prompt: int, shortest: int, longest: int, vocabulary: int) -> list[Example]:
    """Rollouts whose responses are whole blocks from `shortest` to `longest` tokens; the first is the longest."""
    rng = np.random.default_rng(0)
    lengths = [longest, *rng.integers(shortest // BLOCK, longest // BLOCK, count - 1, endpoint=True) * BLOCK]
    return [
        Example(
            f"rollout-{index}",
            rng.integers(4, vocabulary, prompt).tolist(),
            rng.integers(4, vocabulary, length).tolist(),
            np.concatenate([rng.permutation(BLOCK) + 1 for _ in range(length // BLOCK)]).tolist(),
        )
        for index, length in enumerate(lengths)
    ]


def setting_of(
    examples: Sequence[Example], batch: int, micro: int, mask_id: int, vocabulary: int, device: str, way: Way, name: str
) -> TrainingJob:
    """T3D (`t3d`) as in `params/paper.yaml`, with the argmax as fake token; or `redi`, as a conversion learns."""
    student = Student(
        label=name,
        trajectories=("rollouts",),
        objective=Objective(name="t3d", fake="argmax", refresh_every=1000) if name == "t3d" else Objective(name="redi"),
        states=States(kind="trajectory", random_tokens=0.1) if name == "t3d" else States(kind="block"),
        block_size=BLOCK,
        optimizer=Optimizer(
            steps=999, batch_size=batch, micro_batch_size=micro, learning_rate=1e-5, recompute_activations=way.recompute
        ),
    )
    return TrainingJob(student, examples, BLOCK, mask_id, vocabulary, seed=0, device=device)


def plain_loss(
    way: Way, student: SDARForCausalLM, reference: SDARForCausalLM, batch: Batch, setting: TrainingJob
) -> Tensor:
    """T3D's loss from full log-probabilities, in the padded or in our layout."""
    device = setting.device
    if way.trimmed:
        real, masked, step_map = batch.layout.noisy_ids, batch.masked, batch.step_map

        def states(model: SDARForCausalLM) -> Tensor:
            return batch.layout.hidden_states(model, batch.noisy_input)
    else:
        padded = pad(batch, setting)
        real, noisy, masked, step_map = (each.to(device) for each in padded[:4])
        mask = padded[4].to(device)
        width = real.shape[1]
        positions = torch.arange(width, device=device).repeat(2).expand(len(real), -1)

        def states(model: SDARForCausalLM) -> Tensor:
            hidden = model.hidden_states(torch.cat([real, noisy], dim=1), mask, positions, use_cache=False)
            return hidden[:, width:]

    def scores_of(model: SDARForCausalLM) -> Tensor:
        hidden = states(model)
        return model.lm_head(hidden[masked] if way.masked_only else hidden).float().log_softmax(dim=-1)

    def of(scores: Tensor, ids: Tensor) -> Tensor:
        if way.masked_only:
            found = scores.gather(1, ids[masked][:, None]).squeeze(1)
            return found.new_zeros(masked.shape).masked_scatter(masked, found)
        return scores.gather(2, ids[:, :, None]).squeeze(2)

    with torch.no_grad():
        scores = scores_of(reference)
        best = scores.argmax(dim=-1)
        fake = real.masked_scatter(masked, best if way.masked_only else best[masked])
        reference_real = of(scores, real)
        scores = scores if way.forwards == 2 else scores_of(reference)
        reference_fake = of(scores, fake)
        del scores
    scores = scores_of(student)
    log_p = of(scores, real)
    fake_log_p = of(scores if way.forwards == 2 else scores_of(student), fake)
    objective = setting.student.objective
    real_term = objectives.ddo_real(objectives.sample_mean(log_p - reference_real, masked), objective.beta)
    fake_term = objectives.ddo_fake(objectives.sample_mean(fake_log_p - reference_fake, masked), objective.beta)
    path = objectives.path(log_p, masked, objectives.path_weights(step_map, BLOCK))
    return objectives.t3d(objectives.ddo(real_term, fake_term, objective.alpha), path, objective.path_weight)


def pad(batch: Batch, setting: TrainingJob) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A batch on the CPU as x_0 and x_t of whole rows, padded to the longest row of the data set.

    Returns:
        x_0, x_t, what is masked, and the step map, each `[batch, width]`; who sees whom, bool `[batch, 2 width,
        2 width]`.
    """
    width = max(len(example.row) for example in setting.examples)
    by_id = {example.id: example for example in setting.examples}
    real = torch.zeros(len(batch.ids), width, dtype=torch.long)
    noisy, step_map = real.clone(), real.clone()
    masked = torch.zeros(real.shape, dtype=torch.bool)
    may_see = torch.zeros(len(real), 2 * width, 2 * width, dtype=torch.bool)
    noisy_positions = batch.layout.positions[:, batch.layout.clean_ids.shape[1] :]
    blocks = torch.arange(width) // BLOCK
    for row, name in enumerate(batch.ids):
        length = len(by_id[name].row)
        real[row, :length] = noisy[row, :length] = torch.from_numpy(by_id[name].row)
        places = noisy_positions[row][batch.masked[row]]
        noisy[row, places] = batch.noisy_input[row][batch.masked[row]]
        masked[row, places] = True
        step_map[row, places] = batch.step_map[row][batch.masked[row]]
        valid = (torch.arange(width) < length)[None, :]
        may_see[row, :width, :width] = (blocks[None, :] <= blocks[:, None]) & valid
        may_see[row, width:, :width] = (blocks[None, :] < blocks[:, None]) & valid
        may_see[row, width:, width:] = (blocks[None, :] == blocks[:, None]) & valid
    return real, noisy, masked, step_map, may_see | torch.eye(2 * width, dtype=torch.bool)


def plain_step(
    way: Way,
    model: SDARForCausalLM,
    reference: SDARForCausalLM,
    optimizer: torch.optim.Optimizer,
    setting: TrainingJob,
    step: int,
) -> float:
    """An optimizer step through `plain_loss`; returns the loss."""
    drawn = setting if way.trimmed else replace(setting, device="cpu")
    spec = setting.student.optimizer
    optimizer.zero_grad(set_to_none=True)
    model.train()
    total = 0.0
    for batch in micro_batches(drawn, step):
        with autocast(setting.device):
            loss = plain_loss(way, model, reference, batch, setting)
        share = len(batch.ids) / spec.batch_size
        (loss * share).backward()
        total += float(loss.detach()) * share
    torch.nn.utils.clip_grad_norm_(model.parameters(), spec.clip)
    optimizer.step()
    return total


def arithmetic(model: SDARForCausalLM, setting: TrainingJob, steps: Sequence[int]) -> tuple[int, float]:
    """Tokens of the rows of some steps, and the floating-point operations that they need.

    A layer's parameter takes 2 for each token of the clean copy and of the noisy response in the reference's forward if
    there is one, 6 in the student's two passes; the head's the same at masked positions, and attention's at pairs of
    tokens of which one sees the other.
    """
    passes = 8 if setting.student.objective.needs_reference else 6
    heads, _, width = head_shape(model)
    attention = 2 * heads * width * model.config.num_hidden_layers
    head = model.lm_head.weight.numel()
    body = sum(p.numel() for p in model.model.parameters()) - model.model.embed_tokens.weight.numel()
    tokens, places = 0, 0.0
    for step in steps:
        for batch in micro_batches(replace(setting, device="cpu"), step):
            lengths = [len(example.row) for example in setting.examples if example.id in batch.ids]
            tokens += sum(lengths)
            layout = batch.layout
            both_copies = int((layout.clean_blocks != PADDING).sum()) + int(layout.is_response.sum())
            pairs = int(clean_and_noisy(layout.clean_blocks, layout.noisy_blocks).sum())
            places += passes * (body * both_copies + head * int(batch.masked.sum()) + attention * pairs)
    return tokens, places


def measure(
    way: Way, size: str, examples: Sequence[Example], batch: int, micro: int, steps: int, device: str, objective: str
) -> dict:
    """Take a step to warm up and `steps` more in one way, with a fresh model."""
    model, mask_id = random_model(size, device, torch.float32, tied=size == "0.5b")
    vocabulary = max(FEW_TOKENS, mask_id)
    wide = worth_compiling(model.config.hidden_size, device)
    setting = setting_of(examples, batch, micro, mask_id, vocabulary, device, way, objective)
    setting = replace(setting, packed=wide and way.packed)
    reference = fsdp.frozen_copy(model, device) if setting.student.objective.needs_reference else None
    for each in (model, reference):
        if each is not None and setting.packed:
            packed.speed_up(each)
        elif each is not None and wide and way.compiled:
            packed.compile_layers(each)
    spec = setting.student.optimizer
    if way.recompute:
        trainer.recompute_activations(model)
    if way.fused:
        optimizer = trainer._adamw(model, spec)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)

    batches = Batches(setting)

    def step(number: int) -> Callable[[], dict]:
        if way.chunked:
            return trainer._step(model, reference, optimizer, batches, number)
        assert reference is not None  # The plain loss is T3D's.
        entry = {"loss": plain_step(way, model, reference, optimizer, setting, number)}
        return lambda: entry

    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    unread = step(0)
    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for number in range(1, steps + 1):
        # As in training: a step's numbers are read when the next one is under way.
        last, unread = unread, step(number)
        last()
    loss = unread()["loss"]
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    tokens, operations = arithmetic(model, setting, range(1, steps + 1))
    gpu = next((gpu for name, gpu in GPUS.items() if cuda and name in torch.cuda.get_device_name()), None)
    return {
        "loss": loss,
        "seconds_per_step": seconds / steps,
        "tokens_per_second": tokens / seconds,
        "of_arithmetic": operations / seconds / gpu.arithmetic if gpu else None,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=NAMES, default=["1.7b", "pocket"], help="models")
    parser.add_argument("--objective", choices=["t3d", "redi"], default="t3d", help="redi: ways from 4 on")
    parser.add_argument("--batch", type=int, default=32, help="sequences per optimizer step")
    how_many = "sequences per forward: plain, padded, packed; or one"
    parser.add_argument("--micro", nargs="+", type=int, default=[1, 2, 8], help=how_many)
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps that are timed")
    parser.add_argument("--prompt", type=int, default=256, help="prompt tokens")
    parser.add_argument("--shortest", type=int, default=256, help="tokens of the shortest response")
    parser.add_argument("--response", type=int, default=1024, help="tokens of the longest response")
    parser.add_argument("--ways", nargs="+", type=int, default=list(range(len(WAYS))), help="which, from 0: plain")
    parser.add_argument("--out", type=json_file, help="JSON file to write")
    given = parser.parse_args(arguments)
    if not (4 if given.objective == "redi" else 0) <= min(given.ways) <= max(given.ways) < len(WAYS):
        parser.error(f"--ways: they are 0 to {len(WAYS) - 1}; redi has those from 4 on, since the plain loss is T3D's")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    set_up_memory()
    of_all = given.micro if len(given.micro) == 3 else given.micro[:1] * 3
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{name}, PyTorch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{'size':8}{'way':24}{'rows':>5}{'s/step':>9}{'tokens/s':>10}{'arith.':>8}{'GB':>7}{'speed':>8}{'loss':>10}")
    rows = []
    for size in given.sizes:
        vocabulary = FEW_TOKENS if size in ("pocket", "tiny") else 151_643
        examples = random_rollouts(4 * given.batch, given.prompt, given.shortest, given.response, vocabulary)
        first = None
        for way in (WAYS[index] for index in given.ways):
            micro = of_all[0 if way.forwards == 4 else 2 if way.packed else 1]
            row: dict = {"size": size, "way": way.name, "micro": micro}
            try:
                row |= measure(way, size, examples, given.batch, micro, given.steps, device, given.objective)
            except torch.OutOfMemoryError:
                row["error"] = "out of memory"
                print(f"{size:8}{way.name:24}{micro:5}  out of memory", flush=True)
            else:
                first = first or row["tokens_per_second"]
                row["speed"] = row["tokens_per_second"] / first
                share = f"{row['of_arithmetic']:.0%}" if row["of_arithmetic"] is not None else "-"
                memory = f"{row['peak_gb']:.1f}" if row["peak_gb"] is not None else "-"
                print(
                    f"{size:8}{way.name:24}{micro:5}{row['seconds_per_step']:9.3f}{row['tokens_per_second']:10.0f}{share:>8}"
                    f"{memory:>7}{row['speed']:7.2f}x{row['loss']:10.5f}",
                    flush=True,
                )
            rows.append(row)
            # Compiled layers keep the models that they were compiled for.
            torch.compiler.reset()
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
    if given.out:
        sizes = {key: getattr(given, key) for key in ("batch", "steps", "prompt", "shortest", "response")}
        content = {"device": name, "torch": torch.__version__, **sizes, "rows": rows}
        given.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
