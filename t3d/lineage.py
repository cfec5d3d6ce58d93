"""What an experiment makes and from what: the edges of the DAG, by artefact name (see `t3d.recipes`).

The rules of `workflow/` ask here what a job needs, and so do `t3d verify`, `publish` and `trace`: an edge is written
down once.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from t3d import receipts, recipes
from t3d.errors import MissingInputError, T3DError
from t3d.params import Comparison, Experiment, FactorisationFigure, Product, TrainingFigure
from t3d.params.reporting import AnyFigure
from t3d.trajectories.names import shard_names

VLLM = Path(__file__).parents[1] / "workflow" / "envs" / "vllm" / ".venv"
"""vLLM's environment; `make vllm-env` ends with a file `installed` in it."""

MISSING = "missing"
"""The fault of an artefact that is not here, or not all of it."""
LOG = "training.jsonl"
"""The log in a student's folder."""


def inputs_of(experiment: Experiment, artefact: str) -> list[str]:
    """Artefacts that `artefact` is made from, its model first; of a student and its rollouts that is the teacher.

    Raises:
        KeyError: the experiment makes no such artefact.
    """
    kind, _, rest = artefact.partition("/")
    name, *more = rest.split("/")
    if kind == "sources":
        experiment.sources[name]
        return []
    if kind == "teachers":
        teacher = experiment.teachers[name]
        if teacher.pretraining is not None and teacher.pretraining.initial is not None:
            return [f"teachers/{teacher.pretraining.initial}"]
        return [f"sources/{teacher.hub}"] if teacher.hub else []
    if kind == "prompts":
        spec = experiment.prompt_sets[name]
        return [f"teachers/{spec.teacher}", *([f"sources/{spec.source}"] if spec.source else [])]
    if kind == "trajectories":
        decoded = experiment.trajectories[name]
        given = [f"teachers/{experiment.prompt_sets[decoded.prompts].teacher}", f"prompts/{decoded.prompts}"]
        if decoded.model is None:
            return given
        run = f"{decoded.model}-{more[0].rsplit('-', 3)[0]}"
        experiment.runs[run]
        return [*given, f"students/{run}"]
    if kind == "students":
        key, seed = experiment.runs[name]
        student = experiment.students[key]
        models = [f"teachers/{experiment.teacher_of(student)}"]
        if (initial := experiment.initial_of(name)) is not None:
            models.append(f"students/{initial}")
        shards = [shard for rollouts in student.trajectories for shard in shards_of(experiment, rollouts, seed)]
        # Rows without the suffix are made of the question, which the rollouts do not hold.
        gold = experiment.prompts_of(student) if student.prompts or student.rows.prompt == "bare" else ()
        return [*models, *shards, *(f"prompts/{prompts}" for prompts in gold)]
    if kind == "factorisation":
        return [model(experiment, name), *shards_of(experiment, more[0])]
    questions = f"prompts/{experiment.benchmarks[more[0]].prompts}"
    if kind == "answers":
        return [model(experiment, name), questions]
    if kind == "scores":
        return [f"answers/{rest}", questions]
    raise KeyError(kind)


def model(experiment: Experiment, name: str) -> str:
    """Artefact of a model on disk: a teacher, or a student's run."""
    return f"{'teachers' if name in experiment.teachers else 'students'}/{name}"


def shards_of(experiment: Experiment, trajectories: str, seed: int = 0) -> list[str]:
    """Artefacts of the shards of a set of rollouts; where a student decodes, those of one of its seeds."""
    names = shard_names(experiment.trajectories[trajectories], seed)
    return [f"trajectories/{trajectories}/{shard}" for shard in names]


def material_of(experiment: Experiment, product: Product, here: bool = False) -> list[str]:
    """Artefacts that a table or a figure is made from, by its kind.

    Args:
        experiment: whose product it is.
        product: a table or figure.
        here: of an autoregressive row only what is here, not what vLLM could make; a table can do without the row.
    """
    if isinstance(product, TrainingFigure | FactorisationFigure):
        students = [run for key in product.students for run in experiment.runs_of(key)]
        if isinstance(product, TrainingFigure):
            return [f"students/{run}" for run in students]
        return [f"factorisation/{m}/{name}" for m in [product.teacher, *students] for name in product.trajectories]
    kind = "answers" if product.kind == "commits" else "scores"
    served = ["/".join([kind, *place.cell]) for place in experiment.autoregressive_places(product)]
    if (here or not (VLLM / "installed").is_file()) and any(
        why for _, why in faults(experiment, served, thorough=False)
    ):
        served = []
    return ["/".join([kind, *cell]) for cell in experiment.cells_of(product)] + served


def missing_of(experiment: Experiment, product: Product, here: bool = False) -> dict[str, Path]:
    """Artefact that a table or figure is made from -> its first file that is not here, or that is no manifest.

    A training figure reads the logs of students; their weights need not be here.

    Args:
        experiment: whose product it is.
        product: a table or figure.
        here: as for `material_of`.
    """
    missing = {}
    for artefact in material_of(experiment, product, here):
        path = receipts.manifest_path(experiment, artefact)
        try:
            listed = [path.parent / name for name in receipts.read(path).files]
            files = [file for file in listed if file.name == LOG or not isinstance(product, TrainingFigure)]
        except T3DError:
            missing[artefact] = path
            continue
        if absent := [file for file in files if not file.is_file()]:
            missing[artefact] = absent[0]
    return missing


def faults(experiment: Experiment, artefacts: Iterable[str], thorough: bool = True) -> Iterator[tuple[str, str]]:
    """Artefact -> why it has to be made again: `MISSING`, another reason, or nothing. No content is hashed.

    Args:
        experiment: whose parameters they should fit.
        artefacts: their names.
        thorough: look for the files that a manifest lists, compare their sizes, and compare the inputs that are here
            with those it names. If not, a manifest and the parameters it records are all that is looked at.
    """

    @cache
    def recipe(artefact: str) -> str | None:
        try:
            return recipes.digest(experiment, artefact)
        except T3DError:
            return None

    @cache
    def digest(path: Path) -> str | None:
        return receipts.sha256(path) if path.is_file() else None

    for artefact in artefacts:
        path = receipts.manifest_path(experiment, artefact)
        if not path.is_file():
            yield artefact, MISSING
            continue
        try:
            manifest = receipts.read(path)
            if thorough:
                manifest.check(contents=False)
        except MissingInputError:
            # Only its manifest was published, or a file was deleted.
            yield artefact, MISSING
            continue
        except T3DError as error:
            yield artefact, str(error)
            continue
        # Its own parameters first: what was made from another thing is told by that thing's.
        others = [made for made, found in manifest.recipes.items() if recipe(made) != found]
        if others:
            yield artefact, f"other parameters of {artefact if artefact in others else others[0]}"
            continue
        # An input need not be here to trust what was made from it; if it is here, it must be the one.
        inputs = [
            source
            for source, found in (manifest.inputs if thorough else {}).items()
            if digest(receipts.manifest_path(experiment, source)) not in (None, found)
        ]
        yield artefact, f"{inputs[0]} was made again since" if inputs else ""


def students_of(experiment: Experiment, figure: AnyFigure) -> list[str]:
    """Students with a colour in a figure; of a row that is another student in each panel, the first."""
    if isinstance(figure, Comparison):
        return [row.model for row in experiment.rows_of(figure) if row.model in experiment.students]
    return list(figure.students)


def products_of(experiment: Experiment, on_request: bool = False) -> dict[str, Product]:
    """File below `results/<experiment>/` -> the table or figure it shows; those on request only if asked for."""
    products: dict[str, Product] = {f"{name}.csv": table for name, table in experiment.tables.items()}
    products |= {f"figures/{name}.pdf": figure for name, figure in experiment.figures.items()}
    return {name: product for name, product in products.items() if on_request or not product.on_request}


def artefacts_of(experiment: Experiment, products: Iterable[Product]) -> list[str]:
    """Every artefact behind some tables and figures, inputs before what is made from them."""
    return closure_of(experiment, [a for product in products for a in material_of(experiment, product)])


def closure_of(experiment: Experiment, artefacts: Iterable[str]) -> list[str]:
    """Some artefacts and all that they are made from, inputs first.

    Raises:
        KeyError: the experiment makes no such artefact.
    """
    found: dict[str, None] = {}

    def add(artefact: str) -> None:
        if artefact not in found:
            for source in inputs_of(experiment, artefact):
                add(source)
            found[artefact] = None

    for artefact in artefacts:
        add(artefact)
    return list(found)
