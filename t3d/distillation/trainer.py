"""Distillation: full-parameter AdamW on fp32 master weights, resumable, the same result however often it was killed.

Nothing here is random: order, states and fake tokens follow from (seed, step), so a resumed run repeats them.
"""

import copy
import json
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t3d import receipts, recipes
from t3d.distillation import examples as data
from t3d.distillation import losses
from t3d.distillation.checkpoints import Checkpoints
from t3d.distillation.states import Batch, draw_batch
from t3d.errors import ParameterError, TrainingError
from t3d.models.device import pick_device
from t3d.models.sdar import SDARForCausalLM, load_model, load_tokenizer, mask_id, stop_ids
from t3d.params import Experiment, Optimizer, Student
from t3d.progress import Progress
from t3d.seeds import seed_for

_TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True)
class Setting:
    """What a training run needs besides its models."""

    student: Student
    examples: Sequence[data.Example]
    steps_per_block: int
    mask_id: int
    vocabulary: int
    seed: int
    device: str = "cpu"


def make(experiment: Experiment, run: str, teacher: Path, inputs: Sequence[Path], work: Path, out: Path) -> None:
    """Train student `run` and save it as an SDAR folder with `training.jsonl`.

    Args:
        experiment: whose students have `run`.
        run: `<student>-seed<seed>`.
        teacher: manifest of the teacher it copies.
        inputs: manifests of its trajectory shards or of its prompt sets (of both with `rows.prompt: bare`).
        work: folder for resumable states; the run has its own below it.
        out: manifest to write; the student's folder lies beside it.
    """
    if run not in experiment.runs:
        raise ParameterError(f"experiment {experiment.name} has no run {run!r}: {', '.join(experiment.runs)}.")
    name, run_seed = experiment.runs[run]
    student = experiment.students[name]
    device = pick_device(experiment)
    source = receipts.read(teacher, kind="teachers")
    manifests = [receipts.read(path) for path in inputs]
    folder = source.folder()
    tokenizer = load_tokenizer(folder)
    examples, steps = data.load(experiment, student, manifests, tokenizer, stop_ids(folder))
    seed = seed_for(experiment.seed, "student", run_seed)
    artefact = f"students/{run}"
    identity = recipes.canonical(
        [recipes.digest(experiment, artefact), source.digest(), *(m.digest() for m in manifests)]
    )
    checkpoints = Checkpoints(work / run, identity)
    with receipts.making(experiment, artefact, out, inputs=[source, *manifests], device=device) as job:
        model = load_model(folder, device)
        setting = Setting(student, examples, steps, mask_id(tokenizer), model.config.vocab_size, seed, device)
        log = train(model, setting, checkpoints, title=f"distill {run}")
        model.bfloat16().save_pretrained(job.folder())
        tokenizer.save_pretrained(job.folder())
        lines = "".join(json.dumps(entry) + "\n" for entry in log)
        (job.folder() / "training.jsonl").write_text(lines)
        job.facts |= {"examples": len(examples), "steps": student.optimizer.steps}
    checkpoints.remove()


def train(
    model: SDARForCausalLM, setting: Setting, checkpoints: Checkpoints | None = None, title: str = "distill"
) -> list[dict[str, float]]:
    """Train `model` in place.

    Args:
        model: the student, fp32, at the teacher's weights.
        setting: data and parameters.
        checkpoints: where to resume from and save to; None keeps nothing.
        title: shown with the progress.

    Returns:
        One log entry per optimizer step.

    Raises:
        TrainingError: a loss or gradient is not finite, naming the samples; or a state cannot be written.
    """
    student = setting.student
    spec = student.optimizer
    reference = _frozen_copy(model) if losses.needs_reference(student.objective) else None
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=spec.learning_rate, betas=spec.betas, weight_decay=spec.weight_decay
    )
    first, log = 0, []
    state = checkpoints.latest() if checkpoints else None
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if reference is not None:
            reference.load_state_dict(state["reference"])
        first, log = state["step"], state["log"]
        print(f"{title}: resuming after step {first}", flush=True)
    progress = Progress(title, spec.steps)
    with _Termination() as termination:
        for step in range(first, spec.steps):
            if reference is not None and step % student.objective.refresh_every == 0:
                reference.load_state_dict(model.state_dict())
            log.append({"step": step + 1} | _step(model, reference, optimizer, setting, step))
            progress.update(step + 1, loss=log[-1]["loss"])
            last = step + 1 == spec.steps
            due = (step + 1) % student.checkpoint_every == 0
            if checkpoints is not None and not last and (due or termination.asked):
                checkpoints.save(step + 1, _state(step + 1, model, reference, optimizer, log))
            if termination.asked and not last:
                print(f"{title}: terminated after step {step + 1}; run again to resume", flush=True)
                raise SystemExit(_TERMINATED)
    model.eval()
    return log


def _step(model, reference, optimizer, setting: Setting, step: int) -> dict[str, float]:
    """One optimizer step: accumulate the gradients of its micro-batches, clip, update."""
    spec = setting.student.optimizer
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(spec, step)
    optimizer.zero_grad(set_to_none=True)
    model.train()
    totals: dict[str, float] = {}
    ids: list[str] = []
    for batch in micro_batches(setting, step):
        share = len(batch.ids) / (spec.batch_size * (2 if setting.student.states.complement else 1))
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=setting.device.startswith("cuda")):
            loss, parts = losses.compute(setting.student.objective, model, reference, batch, setting.steps_per_block)
        if not torch.isfinite(loss):
            raise TrainingError(f"step {step + 1}: the loss is {loss.item()} on samples {', '.join(batch.ids)}.")
        (loss * share).backward()
        ids += batch.ids
        for name, value in {"loss": loss.detach(), **parts}.items():
            totals[name] = totals.get(name, 0.0) + float(value) * share
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), spec.clip))
    if not math.isfinite(norm):
        raise TrainingError(f"step {step + 1}: the gradient norm is {norm} on samples {', '.join(ids)}.")
    optimizer.step()
    return totals | {"gradient_norm": norm, "learning_rate": learning_rate(spec, step)}


def learning_rate(spec: Optimizer, step: int) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then cosine to `final_fraction` of the peak."""
    if step < spec.warmup_steps:
        return spec.learning_rate * (step + 1) / spec.warmup_steps
    done = (step - spec.warmup_steps) / max(1, spec.steps - 1 - spec.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return spec.learning_rate * (spec.final_fraction + (1 - spec.final_fraction) * cosine)


def micro_batches(setting: Setting, step: int) -> Iterator[Batch]:
    """The states of an optimizer step, in parts of `micro_batch_size`, rows of like length together."""
    spec = setting.student.optimizer
    rows = samples_of(len(setting.examples), spec.batch_size, step, setting.seed)
    rows.sort(key=lambda sample: len(setting.examples[sample[1]].row))
    size = spec.micro_batch_size or spec.batch_size
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield draw_batch(
            [setting.examples[index] for _, index in part],
            [epoch for epoch, _ in part],
            setting.student.states,
            steps=setting.steps_per_block,
            block_size=setting.student.block_size,
            mask_id=setting.mask_id,
            vocabulary=setting.vocabulary,
            seed=setting.seed,
            block_grid=setting.student.rows.block_grid,
            device=setting.device,
        )


def samples_of(count: int, batch_size: int, step: int, seed: int) -> list[tuple[int, int]]:
    """(epoch, example index) of each sample of an optimizer step: epochs follow each other, each in its own order."""
    samples = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, count)
        samples.append((epoch, int(_order(count, epoch, seed)[offset])))
    return samples


def _order(count: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed_for(seed, "order", epoch)).permutation(count)


def _frozen_copy(model: SDARForCausalLM) -> SDARForCausalLM:
    return copy.deepcopy(model).eval().requires_grad_(False)


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
