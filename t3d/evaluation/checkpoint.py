"""`t3d evaluate`: score a checkpoint that belongs to no experiment, through the stages of the workflow.

The benchmark is taken from an experiment: its questions, its limit of tokens, what counts as right. The checkpoint gets
an experiment of its own, so that every file has its manifest and receipt, and a second budget repeats no stage.

What changes an answer is in the path of its score, so that no call replaces what another one found: the files and the
mask token in the experiment's name, the number format in the model's key, questions and settings in the benchmark's.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t3d.errors import MissingInputError, ParameterError, reading
from t3d.evaluation import answers, scores
from t3d.params import Experiment
from t3d.prompts import sets, sources
from t3d.provenance import lineage, store, verify
from t3d.provenance.parquet import ANSWERS, of_artefact
from t3d.provenance.store import manifest_path

MODEL = "model"
"""The key of the checkpoint, whose tokenizer reads the questions; `model-float32` and `model-bfloat16` decode."""
DTYPES = ("float32", "bfloat16")
BATCHES = (1, 8, 128)
"""Sizes of batches that `--spread` compares; `gsm8k-batch8` is gsm8k in batches of 8."""


def experiment_of(base: Experiment, model: str, benchmark: str, mask_token: str | None = None) -> Experiment:
    """An experiment of one model, in every number format, and one benchmark of `base`, in several sizes of batch.

    Args:
        base: whose benchmark it is.
        model: folder of a checkpoint, as `t3d.models.sdar.load_model` takes it, or a fetched source of `base`.
        benchmark: its key.
        mask_token: its mask token, if the folder does not name it.

    Raises:
        ParameterError: `base` has no such benchmark, or its questions are not pinned.
        MissingInputError: there is no such folder.
    """
    if benchmark not in base.benchmarks:
        known = ", ".join(base.benchmarks)
        raise ParameterError(f"experiment {base.name} has no benchmark {benchmark!r}: {known}. --like names another.")
    fetched = manifest_path(base, f"sources/{model}")
    folder = store.read(fetched).base if fetched.is_file() else Path(model)
    if not folder.is_dir():
        raise MissingInputError(f"{folder} is no folder of a model.")
    # What a fetch would take: weights, settings, tokenizer; no code.
    taken = [p for p in sorted(folder.iterdir()) if p.suffix in sources.WANTED["model"] and p.is_file()]
    files = {path.name: store.sha256(path) for path in taken}
    if "config.json" not in files:
        raise MissingInputError(f"{folder} holds no model: there is no config.json.")
    spec = base.benchmarks[benchmark].model_dump()
    prompts = base.prompt_sets[spec["prompts"]]
    if prompts.source is not None and not base.sources[prompts.source].pinned:
        raise ParameterError(
            f"params/{base.name}.yaml, sources.{prompts.source} is not pinned; on a machine with network "
            f"`t3d pin --experiment {base.name}` prints what to paste."
        )
    questions = prompts.model_dump(exclude_unset=True) | {"teacher": MODEL}
    origin = {} if prompts.source is None else {prompts.source: base.sources[prompts.source].model_dump()}
    # `gsm` of two experiments, or of one that was edited, may ask other questions, or set other limits.
    pins = [source | {"local": None} for source in origin.values()]
    kind = _digest(base.seed, spec, questions, pins)[:8]
    asked = spec["prompts"] = f"{benchmark}-{kind}"
    if origin:
        questions["source"] = f"{prompts.source}-{kind}"
    own = {
        "repository": "local/" + re.sub(r"[^\w.-]", "-", folder.resolve().name),
        "kind": "model",
        "revision": _digest(files)[:40],
        "files": files,
        "local": str(folder),
    }
    formats = {MODEL: DTYPES[0]} | {f"{MODEL}-{dtype}": dtype for dtype in DTYPES}
    sizes = {f"{asked}-batch{size}": spec | {"batch_size": size} for size in BATCHES}
    content = {
        "name": f"evaluate-{_digest(files, mask_token)[:12]}",
        "seed": base.seed,
        "device": "auto",
        "sources": {f"{name}-{kind}": source for name, source in origin.items()} | {MODEL: own},
        "teachers": {
            key: {"source": "hub", "hub": MODEL, "dtype": dtype, "mask_token": mask_token}
            for key, dtype in formats.items()
        },
        "prompt_sets": {asked: questions},
        "benchmarks": {asked: spec} | sizes,
    }
    with reading(folder, "Rename its files.", ParameterError, "cannot be taken"):
        return Experiment.model_validate(content)


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def score(
    experiment: Experiment,
    dtype: str,
    budget: str,
    make_teacher: Callable[..., None],
    check_folder: Callable[..., None],
    batch_size: int | None = None,
) -> Path:
    """Make a score of an experiment of `experiment_of`, and what it is made from, unless it is there; its manifest.

    Args:
        experiment: of `experiment_of`.
        dtype: number format of decoding, one of `DTYPES`.
        budget: `b8s2` or `b8t0.9`.
        make_teacher: `t3d.teachers.teacher.make`, which no room below it imports.
        check_folder: the function beside it.
        batch_size: one of `BATCHES`; the benchmark's own if None.

    Raises:
        T3DError: as the stages say.
    """
    model, benchmark = f"{MODEL}-{dtype}", next(iter(experiment.benchmarks))
    if batch_size is not None:
        benchmark += f"-batch{batch_size}"
    if verify.fault(experiment, f"teachers/{MODEL}"):
        # Before it is copied: what is wrong with the folder is said of the folder, not of the copy.
        check_folder(Path(str(experiment.sources[MODEL].local)), mask_token=experiment.teachers[MODEL].mask_token)
    wanted = f"scores/{model}/{benchmark}/{budget}"
    for artefact in lineage.origins_of(experiment, [wanted]):
        if verify.fault(experiment, artefact, files="sizes") is None:
            continue
        out, (stage, name, *_) = manifest_path(experiment, artefact), artefact.split("/")
        origins = [manifest_path(experiment, source) for source in lineage.inputs_of(experiment, artefact)]
        if stage == "sources":
            sources.make(experiment, name, out.parent / "work", out)
        elif stage == "teachers":
            make_teacher(experiment, name, out, *origins)
        elif stage == "prompts":
            sets.make(experiment, name, origins[0], out, *origins[1:])
        elif stage == "answers":
            answers.make(experiment, benchmark, budget, origins[0], origins[1], out)
        else:
            scores.make(experiment, origins[0], origins[1], out)
    return manifest_path(experiment, wanted)


def invariance(
    experiment: Experiment, budget: str, make_teacher: Callable[..., None], check_folder: Callable[..., None]
) -> list[tuple[str, int, Path, int]]:
    """Score the checkpoint in every number format and size of batch; arguments and errors as those of `score`.

    Returns:
        Format, size, the score's manifest, and how many answers are not the tokens of the first.
    """
    rows: list[tuple[str, int, Path, int]] = []
    first: dict[str, list[int]] = {}
    for dtype in DTYPES:
        for size in BATCHES:
            path = score(experiment, dtype, budget, make_teacher, check_folder, size)
            made = store.read(path).artefact.replace("scores/", "answers/", 1)
            answered = store.read(manifest_path(experiment, made))
            table = of_artefact(answered, ANSWERS, ["id", "response_ids"]).to_pylist()
            ids = {row["id"]: row["response_ids"] for row in table}
            first = first or ids
            rows.append((dtype, size, path, sum(ids[question] != first[question] for question in first)))
    return rows
