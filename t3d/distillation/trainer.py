"""Distillation: full-parameter AdamW on fp32 master weights, resumable, the same result however often it was killed.

Nothing here is random: order, states and fake tokens follow from (seed, step), so a resumed run repeats them, and
several processes (`t3d/processes.py`) see what one would.
"""

import json
import math
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

from t3d import processes, receipts
from t3d.checkpoints import Checkpoints
from t3d.distillation import examples as data
from t3d.distillation import losses, sharding
from t3d.distillation.states import Batch, draw_batch
from t3d.errors import TrainingError
from t3d.models import packed
from t3d.models.device import autocast, fetch, pick_device, worth_compiling
from t3d.models.folder import load_tokenizer, mask_id, stop_ids
from t3d.models.sdar import SDARForCausalLM, load_model
from t3d.params import Experiment, Optimizer, Student
from t3d.progress import Progress
from t3d.seeds import seed_for

_TERMINATED = 128 + signal.SIGTERM
Pass = tuple[Batch, float, bool]
"""A micro-batch, its weight in the loss of its optimizer step, and whether it is the step's last."""


@dataclass(frozen=True)
class Setting:
    """What a training run needs besides its models.

    `packed`: these are large and on a GPU (`models/packed.py`); `block_sizes`: they take turns by step, in place of the
    student's one.
    """

    student: Student
    examples: Sequence[data.Example]
    steps_per_block: int
    mask_id: int
    vocabulary: int
    seed: int
    device: str = "cpu"
    packed: bool = False
    block_sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Pace:
    """How long an optimizer step took, and the prompt and response tokens of the rows it learned from."""

    seconds: float
    tokens: int


def make(experiment: Experiment, run: str, teacher: Path, inputs: Sequence[Path], work: Path, out: Path) -> None:
    """Train student `run` and save it as an SDAR folder with `training.jsonl`.

    Args:
        experiment: whose students have `run`.
        run: `<student>-seed<seed>`.
        teacher: manifest of the teacher it copies.
        inputs: manifests of its trajectory shards or of its prompt sets (of both with `rows.prompt: bare`), and of the
            run it begins with where it has `initial`.
        work: folder for resumable states; the run has its own below it.
        out: manifest to write; the student's folder lies beside it.
    """
    with ExitStack() as stack:
        device = processes.join(pick_device(experiment))
        with processes.together():
            experiment.check_processes(run, processes.count())
            name, run_seed = experiment.runs[run]
            student = experiment.students[name]
            artefact = f"students/{run}"
            manifests = receipts.read_inputs(experiment, artefact, [teacher, *inputs])
            # Models come first: the teacher, and the run that training begins with if that is another.
            models = 1 if experiment.initial_of(run) is None else 2
            folder, weights, learned = manifests[0].folder(), manifests[models - 1].folder(), manifests[models:]
            tokenizer = load_tokenizer(folder)
            examples, steps = data.load(experiment, student, learned, tokenizer, stop_ids(folder), run_seed)
            checkpoints = Checkpoints(work / run, receipts.identity(experiment, artefact, manifests))
            # Parts of a model that is spread go to the GPU by themselves.
            model = load_model(weights, device if processes.count() == 1 else "cpu")
            if processes.is_main():
                making = receipts.making(experiment, artefact, out, inputs=manifests, device=device)
                job = stack.enter_context(making)
        seed = seed_for(experiment.seed, "student", run_seed)
        large = worth_compiling(model.config.hidden_size, device)
        setting = Setting(student, examples, steps, mask_id(tokenizer), model.config.vocab_size, seed, device, large)
        pace: list[Pace] = []
        log = train(model, setting, checkpoints, title=f"distill {run}", pace=pace)
        speed = speed_of(pace)
        if device.startswith("cuda"):
            speed["peak_gpu_memory_mb"] = round(processes.largest(torch.cuda.max_memory_allocated() / 2**20))
        # Published settings of sampling may not even be valid; of them only what ends a response is needed.
        kept = {name: getattr(model.generation_config, name) for name in ("eos_token_id", "pad_token_id")}
        whole = sharding.whole(model)
        if processes.is_main():
            whole.generation_config = GenerationConfig(**{name: ids for name, ids in kept.items() if ids is not None})
            whole.save_pretrained(job.folder())
            tokenizer.save_pretrained(job.folder())
            lines = "".join(json.dumps(entry) + "\n" for entry in log)
            (job.folder() / "training.jsonl").write_text(lines)
            job.facts |= {"examples": len(examples), "steps": student.optimizer.steps}
            job.receipt |= speed
    if processes.is_main():
        checkpoints.remove()
    processes.leave()


def train(
    model: SDARForCausalLM,
    setting: Setting,
    checkpoints: Checkpoints | None = None,
    title: str = "distill",
    pace: list[Pace] | None = None,
    after_step: Callable[[list[dict[str, Any]]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train `model` in place. Where there are several processes, it is spread over them.

    Args:
        model: the student, fp32, at the weights it begins with; of several processes each has it on the CPU.
        setting: data and parameters.
        checkpoints: where to resume from and save to; None keeps nothing.
        title: shown with the progress.
        pace: filled with how long each step took.
        after_step: called after every step, in every process, with the log so far; it may add to the last entry or end
            the training by raising an error.

    Returns:
        One log entry per optimizer step.

    Raises:
        TrainingError: a loss or gradient is not finite, naming the samples; or a state cannot be written.
    """
    student = setting.student
    spec = student.optimizer
    sharding.shard(model, setting.device)
    reference = sharding.frozen_copy(model, setting.device) if student.objective.needs_reference else None
    if spec.recompute_activations:
        recompute_activations(model)
    for each in (model, reference):
        if each is not None and setting.packed:
            packed.speed_up(each)
    optimizer = _adamw(model, spec)
    first, log = 0, []
    state = checkpoints.latest() if checkpoints else None
    if state is not None:
        sharding.load_model(model, state["model"])
        sharding.load_optimizer(optimizer, state["optimizer"])
        if reference is not None:
            sharding.load_model(reference, state["reference"])
        first, log = state["step"], state["log"]
        del state  # as large as what is trained, and needed no more
        _say(f"{title}: resuming after step {first}")
    progress = Progress(title, spec.steps, first) if processes.is_main() else None
    batches = _Batches(setting)
    with _Termination() as termination:
        for step in range(first, spec.steps):
            started = time.perf_counter()
            refreshes = student.objective.refreshes_reference and step % student.objective.refresh_every == 0
            if reference is not None and refreshes:
                reference.load_state_dict(model.state_dict())
            log.append({"step": step + 1} | _step(model, reference, optimizer, batches, step))
            if pace is not None:
                tokens = _tokens(setting, step)
                pace.append(Pace(time.perf_counter() - started, tokens))
            if after_step is not None:
                after_step(log)
            last = step + 1 == spec.steps
            due = (step + 1) % student.checkpoint_every == 0
            # A scheduler may warn one node before another: whoever is asked, all end after the same step.
            asked = processes.any_of(termination.asked)
            if checkpoints is not None and not last and (due or asked):
                checkpoints.save(step + 1, sharding.part_of(_state(step + 1, model, reference, optimizer, log)))
            # After saving: who reads this may have been ended by the same signal.
            if progress is not None:
                progress.update(step + 1, loss=log[-1]["loss"])
            if asked and not last:
                _say(f"{title}: terminated after step {step + 1}; run again to resume")
                raise SystemExit(_TERMINATED)
    model.eval()
    return log


def recompute_activations(model: SDARForCausalLM) -> None:
    """Let the layers of `model` keep their inputs alone while it trains."""
    with warnings.catch_warnings():
        # Every transformers 5 has this name; some of them say that version 6 will not.
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})


def _adamw(model: SDARForCausalLM, spec: Optimizer) -> torch.optim.AdamW:
    # One kernel reads and writes each value once; on a CPU it would round otherwise than the published students did.
    fused = True if all(parameter.is_cuda for parameter in model.parameters()) else None
    return torch.optim.AdamW(
        model.parameters(), lr=spec.learning_rate, betas=spec.betas, weight_decay=spec.weight_decay, fused=fused
    )


def _step(model, reference, optimizer, batches: "_Batches", step: int) -> dict[str, float]:
    """One optimizer step: accumulate the gradients of its micro-batches, clip, update."""
    setting = batches.setting
    student = setting.student
    spec = student.optimizer
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(spec, step)
    optimizer.zero_grad(set_to_none=True)
    model.train()
    done: list[tuple[list[str], float]] = []
    numbers: list[Tensor] = []
    for batch, share, last in batches.of(step):
        sharding.reduce_after(model, last)
        with autocast(setting.device):
            loss, parts = losses.compute(student.objective, model, reference, batch, setting.steps_per_block)
        (loss * share).backward()
        done.append((batch.ids, share))
        names = ["loss", *parts]
        numbers += [loss.detach(), *parts.values()]
    read = fetch(torch.stack([*numbers, sharding.clip(model.parameters(), spec.clip)]))
    optimizer.step()
    batches.draw_ahead(step + 1)
    # Read when all is under way: a number asked for earlier would let the GPU wait for the host, and a process that
    # stopped would let the others wait for its part of a layer. Weights that a number spoilt are not kept.
    *values, norm = read()
    totals = dict.fromkeys(names, 0.0)
    with processes.together():
        for index, (ids, share) in enumerate(done):
            found = values[index * len(names) : (index + 1) * len(names)]
            if not math.isfinite(found[0]):
                raise TrainingError(f"step {step + 1}: the loss is {found[0]} on samples {', '.join(ids)}.")
            for name, value in zip(names, found, strict=True):
                totals[name] += value * share
    totals = processes.total(totals)
    with processes.together():
        if not math.isfinite(norm):
            samples = ", ".join(setting.examples[index].id for _, index in _rows(setting, step))
            raise TrainingError(f"step {step + 1}: the gradient norm is {norm} on samples {samples}.")
    return totals | {"gradient_norm": norm, "learning_rate": learning_rate(spec, step)}


class _Batches:
    """This process's micro-batches, step by step."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._drawn: tuple[int, Iterator[Pass]] | None = None

    def of(self, step: int) -> Iterator[Pass]:
        """The passes of optimizer step `step`, of which the first may have been drawn before."""
        if self._drawn is not None and self._drawn[0] == step:
            return self._drawn[1]
        return _passes(self.setting, step)

    def draw_ahead(self, step: int) -> None:
        """Draw the first micro-batch of a step, while a GPU still computes the one before (20 ms of 32 rows)."""
        if step < self.setting.student.optimizer.steps and self.setting.device.startswith("cuda"):
            passes = _passes(self.setting, step)
            self._drawn = step, chain([next(passes)], passes)


def _passes(setting: Setting, step: int) -> Iterator[Pass]:
    """This process's micro-batches of an optimizer step, the weight of each in the loss, and whether it is the last.

    All processes make as many passes, since a layer is gathered from all of them: one that has a micro-batch less than
    others repeats its last with weight 0, while it would have to wait anyway.
    """
    spec = setting.student.optimizer
    passes = math.ceil(spec.batch_size / (spec.micro_batch_size or spec.batch_size) / processes.count())
    batches = micro_batches(setting, step, processes.rank(), processes.count())
    batch = next(batches)
    share = len(batch.ids) / (spec.batch_size * (2 if setting.student.states.complement else 1))
    for done in range(1, passes + 1):
        yield batch, share, done == passes
        if (following := next(batches, None)) is None:
            share = 0.0
        else:
            batch = following


def learning_rate(spec: Optimizer, step: int) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then cosine to `final_fraction` of the peak."""
    if step < spec.warmup_steps:
        return spec.learning_rate * (step + 1) / spec.warmup_steps
    done = (step - spec.warmup_steps) / max(1, spec.steps - 1 - spec.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return spec.learning_rate * (spec.final_fraction + (1 - spec.final_fraction) * cosine)


def micro_batches(setting: Setting, step: int, rank: int = 0, processes: int = 1) -> Iterator[Batch]:
    """The states of an optimizer step, in parts of at most `micro_batch_size` rows.

    Where rows are padded, those of like length are together; where they are packed, every part gets short and long
    ones, as many tokens as the others. The parts are the same for any number of processes; process `rank` gets every
    `processes`-th of them.
    """
    rows = _rows(setting, step)
    sizes = setting.block_sizes or (setting.student.block_size,)
    size = setting.student.optimizer.micro_batch_size or setting.student.optimizer.batch_size
    count = -(-len(rows) // size)
    for number in range(count)[rank::processes]:
        part = rows[number::count] if setting.packed else rows[number * size : (number + 1) * size]
        yield draw_batch(
            [setting.examples[index] for _, index in part],
            [epoch for epoch, _ in part],
            setting.student.states,
            steps=setting.steps_per_block,
            block_size=sizes[step % len(sizes)],
            mask_id=setting.mask_id,
            vocabulary=setting.vocabulary,
            seed=setting.seed,
            block_grid=setting.student.rows.block_grid,
            device=setting.device,
            packed=setting.packed,
        )


def _rows(setting: Setting, step: int) -> list[tuple[int, int]]:
    """(epoch, example index) of each sample of an optimizer step, the shortest first."""
    rows = samples_of(len(setting.examples), setting.student.optimizer.batch_size, step, setting.seed)
    return sorted(rows, key=lambda sample: len(setting.examples[sample[1]].row))


def samples_of(count: int, batch_size: int, step: int, seed: int) -> list[tuple[int, int]]:
    """(epoch, example index) of each sample of an optimizer step: epochs follow each other, each in its own order."""
    samples = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, count)
        samples.append((epoch, int(_order(count, epoch, seed)[offset])))
    return samples


@lru_cache(maxsize=2)
def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    # A permutation of 50 000 rows takes 0.4 ms, and every sample of a step asks for it.
    return np.random.default_rng(seed_for(seed, "order", epoch)).permutation(count)


def _tokens(setting: Setting, step: int) -> int:
    rows = sum(len(setting.examples[index].row) for _, index in _rows(setting, step))
    return rows * (2 if setting.student.states.complement else 1)


def speed_of(pace: Sequence[Pace]) -> dict[str, Any]:
    """What a receipt says of the steps since the run began or was resumed; the first, which warms up, is left out."""
    steady = pace[1:] or pace
    return {
        "processes": processes.count(),
        "seconds_per_step": statistics.median(step.seconds for step in steady),
        "tokens_per_second": sum(step.tokens for step in steady) / sum(step.seconds for step in steady),
    }


def _say(text: str) -> None:
    if processes.is_main():
        with suppress(BrokenPipeError):
            print(text, flush=True)


def _state(step: int, model, reference, optimizer, log) -> dict[str, Any]:
    return {
        "step": step,
        "model": model.state_dict(),
        "reference": reference.state_dict() if reference is not None else None,
        "optimizer": optimizer.state_dict(),
        "log": log,
    }


class _Termination:
    """SIGTERM (a scheduler's warning) is noted, so that the step in progress is finished and saved."""

    asked = False

    def __enter__(self) -> "_Termination":
        self.previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, *_: object) -> None:
        self.asked = True

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self.previous)
