"""What an experiment makes and from what: the edges of the DAG, by artefact name (see `t3d.recipes`).

The rules of `workflow/` ask here what a job needs, and so do `t3d verify`, `publish` and `trace`: an edge is written
down once.
"""

from collections.abc import Iterable
from pathlib import Path

from t3d.errors import T3DError
from t3d.params import Comparison, Experiment, FactorisationFigure, Product, ServedTable, TrainingFigure
from t3d.params.reporting import AnyFigure
from t3d.trajectories.names import shard_names

VLLM = Path(__file__).parents[1] / "workflow" / "envs" / "vllm" / ".venv"
"""vLLM's environment; `make vllm-env` ends with a file `installed` in it."""

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
        if teacher.initial is not None:
            answers = [part for key in teacher.generations or () for part in generation_shards(experiment, key)]
            return [f"teachers/{teacher.initial}", *answers]
        if teacher.pretraining is not None and teacher.pretraining.initial is not None:
            return [f"teachers/{teacher.pretraining.initial}"]
        return [f"sources/{teacher.hub}"] if teacher.hub else []
    if kind == "prompts":
        spec = experiment.prompt_sets[name]
        if spec.generations is not None:
            # What the model wrote is compared with the benchmarks' questions, before a diffusion LM asks them.
            asked = [experiment.prompt_sets[benchmark.prompts].source for benchmark in experiment.benchmarks.values()]
            origins = dict.fromkeys(f"sources/{source}" for source in asked if source is not None)
            return [f"teachers/{spec.teacher}", *generation_shards(experiment, spec.generations), *origins]
        return [f"teachers/{spec.teacher}", *([f"sources/{spec.source}"] if spec.source else [])]
    if kind == "generations":
        answered = experiment.generations[name].prompts
        return [f"teachers/{experiment.prompt_sets[answered].teacher}", f"prompts/{answered}"]
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


def generation_shards(experiment: Experiment, generations: str) -> list[str]:
    """Artefacts of the shards of an autoregressive teacher's answers."""
    return [f"generations/{generations}/{shard}" for shard in shard_names(experiment.generations[generations])]


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
    if here or not _can_be_made(experiment, product):
        served = served if all(_is_here(experiment, artefact) for artefact in served) else []
    return ["/".join([kind, *cell]) for cell in experiment.cells_of(product)] + served


def _can_be_made(experiment: Experiment, product: Product) -> bool:
    """Whether the answers of a product's autoregressive row can be made here."""
    name = product.autoregressive if isinstance(product, ServedTable) else None
    return (VLLM / "installed").is_file() or (name is not None and experiment.teachers[name].engine is not None)


def _is_here(experiment: Experiment, artefact: str) -> bool:
    from t3d import receipts  # it asks this module what an artefact is made from

    try:
        receipts.check_recipes(receipts.read(receipts.manifest_path(experiment, artefact)), experiment)
    except T3DError:
        return False
    return True


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
    return origins_of(experiment, (artefact for product in products for artefact in material_of(experiment, product)))


def origins_of(experiment: Experiment, artefacts: Iterable[str]) -> list[str]:
    """Some artefacts and everything they are made from, inputs before what is made from them."""
    found: dict[str, None] = {}

    def add(artefact: str) -> None:
        if artefact not in found:
            for source in inputs_of(experiment, artefact):
                add(source)
            found[artefact] = None

    for artefact in artefacts:
        add(artefact)
    return list(found)
