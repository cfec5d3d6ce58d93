"""`t3d doctor`: what an experiment needs of this machine or cluster, before the first job; each line says what to do.

`stops` is the part that would end a run hours later; Snakemake asks it when it plans (`workflow/rules/common.smk`).
"""

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from t3d.errors import MissingInputError, ParameterError, T3DError, reading
from t3d.params import Experiment
from t3d.params.experiment import PROGRAM_DOMAINS
from t3d.params.yaml_files import read_yaml
from t3d.prompts import local
from t3d.provenance import lineage, recipes, store, verify
from t3d.provenance.store import manifest_path

State = Literal["ok", "note", "todo"]
_PROFILE = Path("workflow", "profiles", "slurm", "config.yaml")
_STATE = 12
"""Bytes a parameter of a training state: weights and AdamW's two moments, float32. The last is kept until the next is
whole."""
_SECONDS = 20
"""A scheduler or a driver that does not answer sooner is named."""


@dataclass(frozen=True)
class Line:
    """What was looked at, how it is, and what to do about it."""

    subject: str
    state: State
    text: str


def look(experiment: Experiment) -> list[Line]:
    """Everything that an experiment needs, looked at on this machine."""
    looks: list[Callable[[Experiment], Line]] = [_sandbox, _gpus, _slurm, _pins, _shipped, _disk, _autoregressive]
    return [check(experiment) for check in looks]


def to_text(lines: Iterable[Line]) -> str:
    """One line each, what is to be done last in the eye."""
    return "\n".join(f" {line.state:<4}  {line.subject:<10}  {line.text}" for line in lines)


def stops(experiment: Experiment, artefacts: Iterable[str], here: bool) -> list[str]:
    """What would stop a job that makes one of `artefacts`, of those that are not made yet.

    Args:
        experiment: whose artefacts they are.
        artefacts: their names, with all they are made from.
        here: the jobs run on this machine, not on nodes of a cluster.
    """
    artefacts = list(artefacts)
    left = [artefact for artefact in artefacts if not manifest_path(experiment, artefact).is_file()]
    kinds = {artefact.partition("/")[0] for artefact in left}
    needed = _planned(experiment, artefacts)
    lines = [_pins(experiment, [a.partition("/")[2] for a in needed if a.startswith("sources/")])]
    # Of one that is made, too: everything behind it is compared with its content.
    lines += [_shipped(experiment, [a.partition("/")[2] for a in artefacts if a.startswith("teachers/")])]
    if here:
        judged = {artefact.split("/")[2] for artefact in left if artefact.startswith("scores/")}
        judged |= {artefact.split("/")[1] for artefact in left if artefact.startswith("verdicts/")}
        lines += [_sandbox(experiment)] if judged & _programs(experiment).keys() else []
        lines += [_gpus(experiment)] if kinds & {"students", "trajectories", "answers"} else []
    return [f"{line.subject}: {line.text}" for line in lines if line.state == "todo"]


def _planned(experiment: Experiment, artefacts: Sequence[str]) -> list[str]:
    """Those that Snakemake makes: they do not fit, and nothing comes from them or something that it makes does.

    A model whose scores are here needs no source, be the model here or not.
    """
    used_by: dict[str, set[str]] = defaultdict(set)
    for artefact in artefacts:
        for source in lineage.inputs_of(experiment, artefact):
            used_by[source].add(artefact)
    planned: dict[str, None] = {}
    # Inputs stand before what is made from them.
    for artefact in reversed(artefacts):
        if (not used_by[artefact] or used_by[artefact] & planned.keys()) and verify.fault(experiment, artefact):
            planned[artefact] = None
    return [*reversed(planned)]


def _programs(experiment: Experiment) -> dict[str, str]:
    """Benchmarks, and generations whose right answers are kept, if their answers are programs -> the sandbox."""
    judged = [artefact for key in experiment.teachers for artefact in lineage.verdict_shards(experiment, key)]
    kept = {key: experiment.generations[key] for key in dict.fromkeys(artefact.split("/")[1] for artefact in judged)}
    found = {key: (spec.prompts, "bubblewrap") for key, spec in kept.items()}
    found |= {key: (spec.prompts, spec.sandbox) for key, spec in experiment.benchmarks.items()}
    sets = experiment.prompt_sets
    return {key: box for key, (asked, box) in found.items() if sets[asked].domain in PROGRAM_DOMAINS}


def _sandbox(experiment: Experiment) -> Line:
    from t3d.sandbox.sandbox import Sandbox

    programs = _programs(experiment)
    if not programs:
        return Line("sandbox", "ok", "no answers are programs.")
    named = ", ".join(programs)
    for kind in sorted(set(programs.values())):
        try:
            with Sandbox(kind) as box:
                box.judge("def one(): return 1", "one", lambda program: None)
        except T3DError as error:
            return Line(
                "sandbox",
                "todo",
                f"{error} Verdicts on {named} need it. If bubblewrap is there, allow user namespaces "
                "(sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns).",
            )
    return Line("sandbox", "ok", f"programs of {named} run in {', '.join(sorted(set(programs.values())))}.")


def _gpus(experiment: Experiment) -> Line:
    wanted = max(experiment.training_processes, experiment.decoding_processes)
    if experiment.device != "cuda" and not experiment.gpus:
        return Line("GPU", "ok", "none is needed.")
    listed = _said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    found = [line.split(", ") for line in (listed or "").splitlines() if ", " in line]
    elsewhere = "look on a node" if shutil.which("sbatch") else "run it on a machine with GPUs, or with --profile slurm"
    if not found:
        state: State = "todo" if experiment.device == "cuda" and not shutil.which("sbatch") else "note"
        said = f"nvidia-smi names none here; jobs ask for up to {wanted}: {elsewhere}"
        if state == "todo":
            said += f"; or set `device: auto` in params/{experiment.name}.yaml, which computes on the CPU, slowly"
        return Line("GPU", state, f"{said}.")
    import torch

    names = f"{len(found)} x {found[0][0]}, driver {found[0][1]}"
    if not torch.cuda.is_available():
        return Line(
            "GPU",
            "todo",
            f"{names}: PyTorch {torch.__version__} (CUDA {torch.version.cuda}) cannot use it. Update the driver, or "
            "install a PyTorch built for an older CUDA.",
        )
    if wanted > (count := torch.cuda.device_count()):
        field = "training_processes" if experiment.training_processes == wanted else "decoding_processes"
        what = f"params/{experiment.name}.yaml: {field} is {wanted}, and this machine has {count}"
        return Line("GPU", "todo", f"{names}; {what}: lower it, or {elsewhere}.")
    return Line("GPU", "ok", f"{names}; PyTorch {torch.__version__} uses it.")


def _slurm(experiment: Experiment) -> Line:
    if shutil.which("sbatch") is None:
        return Line("Slurm", "note", "no sbatch here; only --profile slurm needs it.")
    nodes = _said("sinfo", "--noheader", "--format=%G")
    if nodes is None:
        state: State = "todo" if experiment.gpus else "note"
        return Line("Slurm", state, "sinfo does not answer: is this a login node of a cluster that runs?")
    wanted = max(experiment.training_processes, experiment.decoding_processes)
    most = max((int(number) for number in re.findall(r"gpu(?::[^:,()\s]+)?:(\d+)", nodes)), default=0)
    if experiment.gpus and wanted > most:
        return Line(
            "Slurm",
            "todo",
            f"a job asks for {wanted} GPUs of one node, and no node lists more than {most}: lower training_processes "
            f"and decoding_processes in params/{experiment.name}.yaml.",
        )
    with reading(_PROFILE, f"Mend it, or restore it (git checkout {_PROFILE}).", ParameterError):
        chosen = (read_yaml(_PROFILE).get("default-resources") if _PROFILE.is_file() else None) or {}
        # A mapping, or lines `name=value`: Snakemake takes both.
        names = {str(line).partition("=")[0] for line in chosen}
    missing = [key for key in ("slurm_account", "slurm_partition") if key not in names]
    asked = f"{_PROFILE} does not set {' and '.join(missing)}: Slurm's defaults are used. " if missing else ""
    node = f"srun{' --gpus=1' if experiment.gpus else ''} t3d doctor --experiment {experiment.name}"
    up_to = f"nodes have up to {most} GPUs. " if experiment.gpus else ""
    return Line("Slurm", "note", f"{up_to}{asked}Look at a node, too: {node}")


def _pins(experiment: Experiment, names: Collection[str] | None = None) -> Line:
    chosen = [name for name in experiment.sources if names is None or name in names]
    where = f"params/{experiment.name}.yaml"
    if loose := [name for name in chosen if not experiment.sources[name].pinned]:
        command = f"t3d pin --experiment {experiment.name}"
        return Line(
            "pins",
            "todo",
            f"{where}: sources {', '.join(loose)} are not pinned. `{command}` prints what to paste there.",
        )
    lacking = {name: fault for name in chosen if (fault := local.missing(experiment, name))}
    if lacking:
        first, *others = lacking
        said = lacking[first]
        if others:
            fields = ", ".join(f"sources.{name}.local ({experiment.sources[name].local})" for name in others)
            said += f" Files are missing in {fields}, too."
        if Path("results", experiment.name, store.INDEX).is_file():
            said += (
                f" The published tables need none of them: {store.pulling(experiment.name)}, then snakemake -s "
                f"workflow/report.smk --cores all --config experiment={experiment.name}"
            )
        return Line("pins", "todo", said)
    return Line("pins", "ok", f"{len(experiment.sources)} sources, all pinned.")


def _shipped(experiment: Experiment, names: Iterable[str] | None = None) -> Line:
    teachers = experiment.teachers
    chosen = [name for name in (teachers if names is None else names) if teachers[name].path is not None]
    try:
        for name in chosen:
            recipes.shipped_manifest(experiment, name)
    except MissingInputError as error:
        return Line("teachers", "todo", str(error))
    return Line("teachers", "ok", f"{', '.join(chosen)}: shipped, and here." if chosen else "none is shipped.")


def _disk(experiment: Experiment) -> Line:
    products = lineage.targets(experiment).values()
    behind = [a.split("/") for a in lineage.artefacts_of(experiment, products)]
    fetched = [t.parameters for t in experiment.teachers.values() if t.hub is not None]
    trained = [
        experiment.teachers[lineage.teacher_behind(experiment, name)] for kind, name, *_ in behind if kind == "students"
    ]
    # The hub's are bf16, students are saved as they were trained, in float32.
    models = 2 * sum(fetched) + 4 * sum(teacher.parameters for teacher in trained)
    state = 2 * _STATE * max((teacher.parameters for teacher in trained), default=0.0)
    needed, free = (models + state) / 1e9, shutil.disk_usage(".").free / 1e9
    said = (
        f"{free:.0f} GB free here; models of the default tables take {models / 1e9:.1f} GB, and each student in "
        f"training up to {state / 1e9:.1f} GB of states."
    )
    return Line("disk", "ok" if free > needed else "todo", said if free > needed else f"{said} Make room.")


def _autoregressive(experiment: Experiment) -> Line:
    products = [*experiment.tables.values(), *experiment.figures.values()]
    rows = {getattr(product, "autoregressive", None) for product in products} - {None}
    served = sorted(name for name in rows if name is not None and experiment.teachers[name].engine is None)
    if not served:
        return Line("vLLM", "ok", "no table or figure needs it.")
    if (lineage.VLLM / "installed").is_file():
        return Line("vLLM", "ok", f"installed, for {', '.join(served)}.")
    how = f"make vllm-env{' VLLM_FOR=cuda' if experiment.gpus else ''}"
    return Line("vLLM", "note", f"not installed: tables and figures will lack {', '.join(served)}. {how} installs it.")


def _said(*command: str) -> str | None:
    """What a command prints; None where it is missing, fails or does not end."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
