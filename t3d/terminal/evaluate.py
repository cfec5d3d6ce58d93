"""`t3d evaluate`: score a checkpoint that belongs to no experiment, through the stages of the workflow.

The benchmark is taken from an experiment: its questions, its limit of tokens, what counts as right. The checkpoint gets
an experiment of its own, so that every file has its manifest and receipt, and a second budget repeats no stage.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from t3d.errors import MissingInputError, ParameterError
from t3d.params import Budget, Experiment
from t3d.prompts import sets, sources
from t3d.provenance import lineage, store, verify
from t3d.provenance.store import manifest_path
from t3d.reporting.statistics import accuracy_of
from t3d.teachers import teacher

_MODEL = "model"


def experiment_of(base: Experiment, folder: Path, benchmark: str, dtype: str) -> Experiment:
    """An experiment of one model, `folder`, and one benchmark of `base`.

    Args:
        base: whose benchmark it is.
        folder: a checkpoint, as `t3d.models.sdar.load_model` takes it.
        benchmark: its key.
        dtype: number format in which it decodes.

    Raises:
        ParameterError: `base` has no such benchmark.
        MissingInputError: there is no such folder.
    """
    if benchmark not in base.benchmarks:
        known = ", ".join(base.benchmarks)
        raise ParameterError(f"experiment {base.name} has no benchmark {benchmark!r}: {known}. --like names another.")
    if not folder.is_dir():
        raise MissingInputError(f"{folder} is no folder of a model.")
    # What a fetch would take: weights, settings, tokenizer; no code.
    kept = (".safetensors", ".gguf", ".json", ".txt", ".jinja", ".model")
    files = {p.name: store.sha256(p) for p in sorted(folder.iterdir()) if p.suffix in kept}
    if "config.json" not in files:
        raise MissingInputError(f"{folder} holds no model: there is no config.json.")
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    spec = base.benchmarks[benchmark]
    prompts = base.prompt_sets[spec.prompts]
    wanted = {} if prompts.source is None else {prompts.source: base.sources[prompts.source]}
    own = {
        "repository": f"local/{folder.resolve().name}",
        "kind": "model",
        "revision": digest[:40],
        "files": files,
        "local": str(folder),
    }
    return Experiment.model_validate(
        {
            "name": f"evaluate-{digest[:12]}",
            "seed": base.seed,
            "device": "auto",
            "sources": {key: source.model_dump() for key, source in wanted.items()} | {_MODEL: own},
            "teachers": {_MODEL: {"source": "hub", "hub": _MODEL, "dtype": dtype}},
            "prompt_sets": {spec.prompts: prompts.model_dump(exclude_unset=True) | {"teacher": _MODEL}},
            "benchmarks": {benchmark: spec.model_dump()},
        }
    )


def run(experiment: Experiment, benchmark: str, budget: str) -> Path:
    """Make the score of an experiment of `experiment_of`, and what it is made from, unless it is there; its manifest.

    Raises:
        T3DError: as the stages say.
    """
    # Those that decode take seconds to load.
    from t3d.evaluation import answers, scores

    steps: dict[str, Callable[..., None]] = {
        "sources": lambda name, out: sources.make(experiment, name, out.parent / "work", out),
        "teachers": lambda name, out, *origins: teacher.make(experiment, name, out, *origins),
        "prompts": lambda name, out, *origins: sets.make(experiment, name, origins[0], out, *origins[1:]),
        "answers": lambda _, out, *origins: answers.make(experiment, benchmark, budget, origins[0], origins[1], out),
        "scores": lambda _, out, *origins: scores.make(experiment, origins[0], origins[1], out),
    }
    artefact = f"scores/{_MODEL}/{benchmark}/{budget}"
    for made in lineage.origins_of(experiment, [artefact]):
        kind, _, name = made.partition("/")
        if verify.fault(experiment, made, files="sizes") is not None:
            origins = [manifest_path(experiment, source) for source in lineage.inputs_of(experiment, made)]
            steps[kind](name, manifest_path(experiment, made), *origins)
    return manifest_path(experiment, artefact)


def said(path: Path, label: str) -> str:
    """One line of a score: accuracy, interval, n, and where its records are."""
    manifest = store.read(path)
    content = json.loads(manifest.file(".json").read_text())
    numbers = accuracy_of(content["correct"], content["n"], content["n"])
    tokens = Budget.parse(content["budget"]).tokens_per_step or content["tokens_per_step"]
    return (
        f"{label}, {content['budget']} ({tokens:.3g} tokens per step): {numbers['accuracy']:.1f} % "
        f"[{numbers['low']:.1f}, {numbers['high']:.1f}], n {content['n']}; receipt: {manifest.base}{store.RECEIPT}"
    )
