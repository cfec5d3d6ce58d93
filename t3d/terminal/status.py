"""`t3d status`: what of an experiment is there, what fits its parameters, what is running and what remains.

Manifests and receipts are read, sizes are compared, no content is hashed: `t3d verify` does that. Snakemake decides
what runs (`snakemake -n results/table1.csv`); this shows at a glance where things stand.
"""

import filecmp
import json
import textwrap
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from t3d.errors import MissingInputError, T3DError
from t3d.params import Experiment, Product, TrainingFigure
from t3d.provenance import lineage, recipes, records, store, unseen, verify
from t3d.provenance.store import manifest_path
from t3d.terminal import remaining
from t3d.terminal.remaining import Remaining

MADE, STALE, MISSING, INCOMPLETE, EARLIER = "made", "stale", "missing", "incomplete", "older code"
_COLOURS = {MADE: 32, STALE: 33, MISSING: 2, INCOMPLETE: 36, EARLIER: 36}
_WIDTH = max(map(len, _COLOURS))

_MEANINGS = {
    STALE: "the file is older than what it shows, or parameters, inputs or code have changed since; Snakemake makes it "
    "again when it is asked for.",
    EARLIER: "the file fits all that it shows; the code of tables and figures has changed since it was made. Snakemake "
    "makes it again when it is asked for, from what is here.",
    INCOMPLETE: "the file is here, from git for example; some of what it shows is not.",
}
"""Of a target's states, those whose name does not say it all."""


@dataclass(frozen=True)
class Target:
    """A table or figure and what it shows."""

    path: str
    state: str
    """`made`: the file is there, and fits all that it shows; `stale`: older than what it shows, or that is stale;
    `older code`: made by other code of tables and figures; `incomplete`: the file is there, as git keeps it, but not
    all that it shows is; `missing`."""
    made: int
    """Artefacts behind it that are made and fit, of so many: `of`."""
    of: int
    on_request: bool


@dataclass(frozen=True)
class Stage:
    """How many artefacts of a kind are in which state, of those behind the default tables and figures."""

    kind: str
    made: int
    stale: int
    missing: int


@dataclass(frozen=True)
class Running:
    """An artefact with traces of a job: one that is running, or that was killed and will go on."""

    artefact: str
    quiet_seconds: float
    """Since something was last written."""
    step: int | None
    """Of a training: its steps so far, saved or not."""
    of: int | None


@dataclass(frozen=True)
class Status:
    """Where an experiment stands."""

    experiment: str
    targets: list[Target]
    stages: list[Stage]
    stale: dict[str, str]
    """Stale artefact -> why."""
    running: list[Running]
    remaining: Remaining


def look(experiment: Experiment) -> Status:
    """See where an experiment stands; nothing is changed, and no content is hashed."""
    products = lineage.targets(experiment, on_request=True)
    every = lineage.artefacts_of(experiment, products.values())
    wanted = lineage.artefacts_of(experiment, lineage.targets(experiment).values())
    here = set(every).intersection(verify.made(experiment).values())
    faults = {artefact: verify.fault(experiment, artefact, files="sizes") for artefact in every if artefact in here}
    state = {artefact: _state(faults[artefact]) if artefact in here else MISSING for artefact in every}
    receipts = {artefact: store.find_receipt(experiment, artefact) or {} for artefact in here}
    targets = []
    states_alone: dict[str, str] = {}
    for name, product in products.items():
        behind = lineage.artefacts_of(experiment, [product])
        path = Path("results", experiment.name, name)
        states = [state[artefact] for artefact in behind]
        shown = lineage.inputs_of_target(experiment, product)
        finished = max((_finished(receipts.get(artefact, {})) for artefact in shown), default=0.0)
        if isinstance(product, TrainingFigure):
            # Weights need not be here.
            absent = bool(verify.missing_of(experiment, product))
        else:
            absent = any(state[artefact] == MISSING for artefact in shown)
        own = states_alone[str(path)] = _seen(experiment, product, path, finished, absent)
        seen = STALE if STALE in states and own != MISSING else own
        targets.append(Target(str(path), seen, states.count(MADE), len(states), product.on_request))
    partials = {str(path): path for path in Path("data", experiment.name).rglob("*.partial")}
    kinds: dict[str, list[str]] = defaultdict(list)
    for artefact in sorted(wanted, key=lambda artefact: recipes.KINDS.index(artefact.partition("/")[0])):
        kinds[artefact.partition("/")[0]].append(state[artefact])
    return Status(
        experiment.name,
        targets,
        [Stage(kind, *(found.count(s) for s in (MADE, STALE, MISSING))) for kind, found in kinds.items()],
        {artefact: str(fault) for artefact, fault in faults.items() if state[artefact] == STALE},
        [job for artefact in every if (job := _running(experiment, artefact, state[artefact], partials))],
        remaining.of(experiment, every, receipts, *_planned(experiment, wanted, state, states_alone)),
    )


def _state(fault: T3DError | None) -> str:
    if fault is None:
        return MADE
    return MISSING if isinstance(fault, MissingInputError) else STALE


def _seen(experiment: Experiment, product: Product, path: Path, finished: float, absent: bool) -> str:
    """State of a table or figure, but for stale artefacts behind it: the last of what it shows was finished then, and
    something that it shows is not here."""
    if not path.is_file():
        return MISSING
    if path.stat().st_mtime < finished:
        return STALE
    known = records.of(str(path)).get("params")
    if known is not None and repr(recipes.shown(experiment, product)) not in known:
        return EARLIER if not absent and recipes.differ_by_code(experiment, product, known) else STALE
    return INCOMPLETE if absent else MADE


def _finished(receipt: dict[str, Any]) -> float:
    """When an artefact was finished, in seconds since 1970; 0 if its receipt does not say."""
    return datetime.fromisoformat(receipt["finished"]).timestamp() if "finished" in receipt else 0.0


def _running(experiment: Experiment, artefact: str, state: str, partials: dict[str, Path]) -> Running | None:
    partial = partials.get(f"data/{experiment.name}/{artefact}.partial")
    folder, of = _training(experiment, artefact)
    # A job that ends removes both; beside a student that is made, they were left by a job that was killed at its end.
    states = list(folder.glob("step*")) if folder and state != MADE else []
    written = [*([partial, *partial.rglob("*")] if partial else []), *states]
    times = []
    for file in written:
        try:
            times.append(file.stat().st_mtime)
        except FileNotFoundError:
            # The job went on while we looked.
            continue
    if not times:
        return None
    step = None
    if folder is not None:
        with suppress(OSError, ValueError):
            step = int((folder / lineage.STEP).read_text())
    return Running(artefact, max(time.time() - max(times), 0.0), step, of)


def _training(experiment: Experiment, artefact: str) -> tuple[Path | None, int | None]:
    """Where the states of a training are, and of how many steps it is; for another artefact neither."""
    kind, _, name = artefact.partition("/")
    if kind == "students":
        student = experiment.students[lineage.runs(experiment)[name][0]]
        return Path("work", experiment.name, name), student.optimizer.steps
    if kind == "teachers":
        teacher = experiment.teachers[name]
        if (spec := teacher.pretraining or teacher.conversion) is not None:
            return Path("data", experiment.name, f"{artefact}.states"), spec.steps
    return None, None


def _planned(
    experiment: Experiment, wanted: list[str], state: dict[str, str], targets: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Artefacts that Snakemake would make for the default tables and figures, and those of the latter it would make.

    It looks for what is missing behind what it makes, not behind what is there; and what is made from something that is
    made again is made again. Of an artefact that no job reads the manifest is enough.
    """
    made_from = {artefact: lineage.inputs_of(experiment, artefact) for artefact in wanted}
    shows: dict[str, list[str]] = {}
    made: set[str] = set()
    needed: set[str] = set()
    loose: set[str] = set()
    for name, product in lineage.targets(experiment).items():
        path, copy = Path("results", experiment.name, name), Path("results", name)
        shows[str(path)] = lineage.inputs_of_target(experiment, product)
        if targets[str(path)] in (MISSING, STALE, EARLIER):
            made.add(str(path))
        if isinstance(product, TrainingFigure):
            loose.add(str(path))
        if path.suffix != ".csv":
            # The target of all asks for them.
            needed.update(shows[str(path)])
            continue
        shows[str(copy)] = [str(path), *shows[str(path)]]
        if not copy.is_file() or (path.is_file() and not filecmp.cmp(path, copy, shallow=False)):
            made.add(str(copy))
    metrics = lineage.metrics_of(experiment)
    shows[str(metrics)] = [path for path in targets if path in shows and path.endswith(".csv")]
    if not metrics.is_file():
        made.add(str(metrics))
    made |= {artefact for artefact in wanted if state[artefact] == STALE and not _kept(experiment, artefact)}
    missing = [artefact for artefact in wanted if state[artefact] == MISSING]
    hollow = [artefact for artefact in missing if manifest_path(experiment, artefact).is_file()]
    absent = set(missing).difference(hollow)
    made = unseen.made_again(made_from | shows, made, needed, absent, hollow, loose)
    return [artefact for artefact in wanted if artefact in made], [path for path in shows if path in made]


def _kept(experiment: Experiment, artefact: str) -> bool:
    """Whether nothing but an input is another one, and not newer: Snakemake compares times first."""
    try:
        manifest = verify.read(experiment, artefact)
        manifest.check(contents=False)
        verify.check(experiment, manifest)
    except T3DError:
        return False
    paths = [manifest_path(experiment, source) for source in manifest.inputs]
    made = manifest.path.stat().st_mtime
    return all(path.stat().st_mtime <= made for path in paths if path.is_file())


def to_json(status: Status) -> str:
    """The status for programs."""
    return json.dumps(asdict(status), indent=1)


def to_text(status: Status, colours: bool = False, width: int | None = None) -> str:
    """The status for people, with colours for a terminal, sentences broken at its width."""

    def said(state: str, text: str) -> str:
        return f"\x1b[{_COLOURS[state]}m{text}\x1b[0m" if colours else text

    listed = _listed(status)
    folder = f"results/{status.experiment}/"
    names = [target.path.removeprefix(folder) for target in listed]
    longest = max(map(len, names), default=0)
    lines = [f"experiment {status.experiment}, {folder}"]
    for name, target in zip(names, listed, strict=True):
        state = said(target.state, f"{target.state:<{_WIDTH}}")
        lines.append(f" {name:<{longest}}  {state}  {target.made} of {target.of} artefacts")
    above, below = _notes(status)
    if width is not None:
        above, below = ([textwrap.fill(text, width) for text in texts] for texts in (above, below))
    lines += [*above, "", f" {'stage':<13}  {MADE:>12}  {STALE:>7}  {MISSING:>7}"]
    for stage in status.stages:
        whole = STALE if stage.stale else MISSING if stage.missing else MADE
        made = said(whole, f"{f'{stage.made} of {stage.made + stage.stale + stage.missing}':>12}")
        lines.append(f" {stage.kind:<13}  {made}  {stage.stale:>7}  {stage.missing:>7}")
    return "\n".join([*lines, "", *below])


def _listed(status: Status) -> list[Target]:
    """The default ones, and of the others those that exist."""
    return [target for target in status.targets if not target.on_request or target.state != MISSING]


def _notes(status: Status) -> tuple[list[str], list[str]]:
    """Lines below the targets, and lines below the stages."""
    listed = _listed(status)
    others = [Path(target.path).stem for target in status.targets if target not in listed]
    above = [f"Made on request: {', '.join(others)}."] if others else []
    states = {target.state for target in listed}
    above += [f"{state}: {why}" for state, why in _MEANINGS.items() if state in states]
    if any(target.made < target.of and target.state in (MADE, EARLIER) for target in listed):
        above.append(
            "All that such a file shows is here. Of what that was made from (models, answers) something is not, as "
            "after t3d pull scores."
        )
    below = [f"stale: {reason}" for reason in list(status.stale.values())[:5]]
    if len(status.stale) > len(below):
        below.append(f"stale: {len(status.stale) - len(below)} more (--json lists them)")
    for job in status.running:
        step = f", step {job.step or 0} of {job.of}" if job.of else ""
        below.append(f"begun: {job.artefact}{step}, last written {_duration(job.quiet_seconds)} ago")
    return above, [*below, _left(status)]


def _left(status: Status) -> str:
    left = status.remaining
    if not left.jobs:
        if any(target.state == INCOMPLETE and not target.on_request for target in status.targets):
            return "Nothing is left to make: all default tables and figures are files that are here."
        return "All default tables and figures are made."
    jobs = f"{left.jobs} job{'s' if left.jobs > 1 else ''} left"
    if left.by == "cost" and not left.seconds:
        return f"{jobs}, all of them tables and figures: no GPU."
    if left.by == "cost":
        return f"{jobs}, about {left.seconds / 3600:.1f} A100 hours (t3d cost --experiment {status.experiment})."
    if left.unknown == left.jobs:
        return f"{jobs}; nothing of their kind was made yet that would say how long they take."
    known = f"{jobs}, about {_duration(left.seconds)} as the sum of job times"
    return f"{known}, and {left.unknown} of unknown time." if left.unknown else f"{known}."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
