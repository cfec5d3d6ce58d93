"""`t3d decode`: one question, answered by any model at any budget, or its recorded answer; `replay.py` shows it.

Where only the texts of answers were published, `published.py` shows these.

The decoder runs undisturbed and its time is taken; what is watched afterwards is drawn from the step map it returns.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from t3d.decoding.request import DecodingOptions, Request, Response
from t3d.errors import DataError, ParameterError, reading, short
from t3d.params import Budget, Experiment, read_budget
from t3d.provenance import lineage, remote, store
from t3d.provenance.parquet import ANSWERS, of_artefact, verdicts_of
from t3d.provenance.store import manifest_path

if TYPE_CHECKING:
    from t3d.prompts.reader import Prompt

_COLUMNS = (
    *("response_ids", "step_map", "confidence", "response_tokens", "finish_reason"),
    *("denoising_steps", "commit_passes"),
)
"""Columns of recorded answers, in the order of the fields of `Response`."""


@dataclass(frozen=True)
class Model:
    """A model to ask. `name` is that of a teacher or of a student's run, or None for any other folder."""

    label: str
    """As the tables call it, with its seed if there are several."""
    name: str | None
    folder: Path | None
    """None until it is made."""


@dataclass(frozen=True)
class Answer:
    """An answer with the step 1..S of its block at which each token was committed."""

    label: str
    budget: Budget
    text: str
    pieces: list[str]
    """Text of each token; of the end-of-text token and what follows it in its block, nothing."""
    step_map: list[int]
    tokens: int
    """Up to and including the end-of-text token."""
    denoising_steps: int
    commit_passes: int
    seconds: float | None
    """Of decoding alone; None if it was recorded, in a batch."""
    folder: Path | None = None
    """Whose weights decoded it; None if it was recorded."""
    prompt: "Prompt | None" = None
    """The question of a recorded answer, if its prompt set is here."""
    right: bool | None = None
    """Verdict on a recorded answer, if its score is here."""

    def statistics(self) -> str:
        """One line of what it took."""
        per_step = self.tokens / self.denoising_steps
        told = (
            f"{self.label} ({self.budget}): {self.tokens} tokens in {self.denoising_steps} denoising steps "
            f"({per_step:.2f} tokens per step) and {self.commit_passes} commit passes"
        )
        if self.seconds is None:
            return f"{told}, recorded" + ("" if self.right is None else f", {verdict(self.right)}")
        return f"{told}, {self.seconds:.3f} s, {self.tokens / self.seconds:.0f} tokens/s; weights: {self.folder}"


def verdict(right: bool) -> str:
    """A verdict in a word."""
    return "right" if right else "wrong"


def ask(
    experiment: Experiment,
    text: str | None,
    question: str | None,
    asked: list[tuple[str | None, str | None]],
    seed: int | None,
    max_new_tokens: int,
) -> list[Answer]:
    """Answers of models, decoded or recorded. What cannot be asked is said before the first model is loaded.

    Args:
        experiment: whose models are meant.
        text: the question, to decode an answer to; or
        question: the id of a benchmark's question, to show a recorded answer.
        asked: of each answer the model, as `find_model` takes it, and the budget, None for a step per token.
        seed: of which training.
        max_new_tokens: longest answer.

    Raises:
        ParameterError: not one question, no such model, or no budget.
        DataError, MissingInputError: as `answer` and `recorded`.
    """
    if (text is None) == (question is None):
        raise ParameterError("ask one question: its text, or --question with the id of a recorded one.")
    if text is not None:
        if not text.strip():
            raise ParameterError("the question is empty.")
        with reading("the question", "Type it in UTF-8.", ParameterError):
            text.encode()
    models = find_models(experiment, asked, seed, recorded=question is not None)
    if question is not None:
        return [recorded(experiment, model, budget, question) for model, budget in models]
    for model, _ in models:
        _folder_of(experiment, model)
    return [answer(experiment, model, budget, str(text), max_new_tokens) for model, budget in models]


def find_models(
    experiment: Experiment, asked: list[tuple[str | None, str | None]], seed: int | None, recorded: bool = False
) -> list[tuple[Model, Budget | None]]:
    """Models and budgets that `ask` is given, read; raises ParameterError for a folder that has no recorded answers."""
    found = [(find_model(experiment, name, seed), read_budget(at) if at else None) for name, at in asked]
    if recorded and (others := [model for model, _ in found if model.name is None]):
        why = f"is no model of experiment {experiment.name}: it has no recorded answers"
        raise ParameterError(f"{others[0].folder} {why}. The models are {_known(experiment)}.")
    return found


def find_model(experiment: Experiment, model: str | None, seed: int | None = None) -> Model:
    """The model called `model`.

    Args:
        experiment: whose models are meant.
        model: a teacher, a student, a student's run or a model's folder; the first teacher if None.
        seed: of which training, for a student of several; the first if None.

    Raises:
        ParameterError: there is no such model or training.
    """
    model = model or next(iter(experiment.teachers))
    if model in experiment.teachers:
        # A shipped teacher answers in a fresh clone, with nothing made, and where its scores alone were pulled.
        shipped, path = experiment.teachers[model].path, manifest_path(experiment, f"teachers/{model}")
        label = experiment.teachers[model].label
        return Model(label, model, _made(path, otherwise=Path(shipped) if shipped else None))
    if model in experiment.students:
        seeds = experiment.students[model].seeds
        if seed is not None and seed not in seeds:
            raise ParameterError(f"student {model} has no seed {seed}: {', '.join(map(str, seeds))}.")
        model = f"{model}-seed{seeds[0] if seed is None else seed}"
    if model in lineage.runs(experiment):
        key, seed = lineage.runs(experiment)[model]
        several = f", seed {seed}" if len(experiment.students[key].seeds) > 1 else ""
        label = experiment.students[key].label + several
        return Model(label, model, _made(manifest_path(experiment, f"students/{model}")))
    folder = Path(model)
    # `t3d` is a folder of the project, and the beginning of some students' names.
    if (folder / "config.json").is_file():
        return Model(folder.name, None, folder)
    why = f"and folder {model} holds none (there is no config.json)" if folder.is_dir() else "nor is it a folder"
    raise ParameterError(f"experiment {experiment.name} has no model {model!r}, {why}: {_known(experiment)}.")


def _known(experiment: Experiment) -> str:
    return ", ".join([*experiment.teachers, *experiment.students])


def _made(path: Path, otherwise: Path | None = None) -> Path | None:
    """The folder of a model; `otherwise` if it was not made, or its files are not here."""
    manifest = store.find(path)
    if manifest is None:
        return otherwise
    manifest.check(contents=False)
    return manifest.base


def _folder_of(experiment: Experiment, model: Model) -> Path:
    """Where a model's files are; raises MissingInputError, which says what is missing."""
    if model.folder is not None:
        return model.folder
    assert model.name is not None
    manifest = store.read(manifest_path(experiment, lineage.model(experiment, model.name)))
    manifest.check(contents=False)
    return manifest.base


def answer(experiment: Experiment, model: Model, budget: Budget | None, question: str, max_new_tokens: int) -> Answer:
    """Decode an answer, greedily, with nothing beside it in the batch.

    Args:
        experiment: says the number format of its models, and the device: `cuda` where there is no GPU means the CPU.
        model: of `find_model`.
        budget: the model's own block size with a step per token if None.
        question: the user's turn, as it is: a prompt set's suffix is not added.
        max_new_tokens: the answer ends with the block that reaches it.

    Raises:
        MissingInputError: the model was not made.
        ParameterError: it is no SDAR.
    """
    folder = _folder_of(experiment, model)
    # These take seconds to load: neither a recorded answer nor an error needs them.
    import torch

    from t3d.decoding.decoder import decode
    from t3d.distributed.gpus import pick_device
    from t3d.models.folder import load_tokenizer, mask_id, stop_ids
    from t3d.models.sdar import load_model
    from t3d.prompts.reader import encode_prompt

    # A model that was trained on a GPU answers one question on a CPU as well.
    anywhere = experiment.model_copy(update={"device": "auto"}) if experiment.device == "cuda" else experiment
    device = pick_device(anywhere)
    dtype = lineage.dtype_of(experiment, model.name or next(iter(experiment.teachers)))
    loaded, tokenizer = load_model(folder, device, dtype), load_tokenizer(folder)
    size = loaded.config.block_size
    chosen = budget or Budget(block_size=size, steps=size)
    ids = encode_prompt(tokenizer, question)
    if (total := len(ids) + max_new_tokens) > (most := loaded.config.max_position_embeddings):
        raise ParameterError(
            f"the question has {len(ids)} tokens, {total} with --max-new-tokens; {model.label} was made for {most} "
            "(max_position_embeddings). Ask for less."
        )
    requests = [Request(ids, seed=0, name="the question")]

    def run(length: int):
        options = DecodingOptions(length, stop_ids(folder), mask_id(tokenizer))
        response = decode(loaded, requests, chosen, options)[0]
        if device == "cuda":
            torch.cuda.synchronize()
        return response

    # The first forward of a process sets things up (on a GPU, it compiles): that is no decoding.
    run(1)
    started = time.perf_counter()
    response = run(max_new_tokens)
    seconds = time.perf_counter() - started
    return replace(_answer(tokenizer, model, chosen, response, seconds), folder=folder)


def recorded(experiment: Experiment, model: Model, budget: Budget | None, question: str) -> Answer:
    """The answer that the DAG recorded to a question of a benchmark; needs no weights.

    Args:
        experiment: whose answers are meant.
        model: of `find_model`, one of the experiment's.
        budget: one that it was asked at.
        question: its id.

    Raises:
        DataError: no such answer is recorded; the message names some that are.
    """
    from t3d.models.folder import load_tokenizer

    some: list[str] = []
    if not budget:
        _check_asked(experiment, question)
    for benchmark in experiment.benchmarks if budget else ():
        path = manifest_path(experiment, f"answers/{model.name}/{benchmark}/{budget}")
        if not path.is_file():
            continue
        rows = {row["id"]: row for row in of_artefact(store.read(path), ANSWERS).to_pylist()}
        if budget and question in rows:
            recorded = Response(*(rows[question][column] for column in _COLUMNS))
            tokenizer = load_tokenizer(_tokenizer_of(experiment, model))
            shown = _answer(tokenizer, model, budget, recorded)
            right = verdict_on(experiment, f"{model.name}/{benchmark}/{budget}", question)
            return replace(shown, prompt=_prompt(experiment, benchmark, question), right=right)
        some += list(rows)[:2]
    if some:
        raise DataError(
            f"{model.name} recorded no question {short(repr(question))} at {budget}; it did {', '.join(some)}, ..."
        )
    root = Path("data", experiment.name, "answers", str(model.name))
    there = sorted({path.name.removesuffix(store.MANIFEST) for path in root.glob(f"*/*{store.MANIFEST}")})
    if not there:
        command, making = remote.command(experiment.name), store.making_all(experiment)
        fetched = f", or fetch published ones ({command})" if command else ""
        raise DataError(f"{root} holds no recorded answers: make them first ({making}){fetched}.")
    raise DataError(f"{model.name} recorded answers at {', '.join(there)}: choose one with --budget.")


def _check_asked(experiment: Experiment, question: str) -> None:
    """A question that no benchmark asks, of those whose prompt sets are here, is named before the budgets."""
    from t3d.prompts.reader import read_prompts

    names = dict.fromkeys(spec.prompts for spec in experiment.benchmarks.values())
    paths = [manifest_path(experiment, f"prompts/{name}") for name in names]
    ids = [[prompt.id for prompt in read_prompts(store.read(path))] for path in paths if path.is_file()]
    if ids and not any(question in of_set for of_set in ids):
        some = ", ".join(of_set[0] for of_set in ids)
        raise DataError(f"no benchmark whose prompts are here asks {short(repr(question))}; one of each: {some}.")


def _prompt(experiment: Experiment, benchmark: str, question: str) -> "Prompt | None":
    from t3d.prompts.reader import read_prompts

    path = manifest_path(experiment, f"prompts/{experiment.benchmarks[benchmark].prompts}")
    prompts = read_prompts(store.read(path)) if path.is_file() else []
    return next((prompt for prompt in prompts if prompt.id == question), None)


def verdict_on(experiment: Experiment, cell: str, question: str) -> bool | None:
    """Whether an answer of `RUN/BENCHMARK/BUDGET` is right, if its score is here."""
    score = store.find(manifest_path(experiment, f"scores/{cell}"))
    return None if score is None else verdicts_of(score).get(question)


def _tokenizer_of(experiment: Experiment, model: Model) -> Path:
    """A folder with the model's tokenizer: its own or its teacher's, which the scores come without."""
    if model.folder is None and model.name in lineage.runs(experiment):
        model = find_model(experiment, lineage.teacher_behind(experiment, model.name))
    if model.folder is None:
        raise DataError(f"there is no tokenizer to read the answers of {model.name} with: fetch or make the model.")
    return model.folder


def _answer(tokenizer, model: Model, budget: Budget, response: Response, seconds: float | None = None) -> Answer:
    told = response.length - (response.finish_reason == "stop")
    pieces = _pieces(tokenizer, response.ids[:told]) + [""] * (len(response.ids) - told)
    effort = response.denoising_steps, response.commit_passes
    return Answer(
        label_of(model, budget), budget, "".join(pieces), pieces, response.step_map, response.length, *effort, seconds
    )


def label_of(model: Model, budget: Budget) -> str:
    """A model and how it decoded: `T3D, 4 tokens per step`."""
    tokens = budget.tokens_per_step
    how = f"threshold {budget.threshold:g}" if tokens is None else f"{tokens:g} token{'s' * (tokens != 1)} per step"
    return f"{model.label}, {how}"


def _pieces(tokenizer, ids: list[int]) -> list[str]:
    """What each token adds to the text; a character of several tokens comes with its last one."""
    pieces, before = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and end < len(ids):
            pieces.append("")
            continue
        pieces.append(printable(text[len(before) :]))
        before = text
    return pieces


def printable(text: str) -> str:
    """A text without control characters: what a model writes must not steer the terminal."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")
