"""The lineage: what an experiment makes, and from what. It has the edges of the DAG, by names of artefacts.

Every edge is written down once: the rules of `workflow/` ask here what a job needs, and so do `t3d verify`, `publish`
and `trace`.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from t3d.errors import ParameterError, short
from t3d.params import (
    AUTOREGRESSIVE,
    Comparison,
    Experiment,
    FactorisationFigure,
    Generations,
    Product,
    ServedComparison,
    TrainingFigure,
    Trajectories,
)
from t3d.params.reporting import AnyFigure
from t3d.params.students import run_name

VLLM = Path(__file__).parents[2] / "workflow" / "envs" / "vllm" / ".venv"
"""vLLM's environment; `make vllm-env` ends with a file `installed` in it."""

LOG = "training.jsonl"
"""The log in a student's folder."""
STEP = "step"
"""The file beside a training's states that holds how many steps are done, saved or not."""


@dataclass(frozen=True)
class TableRow:
    """A row of a comparison: its label, and column -> the teacher or student it shows, and the benchmark answered."""

    label: str
    models: dict[str, str]
    benchmarks: dict[str, str]

    @property
    def model(self) -> str:
        """The model of its first column, which gives the row its colour, marker and seeds."""
        return next(iter(self.models.values()))


ScoreKey = tuple[str, str, str]
"""Model on disk, benchmark, budget: what a score is about."""


@dataclass(frozen=True)
class TableCell:
    """Where a score stands in a comparison: row, seed, column and budget; `cell` says which score it is."""

    label: str
    seed: int
    column: str
    budget: str
    cell: ScoreKey


def inputs_of(experiment: Experiment, artefact: str) -> list[str]:
    """The artefacts that `artefact` is made from, its model first; for a student and its rollouts, that is the teacher.

    Raises:
        ParameterError: the experiment makes no such artefact.
    """
    return [source for sources in named_inputs_of(experiment, artefact).values() for source in sources]


@lru_cache(maxsize=2**14)
def named_inputs_of(experiment: Experiment, artefact: str) -> dict[str, list[str]]:
    """Option of the verb that makes `artefact` -> the artefacts that are given with it; raises as `inputs_of`."""
    try:
        return _named_inputs_of(experiment, artefact)
    except (KeyError, IndexError) as error:
        raise ParameterError(
            f"experiment {experiment.name} makes no {short(repr(artefact))}: unknown {short(str(error))}."
        ) from error


def _named_inputs_of(experiment: Experiment, artefact: str) -> dict[str, list[str]]:
    kind, _, rest = artefact.partition("/")
    name, *more = rest.split("/")
    if kind == "sources":
        experiment.sources[name]
        return {}
    if kind == "teachers":
        teacher = experiment.teachers[name]
        return {
            "source": [f"sources/{teacher.hub}"] if teacher.hub else [],
            "teacher": [f"teachers/{teacher.initial}"] if teacher.initial else [],
            "shards": [part for key in teacher.generations or () for part in generation_shards(experiment, key)]
            + verdict_shards(experiment, name),
        }
    if kind == "prompts":
        spec = experiment.prompt_sets[name]
        sources = [spec.source]
        if spec.generations is not None:
            # What the model wrote is compared with the benchmarks' questions, before a diffusion LM asks them.
            sources = [experiment.prompt_sets[benchmark.prompts].source for benchmark in experiment.benchmarks.values()]
        return {
            "teacher": [f"teachers/{spec.teacher}"],
            "shards": generation_shards(experiment, spec.generations) if spec.generations is not None else [],
            "source": [f"sources/{source}" for source in dict.fromkeys(sources) if source is not None],
            "prompts": [f"prompts/{spec.examples}"] if isinstance(spec.examples, str) else [],
        }
    if kind in ("generations", "trajectories"):
        decoded = getattr(experiment, kind)[name]
        given = {
            "teacher": [f"teachers/{experiment.prompt_sets[decoded.prompts].teacher}"],
            "prompts": [f"prompts/{decoded.prompts}"],
        }
        if kind == "generations":
            return given
        if decoded.model is None:
            return given | {"student": []}
        run = f"{decoded.model}-{more[0].rsplit('-', 3)[0]}"
        runs(experiment)[run]
        return given | {"student": [f"students/{run}"]}
    if kind == "verdicts":
        asked = experiment.prompt_sets[experiment.generations[name].prompts]
        return {
            # Its tokenizer turns ids into text.
            "teacher": [f"teachers/{asked.teacher}"],
            "prompts": [f"prompts/{experiment.generations[name].prompts}"],
            "answers": [f"generations/{rest}"],
        }
    if kind == "students":
        key, seed = runs(experiment)[name]
        student = experiment.students[key]
        initial = initial_of(experiment, name)
        shards = [shard for rollouts in student.trajectories for shard in shards_of(experiment, rollouts, seed)]
        # Rows without the suffix are made of the question, which the rollouts do not hold.
        gold = experiment.prompts_of(student) if student.prompts or student.rows.prompt == "bare" else ()
        return {
            "teacher": [f"teachers/{experiment.teacher_of(student)}"],
            "student": [] if initial is None else [f"students/{initial}"],
            "data": [*shards, *(f"prompts/{prompts}" for prompts in gold)],
        }
    if kind == "factorisation":
        return {"model": [model(experiment, name)], "shards": shards_of(experiment, more[0])}
    questions = [f"prompts/{experiment.benchmarks[more[0]].prompts}"]
    if kind == "answers":
        return {"model": [model(experiment, name)], "prompts": questions}
    if kind == "scores":
        return {"answers": [f"answers/{rest}"], "prompts": questions}
    raise KeyError(kind)


def model(experiment: Experiment, name: str) -> str:
    """Artefact of a model on disk: a teacher, or a student's run."""
    return f"{'teachers' if name in experiment.teachers else 'students'}/{name}"


def shard_names(trajectories: Trajectories | Generations, seed: int = 0) -> list[str]:
    """`0-of-2`, `1-of-2`; where a student decodes, those of one of its seeds: `seed0-0-of-2`, `seed0-1-of-2`."""
    whose = f"seed{seed}-" if isinstance(trajectories, Trajectories) and trajectories.model is not None else ""
    return [f"{whose}{index}-of-{trajectories.shards}" for index in range(trajectories.shards)]


def shards_of(experiment: Experiment, trajectories: str, seed: int = 0) -> list[str]:
    """Artefacts of the shards of a set of rollouts; where a student decodes, those of one of its seeds."""
    names = shard_names(experiment.trajectories[trajectories], seed)
    return [f"trajectories/{trajectories}/{shard}" for shard in names]


def generation_shards(experiment: Experiment, generations: str) -> list[str]:
    """Artefacts of the shards of an autoregressive teacher's answers."""
    return [f"generations/{generations}/{shard}" for shard in shard_names(experiment.generations[generations])]


def verdict_shards(experiment: Experiment, teacher: str) -> list[str]:
    """Artefacts of the verdicts on the answers that a conversion learns from; none unless it keeps right ones only."""
    spec = experiment.teachers[teacher]
    judged = [key for key in spec.generations or () if spec.keeps_right and experiment.generations[key].task]
    return [f"verdicts/{key}/{shard}" for key in judged for shard in shard_names(experiment.generations[key])]


def inputs_of_target(experiment: Experiment, product: Product, here: bool = False) -> list[str]:
    """Artefacts that a table or a figure is made from, by its kind.

    Args:
        experiment: whose product it is.
        product: a table or figure.
        here: of an autoregressive model, take only scores that exist here, not those that vLLM could make; they
            are optional.
    """
    if isinstance(product, TrainingFigure | FactorisationFigure):
        students = [run for key in product.students for run in runs_of(experiment, key)]
        if isinstance(product, TrainingFigure):
            return [*(f"teachers/{key}" for key in product.teachers), *(f"students/{run}" for run in students)]
        return [f"factorisation/{m}/{name}" for m in [product.teacher, *students] for name in product.trajectories]
    kind = "answers" if product.kind == "commits" else "scores"
    served = ["/".join([kind, *place.cell]) for place in autoregressive_cells(experiment, product)]
    if here or not _can_be_made(experiment, product):
        from t3d.provenance import verify  # it asks this module what an artefact is made from

        served = [] if any(verify.fault(experiment, artefact) for artefact in served) else served
    return ["/".join([kind, *cell]) for cell in score_keys_of(experiment, product)] + served


def _can_be_made(experiment: Experiment, product: Product) -> bool:
    """Whether the answers of a product's autoregressive model can be made here."""
    name = product.autoregressive if isinstance(product, ServedComparison) else None
    return (VLLM / "installed").is_file() or (name is not None and experiment.teachers[name].engine is not None)


def students_of(experiment: Experiment, figure: AnyFigure) -> list[str]:
    """Students that have a colour in a figure; of a row that shows another student in each panel, the first."""
    if isinstance(figure, Comparison):
        return [row.model for row in rows_of(experiment, figure) if row.model in experiment.students]
    return list(figure.students)


def targets(experiment: Experiment, on_request: bool = False) -> dict[str, Product]:
    """File below `results/<experiment>/` -> the table or figure it shows; those on request only if asked for."""
    products: dict[str, Product] = {f"{name}.csv": table for name, table in experiment.tables.items()}
    products |= {f"figures/{name}.pdf": figure for name, figure in experiment.figures.items()}
    return {name: product for name, product in products.items() if on_request or not product.on_request}


def metrics_of(experiment: Experiment) -> Path:
    """Where the accuracies of the default tables lie in DVC's form."""
    return Path("results", experiment.name, "metrics.json")


def artefacts_of(experiment: Experiment, products: Iterable[Product]) -> list[str]:
    """Every artefact behind some tables and figures, inputs before what is made from them."""
    return origins_of(
        experiment, (artefact for product in products for artefact in inputs_of_target(experiment, product))
    )


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


@lru_cache(maxsize=8)
def runs(experiment: Experiment) -> dict[str, tuple[str, int]]:
    """Run name -> (student, seed): `t3d-seed0` for student `t3d` and seed 0."""
    return {run_name(key, seed): (key, seed) for key, student in experiment.students.items() for seed in student.seeds}


def check_processes(experiment: Experiment, run: str, processes: int) -> None:
    """Check that a run can be trained by so many processes.

    Raises:
        ParameterError: a step has too few micro-batches, or there is no such run.
    """
    if run not in runs(experiment):
        raise ParameterError(f"experiment {experiment.name} has no run {run!r}: {', '.join(runs(experiment))}.")
    key, _ = runs(experiment)[run]
    if fault := experiment.students[key].fault_of(processes):
        raise ParameterError(f"params/{experiment.name}.yaml: students.{key}.{fault}")


def runs_of(experiment: Experiment, model: str, seeds: Collection[int] | None = None) -> dict[str, int]:
    """Models on disk behind a row -> seed: a student's runs, those of `seeds` if given; or the teacher, seed 0."""
    if model in experiment.teachers:
        return {model: 0}
    own = {run: seed for run, (student, seed) in runs(experiment).items() if student == model}
    return {run: seed for run, seed in own.items() if seeds is None or seed in seeds}


def dtype_of(experiment: Experiment, model: str) -> str:
    """Number format in which a model on disk decodes: its teacher's."""
    return experiment.teachers[teacher_behind(experiment, model)].dtype


def teacher_behind(experiment: Experiment, model: str) -> str:
    """Name of the teacher that a model on disk is, or that it was copied from."""
    return (
        model
        if model in experiment.teachers
        else experiment.teacher_of(experiment.students[runs(experiment)[model][0]])
    )


def initial_of(experiment: Experiment, run: str) -> str | None:
    """The run whose weights the training of `run` begins with; None for the teacher's."""
    key, seed = runs(experiment)[run]
    other = experiment.students[key].initial
    return None if other is None else run_name(other, seed)


def rows_of(experiment: Experiment, product: Comparison) -> list[TableRow]:
    """The rows of a comparison: its teacher, its students in the experiment's order, its other rows."""
    same = {benchmark: benchmark for benchmark in product.benchmarks}
    whole = [(experiment.teachers[product.teacher].label, product.teacher)]
    whole += [(student.label, key) for key, student in experiment.students.items() if key in product.students]
    rows = [TableRow(label, dict.fromkeys(product.benchmarks, model), same) for label, model in whole]
    return rows + [TableRow(r.label, r.models(product.benchmarks), r.benchmarks or same) for r in product.rows]


def cells_of(experiment: Experiment, product: Comparison) -> Iterator[TableCell]:
    """Every place of a comparison, by column, row, seed and budget."""
    for column in product.benchmarks:
        for row in rows_of(experiment, product):
            for run, seed in runs_of(experiment, row.models[column], product.seeds).items():
                for budget in product.budgets:
                    yield TableCell(row.label, seed, column, budget, (run, row.benchmarks[column], budget))


def score_keys_of(experiment: Experiment, product: Comparison) -> list[ScoreKey]:
    """The scores that a comparison needs, each once."""
    return list(dict.fromkeys(place.cell for place in cells_of(experiment, product)))


def all_cells_of(experiment: Experiment, product: Comparison) -> list[TableCell]:
    """The places of a comparison, and those of its autoregressive model."""
    return [*cells_of(experiment, product), *autoregressive_cells(experiment, product)]


def autoregressive_cells(experiment: Experiment, product: Comparison) -> list[TableCell]:
    """The places of a comparison's autoregressive model, one per benchmark; it can do without them."""
    if not isinstance(product, ServedComparison) or product.autoregressive is None:
        return []
    name = product.autoregressive
    label, budget = experiment.teachers[name].label, AUTOREGRESSIVE
    return [TableCell(label, 0, column, budget, (name, column, budget)) for column in product.benchmarks]
