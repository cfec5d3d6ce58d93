"""`t3d evaluate`: score a checkpoint that belongs to no experiment, through the stages of the workflow.

The benchmark is taken from an experiment: its questions, its limit of tokens, what counts as right. The checkpoint gets
an experiment of its own, so that every file has its manifest and receipt, and a second budget repeats no stage.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from t3d.errors import MissingInputError, ParameterError
from t3d.params import Experiment
from t3d.prompts.sources import WANTED
from t3d.provenance import lineage, store, verify
from t3d.provenance.store import manifest_path

_MODEL = "model"
Stage = Callable[..., None]
"""Makes an artefact of an experiment; called with the experiment, the rest of its name, its manifest's path, and the
manifests of what it is made from."""


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
    files = {p.name: store.sha256(p) for p in sorted(folder.iterdir()) if p.suffix in WANTED["model"]}
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


def run(experiment: Experiment, benchmark: str, budget: str, stages: Mapping[str, Stage]) -> Path:
    """Make the score of an experiment of `experiment_of`, and what it is made from, unless it is there; its manifest.

    Args:
        experiment: of `experiment_of`.
        benchmark: its one benchmark.
        budget: `b8s2` or `b8t0.9`.
        stages: first part of an artefact's name -> what makes one.

    Raises:
        T3DError: as the stages say.
    """
    score = f"scores/{_MODEL}/{benchmark}/{budget}"
    for artefact in lineage.origins_of(experiment, [score]):
        if verify.fault(experiment, artefact, files="sizes") is not None:
            stage, _, name = artefact.partition("/")
            origins = [manifest_path(experiment, source) for source in lineage.inputs_of(experiment, artefact)]
            stages[stage](experiment, name, manifest_path(experiment, artefact), *origins)
    return manifest_path(experiment, score)
