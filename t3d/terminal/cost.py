"""What an experiment costs, from the sizes in its parameters: what jobs ask a scheduler for, and `t3d cost`.

A forward of P parameters over k tokens takes 2 P k floating-point operations and reads 2 P bytes of weights (bf16); a
backward takes twice its forward. Divided by what a GPU does, and by the share of it that the code reaches (measured,
`docs/performance.md`), that is seconds. Estimates, not promises: the length of the answers is the largest unknown.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from t3d.errors import ParameterError
from t3d.params import Benchmark, Budget, Conversion, Experiment, Generations, Lora, Trajectories
from t3d.provenance import lineage, recipes


@dataclass(frozen=True)
class GPU:
    """Peak bf16 arithmetic without sparsity (FLOP/s), memory bandwidth (byte/s), memory (bytes), by its maker."""

    arithmetic: float
    bandwidth: float
    memory: float


GPUS = {
    "A100": GPU(312e12, 2.039e12, 80e9),
    "H100": GPU(989e12, 3.35e12, 80e9),
    "H200": GPU(989e12, 4.8e12, 141e9),
}
_RESPONSE = 0.25
"""Mean response as a share of `max_new_tokens`: 500 of 2000. Table 3 of the paper has 94 (MBPP) to 722 (MATH500)."""
_ANSWER = 0.45
"""The same of an autoregressive model's complete answers: 230 of 512 on GSM8K's training questions."""
_LAST = 1.1
"""Slots are refilled, but not when nothing waits any more: this times as many forwards."""
_ROWS = 7500
"""Rows of a file whose prompt set does not say how many."""
_PROMPT = 128
"""Prompt tokens of a row."""
_DYNAMIC = 3.0
"""Tokens per step of a dynamic budget: 721.9 / 196.2 = 3.7 on MATH500, 3.4 to 3.5 on the others (Table 3, block 4)."""
_LEAST = 0.001
"""Seconds of a forward that has almost nothing to do: pocket, at any batch."""
_ARITHMETIC, _BANDWIDTH, _TRAINING = 0.4, 0.45, 0.4
"""Shares of the peaks that decoding and training reach, measured on an H100: docs/performance.md."""
_EFFICIENCY = {1: 1.0, 2: 0.8}
"""Processes -> tokens per second in training, as a part of so many times those of one: 1.7B on two H200s of one host;
4B, whose weights are gathered for every micro-batch, has 0.82 (docs/performance.md, "On several GPUs"). More processes
than were measured are taken to reach what the most did."""
_STATE = 0.85
"""Share of a GPU's memory that what is trained may take; activations, even if computed again, take the rest."""
_SMALL = 5 * 3600
"""Seconds of a whole experiment below which minutes are shown."""
_CPU_MINUTES = 120
_SPARE = 3.0
"""A job is given this times its estimate: the longest answers, and a slower card."""


@dataclass(frozen=True)
class Cost:
    """GPU seconds of one artefact, and how they were worked out."""

    artefact: str
    seconds: float
    arithmetic: str


def of_artefact(experiment: Experiment, artefact: str, gpu: str = "A100", decoding_processes: int = 1) -> Cost:
    """Estimate the GPU time of an artefact; 0 for what needs no GPU.

    Args:
        experiment: whose artefact it is.
        artefact: its name, see `t3d.provenance`.
        gpu: a key of `GPUS`.
        decoding_processes: so many share what is decoded; the time is that of each.

    Raises:
        ParameterError: there is no such GPU here.
    """
    if gpu not in GPUS:
        raise ParameterError(f"no figures of a GPU called {gpu!r}: {', '.join(GPUS)}.")
    kind, _, rest = artefact.partition("/")
    name, *more = rest.split("/")
    if kind == "trajectories":
        spec = experiment.trajectories[name]
        if spec.imported is not None:
            return Cost(artefact, 0.0, "no GPU")
        teacher = experiment.prompt_sets[spec.prompts].teacher
        budget, count = Budget.parse(spec.budget), _count(experiment, spec.prompts) / spec.shards / decoding_processes
        decoding = _decoding(experiment, artefact, teacher, count, spec, budget, GPUS[gpu])
        if not spec.scored:
            return decoding
        # Each step's state is a clean and a noisy copy.
        tokens = count * (_PROMPT + 2 * spec.max_new_tokens * _RESPONSE) * (budget.steps or 1)
        scoring = _by_arithmetic(artefact, experiment.teachers[teacher].parameters, 2, tokens, GPUS[gpu])
        seconds = decoding.seconds + scoring.seconds
        return Cost(artefact, seconds, f"{decoding.arithmetic}, scores: {scoring.arithmetic}")
    if kind == "answers":
        benchmark, teacher = experiment.benchmarks[more[0]], lineage.teacher_behind(experiment, name)
        count = _count(experiment, benchmark.prompts) / decoding_processes
        return _decoding(experiment, artefact, teacher, count, benchmark, Budget.parse(more[1]), GPUS[gpu])
    if kind == "students":
        return _training(experiment, artefact, GPUS[gpu])
    if kind == "generations":
        asked = experiment.generations[name]
        count = _count(experiment, asked.prompts) * asked.samples / asked.shards / decoding_processes
        teacher = experiment.prompt_sets[asked.prompts].teacher
        # One token after another: blocks of one token without a pass that writes them.
        return _decoding(experiment, artefact, teacher, count, asked, Budget(block_size=1, steps=1), GPUS[gpu])
    if kind == "teachers" and (converted := experiment.teachers[name]).source == "convert":
        conversion = converted.conversion or Conversion()
        longest = max(experiment.generations[key].max_new_tokens for key in converted.generations or ())
        row = _PROMPT + 2 * min(longest * _ANSWER, conversion.max_length)
        tokens = conversion.steps * conversion.batch_size * row
        return _by_arithmetic(artefact, converted.parameters, 6, tokens, GPUS[gpu])
    if kind == "teachers" and (pretraining := experiment.teachers[name].pretraining) is not None:
        copies = 1.0 if experiment.teachers[name].autoregressive else 2.0
        tokens = copies * pretraining.steps * pretraining.batch_size * pretraining.max_length
        return _by_arithmetic(artefact, experiment.teachers[name].parameters, 6, tokens, GPUS[gpu])
    if kind == "factorisation":
        spec = experiment.trajectories[more[0]]
        budget = Budget.parse(spec.budget)
        tokens = _count(experiment, spec.prompts) * spec.max_new_tokens * _RESPONSE * 2 * (budget.steps or 1)
        parameters = experiment.teachers[lineage.teacher_behind(experiment, name)].parameters
        return _by_arithmetic(artefact, parameters, 2, tokens, GPUS[gpu])
    return Cost(artefact, 0.0, "no GPU")


def _decoding(
    experiment: Experiment,
    artefact: str,
    teacher: str,
    count: float,
    asked: Trajectories | Benchmark | Generations,
    budget: Budget,
    gpu: GPU,
) -> Cost:
    parameters = experiment.teachers[teacher].parameters
    batch = min(asked.batch_size, math.ceil(count))
    steps = budget.steps or budget.block_size / _DYNAMIC
    forwards = math.ceil(count / batch) * asked.max_new_tokens * _RESPONSE * _LAST / budget.block_size * steps
    # Beside a block's steps goes the pass that writes it to the cache.
    tokens = batch * budget.block_size * (steps + 1) / steps
    arithmetic = 2 * parameters * tokens / (gpu.arithmetic * _ARITHMETIC)
    reading = 2 * parameters / (gpu.bandwidth * _BANDWIDTH)
    one = max(arithmetic, reading, _LEAST)
    return Cost(
        artefact,
        _start(parameters) + forwards * one,
        f"{forwards:.0f} forwards of {batch} x {budget.block_size} x {one:.3f} s",
    )


def _training(experiment: Experiment, artefact: str, gpu: GPU) -> Cost:
    name, _ = lineage.runs(experiment)[artefact.partition("/")[2]]
    student = experiment.students[name]
    longest = max((experiment.trajectories[key].max_new_tokens for key in student.trajectories), default=2000)
    row = _PROMPT + min(longest * _RESPONSE, student.rows.max_response_tokens or longest)
    # The gradients of weights that stay are not worked out.
    work = (4 if student.lora else 6) + (2 if student.objective.needs_reference else 0)
    tokens = student.optimizer.steps * student.optimizer.batch_size * row * (2 if student.states.complement else 1) * 2
    parameters = experiment.teachers[experiment.teacher_of(student)].parameters
    share = _TRAINING * _EFFICIENCY[_measured(experiment.training_processes)]
    return _by_arithmetic(artefact, parameters, work, tokens, gpu, share)


def _measured(processes: int) -> int:
    return max(number for number in _EFFICIENCY if number <= processes)


def _by_arithmetic(
    artefact: str, parameters: float, work: int, tokens: float, gpu: GPU, share: float = _TRAINING
) -> Cost:
    """Cost of `work` operations a parameter for every token of the clean and the noisy copy."""
    seconds = _start(parameters) + work * parameters * tokens / (gpu.arithmetic * share)
    how = f"{work} x {parameters:.2g} parameters x {tokens:.2g} tokens at {share:.0%} of {gpu.arithmetic:.3g} FLOP/s"
    return Cost(artefact, seconds, how)


def _start(parameters: float) -> float:
    """Seconds until a job's model is loaded: 10 for a pocket model, 50 for 4B."""
    return 10 + parameters / 1e8


def _count(experiment: Experiment, prompts: str) -> int:
    spec = experiment.prompt_sets[prompts]
    return spec.count or (len(spec.openings) if spec.openings else _ROWS)


def training_memory(parameters: float, processes: int, lora: Lora | None = None) -> float:
    """Bytes on each GPU while T3D trains, activations and, of several processes, gathered embeddings left out."""
    if lora is not None:
        # Weights 4, the reference's matrices 2; what 16 bytes are kept of is 1 % at rank 16 (SDAR-1.7B: 17 million).
        return (6 + 16 * 0.01 * lora.rank / 16) * parameters
    if processes == 1:
        # Weights and gradients 4 each, two moments 8, and the reference's matrices in half precision.
        return 18 * parameters
    # Gradients that a process adds up within a step are whole; weights, reference, the summed gradients and two moments
    # are spread.
    return (4 + 20 / processes) * parameters


@dataclass(frozen=True)
class JobResources:
    """What a job asks a scheduler for at its first attempt."""

    minutes: int
    memory_mb: int


def job_resources(experiment: Experiment) -> dict[str, JobResources]:
    """Kind of artefact -> what its jobs ask for, all the same: tasks of a Slurm array get what the first one asks for.

    Time is three times the estimate of the dearest job on an A100; where processes share it, of each of them. Of host
    memory, libraries take 4 GB a process, and weights pass through it once (4 bytes a parameter); a training state is
    put together there: weights, reference and Adam's moments, 16 bytes a parameter, and as much again while it is
    written.
    """
    products = lineage.targets(experiment, on_request=True).values()
    longest: dict[str, float] = defaultdict(float)
    for artefact in lineage.artefacts_of(experiment, products):
        kind = artefact.partition("/")[0]
        seconds = of_artefact(experiment, artefact, decoding_processes=experiment.decoding_processes).seconds
        longest[kind] = max(longest[kind], seconds / (experiment.training_processes if kind == "students" else 1))
    parameters = max(teacher.parameters for teacher in experiment.teachers.values()) / 1e6
    several = dict.fromkeys(("generations", "trajectories", "answers"), experiment.decoding_processes)
    several["students"] = experiment.training_processes
    found = {}
    for kind in recipes.KINDS:
        state = 32 if kind == "students" else 0
        minutes = 20 + math.ceil(_SPARE * longest[kind] / 60) if experiment.gpus else _CPU_MINUTES
        memory = several.get(kind, 1) * (4000 + 6 * parameters) + state * parameters
        found[kind] = JobResources(minutes, math.ceil(memory))
    return found


def report(experiment: Experiment, gpu: str = "A100") -> str:
    """GPU hours of an experiment by stage and by table or figure, with the arithmetic of the dearest jobs."""
    products = lineage.targets(experiment, on_request=True)
    every = {a: of_artefact(experiment, a, gpu) for a in lineage.artefacts_of(experiment, products.values())}
    lines = [f"Experiment {experiment.name} on one {gpu}; with N of them, divide by about N."]
    if (several := experiment.training_processes) > 1:
        slower = f"{_EFFICIENCY[_measured(several)]:.0%} of the speed of as many alone (measured: {_measured(several)})"
        lines.append(f"{several} processes train a student together, each at {slower}.")
    lines.append("")
    by_kind: dict[str, list[Cost]] = defaultdict(list)
    for artefact, cost in every.items():
        by_kind[artefact.partition("/")[0]].append(cost)
    total = sum(cost.seconds for cost in every.values())
    unit, size = ("GPU hours", 3600) if total >= _SMALL else ("GPU minutes", 60)

    def spent(costs: Iterable[Cost]) -> str:
        return f"{sum(cost.seconds for cost in costs) / size:.1f}"

    lines += [_line("stage", "jobs", unit)]
    lines += [_line(kind, len(costs), spent(costs)) for kind, costs in by_kind.items()]
    lines += [_line("all", len(every), spent(every.values())), ""]
    lines += [_line("result", "jobs", unit, "only for it")]
    needed = {name: set(lineage.artefacts_of(experiment, [product])) for name, product in products.items()}
    for name, artefacts in needed.items():
        alone = artefacts.difference(*(other for key, other in needed.items() if key != name))
        lines.append(_line(name, len(artefacts), spent(every[a] for a in artefacts), spent(every[a] for a in alone)))
    lines += ["", "The dearest job of each stage:"]
    for costs in by_kind.values():
        dearest = max(costs, key=lambda cost: cost.seconds)
        if dearest.seconds:
            lines.append(f"  {dearest.artefact}: {dearest.arithmetic} = {spent([dearest])} {unit}")
    for name, teacher in experiment.teachers.items():
        state = training_memory(teacher.parameters, experiment.training_processes)
        if state > _STATE * GPUS[gpu].memory and not teacher.autoregressive:
            needs = f"{state / 1e9:.0f} GB beside activations with training_processes: {experiment.training_processes}"
            lines += ["", f"Not on this GPU: a student of {name} needs {needs} (docs/cluster.md)."]
    for name, student in experiment.students.items():
        if student.lora is not None:
            parameters = experiment.teachers[experiment.teacher_of(student)].parameters
            tuned, whole = (training_memory(parameters, 1, spec) / 1e9 for spec in (student.lora, None))
            needs = f"{tuned:.3g} GB beside activations, all weights would need {whole:.3g} GB"
            lines += ["", f"Adapters of rank {student.lora.rank} ({name}): {needs}."]
    return "\n".join(lines)


def _line(*columns: object) -> str:
    return f"{columns[0]!s:<28}" + "".join(f"{column!s:>14}" for column in columns[1:])
