"""The recipe of each artefact: the parameters that decide its content, and their digest.

The digest covers the stage's `recipe` number in `workflow/recipes.yaml` too, which is raised when code changes what the
stage makes. Parameters that change speed alone (batch size, device, recomputed activations) are left out.
"""

import hashlib
import json
from ast import literal_eval
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from t3d.errors import MissingInputError, ParameterError, reading
from t3d.params import Budget, Conversion, Experiment, Product
from t3d.params.yaml_files import read_yaml
from t3d.provenance import advice, lineage

KINDS = (
    "sources",
    "teachers",
    "prompts",
    "generations",
    "verdicts",
    "trajectories",
    "students",
    "answers",
    "scores",
    "factorisation",
)
"""First parts of an artefact's name."""
_OPTIONAL = {
    "mask_token",
    "imported",
    "sha256",
    "hub",
    "source",
    "file",
    "columns",
    "reference_edits",
    "rows",
    "max_prompt_tokens",
    "openings",
    "examples",
    "task_pattern",
    "max_response_tokens",
    "threshold",
    "attention",
    "initial",
    "generations",
    "conversion",
    "ar_weight",
    "model",
    "scored",
    "keep",
    "lora",
}
_OF_CHECKOUT = Path(__file__).parents[2] / "workflow" / "recipes.yaml"
# A package that was installed without -e lies elsewhere; then it is the project's in the working directory.
RECIPES = _OF_CHECKOUT if _OF_CHECKOUT.is_file() else Path("workflow", "recipes.yaml")


def artefact_params(experiment: Experiment, artefact: str) -> dict[str, Any]:
    """The parameters that decide what `artefact` contains, inputs left out.

    Raises:
        ParameterError: the experiment makes no such artefact.
    """
    kind, _, rest = artefact.partition("/")
    parts = rest.split("/")
    try:
        return _params(experiment, kind, parts)
    except (KeyError, ValueError) as error:
        raise ParameterError(f"experiment {experiment.name} makes no artefact {artefact!r}: {_told(error)}.") from error


def _told(error: KeyError | ValueError) -> str:
    return f"unknown {error}" if isinstance(error, KeyError) else str(error)


def _params(experiment: Experiment, kind: str, parts: list[str]) -> dict[str, Any]:
    seed = experiment.seed
    if kind == "sources":
        (name,) = parts
        return {"source": _without(_dumped(experiment)["sources"][name], "local")}
    if kind == "teachers":
        (name,) = parts
        teacher = experiment.teachers[name]
        if teacher.hub is not None:
            # Of its files only the tokenizer's settings are not the source's: they name this token.
            named = {} if teacher.mask_token is None else {"mask_token": teacher.mask_token}
            return {"teacher": {"hub": teacher.hub} | named}
        if teacher.path is not None:
            return {
                "teacher": _spec(experiment, "teachers", name),
                "shipped": _content_of(shipped_manifest(experiment, name)),
            }
        spec = _spec(experiment, "teachers", name)
        if teacher.source == "convert":
            conversion = _dumped(experiment)["teachers"][name]["conversion"] or Conversion().model_dump(mode="json")
            conversion = _without(conversion, "recompute_activations", "checkpoint_every", "probes")
            spec |= {"conversion": _without_unset(conversion)}
        return {"seed": seed, "teacher": spec}
    if kind == "prompts":
        (name,) = parts
        return {"seed": seed, "prompts": _spec(experiment, "prompt_sets", name)}
    if kind in ("generations", "trajectories"):
        name, shard = parts
        spec = _spec(experiment, kind, name)
        model = experiment.prompt_sets[spec["prompts"]].teacher
        # How answers are judged changes none of them.
        spec.pop("task", None)
        return {"seed": seed, kind: spec, "shard": shard} | _format(experiment, model)
    if kind == "verdicts":
        name, _ = parts
        return {"task": experiment.generations[name].task}
    if kind == "students":
        (run,) = parts
        name, run_seed = lineage.runs(experiment)[run]
        spec = _without(_dumped(experiment)["students"][name], "label", "seeds", "checkpoint_every")
        spec["optimizer"] = _without(spec["optimizer"], "recompute_activations")
        return {"seed": seed, "student": _without_unset(spec), "student_seed": run_seed}
    if kind in ("answers", "scores"):
        model, benchmark, budget = parts
        Budget.parse(budget)
        spec = _spec(experiment, "benchmarks", benchmark)
        scoring = {key: spec.pop(key) for key in ("task", "sandbox")}
        if kind == "scores":
            return scoring
        engine = experiment.teachers[model].engine if model in experiment.teachers else None
        chosen = {} if engine is None else {"engine": engine}
        return {"seed": seed, "benchmark": spec, "budget": budget} | chosen | _format(experiment, model)
    if kind == "factorisation":
        model, name = parts
        return {"trajectories": _spec(experiment, "trajectories", name)} | _format(experiment, model)
    raise KeyError(kind)


@lru_cache(maxsize=2**14)
def digest(experiment: Experiment, artefact: str) -> str:
    """The recipe digest of `artefact`, a sha256 in hex."""
    stage = artefact.partition("/")[0]
    # In this order, so that an artefact of no stage is named.
    values = artefact_params(experiment, artefact)
    with reading(RECIPES, f"Restore it (git checkout {RECIPES})."):
        content = {"stage": stage, "recipe": _numbers()[stage], "params": values}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _format(experiment: Experiment, model: str) -> dict[str, str]:
    dtype = lineage.dtype_of(experiment, model)
    return {} if dtype == "float32" else {"dtype": dtype}


def _content_of(manifest: Path) -> str:
    """sha256 of a shipped teacher's manifest, which lists the digests of its files."""
    return hashlib.sha256(manifest.read_bytes()).hexdigest()


def shipped_manifest(experiment: Experiment, name: str) -> Path:
    """The manifest of a shipped teacher, beside its folder.

    Raises:
        MissingInputError: there is none; the message names the field, and what there is.
    """
    manifest = Path(f"{experiment.teachers[name].path}.manifest.json")
    if not manifest.is_file():
        there = [str(path).removesuffix(".manifest.json") for path in sorted(manifest.parent.glob("*.manifest.json"))]
        again = f", or {advice.of_absent_manifest(manifest)}" if manifest.is_relative_to(advice.SHIPPED) else ""
        raise MissingInputError(
            f"params/{experiment.name}.yaml, teachers.{name}.path: {manifest} is missing: a shipped teacher is a "
            f"folder with its manifest beside it. Of such folders {manifest.parent} has {', '.join(there) or 'none'}. "
            f"Correct the path{again}. A model in a folder of yours is a teacher with `source: hub`, whose source has "
            "`local`."
        )
    return manifest


@cache
def code_of(room: str) -> str:
    """sha256 over the files of a room of `t3d/`: products that take seconds to make are made again after every change
    of its code."""
    folder = Path(__file__).parents[1] / room
    content = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        content.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return content.hexdigest()


def shown(experiment: Experiment, product: Product) -> str:
    """What decides a table's or figure's content besides its material: parameters, code, labels in the order of rows.

    And of a figure the students that all figures show, since its colours follow from them.
    """
    groups = (experiment.teachers, experiment.students, experiment.benchmarks)
    labels = [[(key, model.label) for key, model in models.items()] for models in groups]
    group, name = next(
        (group, name)
        for group in ("tables", "figures")
        for name, other in getattr(experiment, group).items()
        if other is product
    )
    figures = experiment.figures.values() if group == "figures" else ()
    looks = [lineage.students_of(experiment, figure) for figure in figures]
    return canonical([_dumped(experiment)[group][name], labels, looks, code_of("reporting")])


def differ_by_code(experiment: Experiment, product: Product, recorded: list[Any]) -> bool:
    """Whether a table or figure was made from what decides its content now but for the code.

    An option that is not used says what its absence said before there was that option.

    Args:
        experiment: whose product it is.
        product: a table or figure.
        recorded: the parameters that Snakemake noted of it, one of which is what `shown` said then.
    """

    def deciding(text: str) -> list[Any]:
        parameters, *others = json.loads(text)[:-1]
        return [{k: v for k, v in parameters.items() if v is not None and v is not False}, *others]

    now = deciding(shown(experiment, product))
    for value in recorded:
        try:
            if deciding(literal_eval(value)) == now:
                return True
        except (AttributeError, SyntaxError, TypeError, ValueError):
            # Another parameter of the job, the experiment's name for example.
            continue
    return False


def canonical(content: Any) -> str:
    """JSON with sorted keys and no spaces: equal content gives equal text."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


@lru_cache(maxsize=8)
def _dumped(experiment: Experiment) -> dict[str, Any]:
    """All parameters. Pydantic writes each part alone only after 5 ms of preparation for its class."""
    return experiment.model_dump(mode="json")


def _spec(experiment: Experiment, group: str, name: str) -> dict[str, Any]:
    """What decides the content of an artefact of its parameters."""
    speed = () if group == "teachers" else ("batch_size",)
    content = _without(_dumped(experiment)[group][name], "label", "parameters", "dtype", "engine", *speed)
    return _without_unset(content)


def _without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in keys}


def _without_unset(content: Any) -> Any:
    """Leave out the options of `_OPTIONAL` that are not used: an option that is new must not change old digests."""
    if not isinstance(content, dict):
        return content
    return {
        k: _without_unset(v) for k, v in content.items() if k not in _OPTIONAL or (v is not None and v is not False)
    }


@lru_cache(maxsize=1)
def _numbers() -> dict[str, int]:
    return read_yaml(RECIPES)
