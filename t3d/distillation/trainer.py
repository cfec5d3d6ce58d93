"""Distillation: AdamW on fp32 master weights, resumable, the same result however often it was killed.

Nothing here is random: order, states and fake tokens follow from (seed, step), so a resumed run repeats them, and
several processes (`t3d/distributed/collectives.py`) see what one would.
"""

import json
import math
import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from t3d.distillation import examples as data
from t3d.distillation import losses
from t3d.distillation.batches import Batches, TrainingJob, rows_of, tokens_of
from t3d.distributed import collectives, fsdp
from t3d.distributed.checkpoints import Checkpoints
from t3d.distributed.gpus import pick_device
from t3d.errors import TrainingError
from t3d.models import packed
from t3d.models.device import autocast, fetch, runs_apart, worth_compiling
from t3d.models.folder import load_tokenizer, mask_id, read_config, stop_ids
from t3d.models.sdar import SDARForCausalLM, load_model
from t3d.params import Experiment, Optimizer
from t3d.progress import Progress
from t3d.provenance import lineage, store, writer
from t3d.provenance.lineage import LOG
from t3d.provenance.writer import ArtefactWriter
from t3d.seeds import seed_for

_TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True)
class StepTime:
    """Seconds between two waits for the device, and the steps read then. Only sums say how long training took."""

    seconds: float
    tokens: int  # of prompts and responses
    steps: int


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
        device = collectives.init_process_group(pick_device(experiment))
        with collectives.raise_on_all_ranks():
            lineage.check_processes(experiment, run, collectives.world_size())
            name, run_seed = lineage.runs(experiment)[run]
            student = experiment.students[name]
            artefact = f"students/{run}"
            manifests = store.read_inputs(experiment, artefact, [teacher, *inputs])
            job = None
            if collectives.is_main():
                making = writer.writing(experiment, artefact, out, inputs=manifests, device=device)
                job = stack.enter_context(making)
        # Only with the artefact's lock: the states that another process writes must not be removed.
        with collectives.raise_on_all_ranks():
            # Models come first: the teacher, and the run that training begins with if that is another.
            models = 1 if lineage.initial_of(experiment, run) is None else 2
            folder, weights, learned = manifests[0].folder(), manifests[models - 1].folder(), manifests[models:]
            tokenizer = load_tokenizer(folder)
            size = read_config(folder)["vocab_size"]
            examples, steps = data.load(experiment, student, learned, tokenizer, stop_ids(folder), run_seed, size)
            checkpoints = Checkpoints(work / run, writer.run_key(experiment, artefact, manifests))
            # A model that is spread over processes goes to the GPU part by part.
            model = load_model(weights, device if collectives.world_size() == 1 else "cpu")
        seed = seed_for(experiment.seed, "student", run_seed)
        large = worth_compiling(model.config.hidden_size, device)
        setting = TrainingJob(
            student, examples, steps, mask_id(tokenizer), model.config.vocab_size, seed, device, large
        )
        pace: list[StepTime] = []
        log = train(model, setting, checkpoints, title=f"distill {run}", pace=pace)
        # Published sampling settings may be invalid. Only the ids that end a response are needed.
        kept = {name: getattr(model.generation_config, name) for name in ("eos_token_id", "pad_token_id")}
        ends = GenerationConfig(**{name: ids for name, ids in kept.items() if ids is not None})
        save(job, model, tokenizer, ends, log, pace, device)
        if job is not None:
            job.facts |= {"examples": len(examples), "steps": student.optimizer.steps}
    if collectives.is_main():
        checkpoints.remove()
    collectives.destroy_process_group()


def train(
    model: SDARForCausalLM,
    setting: TrainingJob,
    checkpoints: Checkpoints | None = None,
    title: str = "distill",
    pace: list[StepTime] | None = None,
    after_step: Callable[[list[dict[str, Any]]], None] | None = None,
    pauses_after: Collection[int] = (),
) -> list[dict[str, Any]]:
    """Train `model` in place. Where there are several processes, it is spread over them.

    Args:
        model: the student, fp32, at the weights it begins with; of several processes each has it on the CPU.
        setting: data and parameters.
        checkpoints: where to resume from and save to; None keeps nothing.
        title: shown with the progress.
        pace: filled with how long the steps took.
        after_step: called in every process after some steps, with the log so far; it may add to the last entry or end
            the training by raising an error.
        pauses_after: the steps after which it is called, counted from 1.

    Returns:
        One log entry per optimizer step.

    Raises:
        TrainingError: a loss or gradient is not finite, naming the samples; or a state cannot be written.
    """
    student = setting.student
    spec = student.optimizer
    adapters = None
    if student.lora is not None:
        from t3d.distillation import lora  # peft, which no other student needs

        adapters = lora.adapted(model, student.lora, setting.seed)
    fsdp.shard(model, setting.device)
    reference = fsdp.frozen_copy(model, setting.device) if student.objective.needs_reference else None
    if spec.recompute_activations:
        recompute_activations(model)
    for each in (model, reference):
        if each is not None and setting.packed:
            packed.speed_up(each)
    optimizer = _adamw(model, spec)
    first, log = 0, []
    started = time.perf_counter()
    state = checkpoints.latest() if checkpoints else None
    if state is not None:
        fsdp.load_model(model, state["model"])
        fsdp.load_optimizer(optimizer, state["optimizer"])
        if reference is not None:
            fsdp.load_model(reference, state["reference"])
        first, log = state["step"], state["log"]
        del state  # as large as what is trained, and needed no more
        _say(f"{title}: resuming after step {first} (state read in {time.perf_counter() - started:.1f} s)")
    file = checkpoints.folder / lineage.STEP if checkpoints else None
    progress = Progress(title, spec.steps, first, file) if collectives.is_main() else None
    batches = Batches(setting)
    unread: deque[tuple[int, Callable[[], dict[str, float]]]] = deque()
    with _Termination() as termination:
        started = time.perf_counter()
        for step in range(first, spec.steps):
            if reference is not None and step % student.objective.refresh_every == 0:
                reference.load_state_dict(model.state_dict())
            unread.append((step, _step(model, reference, optimizer, batches, step)))
            last, pauses = step + 1 == spec.steps, step + 1 in pauses_after
            due = (step + 1) % student.checkpoint_every == 0
            # A scheduler may warn one node before another. If one process is asked to end, all end after the same step.
            asked = collectives.any_of(termination.asked)
            # A GPU computes the next step while the host waits for the numbers of this one. The first is timed alone.
            waits = step == first or last or pauses or due or asked
            ahead = 1 if runs_apart(setting.device) and not waits else 0
            done = [unread.popleft() for _ in range(len(unread) - ahead)]
            log += [{"step": number + 1} | read() for number, read in done]
            if done:
                if pace is not None:
                    tokens = sum(tokens_of(setting, number) for number, _ in done)
                    pace.append(StepTime(time.perf_counter() - started, tokens, len(done)))
                started = time.perf_counter()
            if after_step is not None and pauses:
                after_step(log)
            if checkpoints is not None and not last and (due or asked):
                saving = time.perf_counter()
                checkpoints.save(step + 1, fsdp.to_local(_state(step + 1, model, reference, optimizer, log)))
                _say(f"{title}: state of step {step + 1} saved in {time.perf_counter() - saving:.1f} s")
            # After saving: the process that reads this output may have been ended by the same signal.
            if progress is not None and log:
                progress.update(len(log), loss=log[-1]["loss"])
            if asked and not last:
                _say(f"{title}: terminated after step {step + 1}; run again to resume")
                raise SystemExit(_TERMINATED)
            if not ahead:
                # Neither probes nor saving are part of a step.
                started = time.perf_counter()
    model.eval()
    if adapters is not None:
        adapters.merge_and_unload()
    return log


def save(
    job: ArtefactWriter | None,
    model: SDARForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    ends: GenerationConfig,
    log: Sequence[dict[str, Any]],
    pace: Sequence[StepTime],
    device: str,
) -> None:
    """Save a trained model with its tokenizer and log; all processes must call this.

    The receipt gets the speed, if it was measured: the first step since a run began or was resumed only warms up.

    Args:
        job: the artefact being made; None in all processes but the main one.
        model: the model, spread over the processes.
        tokenizer: its tokenizer.
        ends: its generation config.
        log: of `train`.
        pace: of `train`.
        device: of this process.
    """
    speed: dict[str, Any] = {"processes": collectives.world_size()}
    if steady := pace[1:]:
        seconds, tokens = sum(each.seconds for each in steady), sum(each.tokens for each in steady)
        speed["seconds_per_step"] = seconds / sum(each.steps for each in steady)
        speed["tokens_per_second"] = tokens / seconds
    if device.startswith("cuda"):
        speed["peak_gpu_memory_mb"] = round(collectives.all_reduce_max(torch.cuda.max_memory_allocated() / 2**20))
    whole = fsdp.gather_full_model(model)
    if job is not None:
        whole.generation_config = ends
        whole.save_pretrained(job.folder())
        tokenizer.save_pretrained(job.folder())
        (job.folder() / LOG).write_text("".join(json.dumps(entry) + "\n" for entry in log))
        job.receipt |= speed


def recompute_activations(model: SDARForCausalLM) -> None:
    """Enable activation checkpointing: while `model` trains, each layer keeps its inputs alone."""
    with warnings.catch_warnings():
        # Every transformers 5 has this name; some of them say that version 6 will not.
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})


def _adamw(model: SDARForCausalLM, spec: Optimizer) -> torch.optim.AdamW:
    # The fused kernel reads and writes each value once. On a CPU it would round otherwise than for the published
    # students.
    fused = True if all(parameter.is_cuda for parameter in model.parameters()) else None
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        trained, lr=spec.learning_rate, betas=spec.betas, weight_decay=spec.weight_decay, fused=fused
    )


def _step(model, reference, optimizer, batches: Batches, step: int) -> Callable[[], dict[str, float]]:
    """One optimizer step: accumulate the gradients of its micro-batches, clip, update.

    Returns:
        A function that returns the step's log entry, or raises an error where a number is not finite. The weights are
        damaged then, and are not saved.
    """
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
        fsdp.set_gradient_sync(model, last)
        with autocast(setting.device):
            if setting.causal is not None:
                loss, parts = losses.with_causal(model, *setting.causal, batch)
            else:
                loss, parts = losses.compute(student.objective, model, reference, batch, setting.steps_per_block)
        (loss * share).backward()
        done.append((batch.ids, share))
        names = ["loss", *parts]
        numbers += [loss.detach(), *parts.values()]
    fetched = fetch(torch.stack([*numbers, fsdp.clip(model.parameters(), spec.clip)]))
    optimizer.step()
    batches.draw_ahead(step + 1)

    def read() -> dict[str, float]:
        *values, norm = fetched()
        totals = dict.fromkeys(names, 0.0)
        # If one process stopped alone, the others would wait for its part of a layer.
        with collectives.raise_on_all_ranks():
            for index, (ids, share) in enumerate(done):
                found = values[index * len(names) : (index + 1) * len(names)]
                if not math.isfinite(found[0]):
                    raise TrainingError(f"step {step + 1}: the loss is {found[0]} on samples {', '.join(ids)}.")
                for name, value in zip(names, found, strict=True):
                    totals[name] += value * share
        totals = collectives.all_reduce_sum(totals)
        with collectives.raise_on_all_ranks():
            if not math.isfinite(norm):
                samples = ", ".join(setting.examples[index].id for _, index in rows_of(setting, step))
                raise TrainingError(f"step {step + 1}: the gradient norm is {norm} on samples {samples}.")
        return totals | {"gradient_norm": norm, "learning_rate": learning_rate(spec, step)}

    return read


def learning_rate(spec: Optimizer, step: int) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then cosine to `final_fraction` of the peak."""
    if step < spec.warmup_steps:
        return spec.learning_rate * (step + 1) / spec.warmup_steps
    done = (step - spec.warmup_steps) / max(1, spec.steps - 1 - spec.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * done))
    return spec.learning_rate * (spec.final_fraction + (1 - spec.final_fraction) * cosine)


def _say(text: str) -> None:
    if collectives.is_main():
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
