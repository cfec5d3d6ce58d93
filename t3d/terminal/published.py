"""`t3d decode --question` where answers were not recorded on this machine, and an experiment published their texts.

Neither weights nor a tokenizer are needed. The question's text comes from the benchmark's file, if that is here, the
verdict from the score (`t3d pull scores`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from t3d.errors import DataError, short
from t3d.params import Budget, Experiment, read_budget
from t3d.provenance import archive, store, texts
from t3d.provenance.parquet import ANSWERS, of_artefact
from t3d.terminal.decode import Model, find_models, label_of, printable, verdict, verdict_on

if TYPE_CHECKING:
    from rich.console import Console

    from t3d.prompts.reader import Prompt

NOT_KEPT = "Published are the texts alone: at which step each token was committed was not kept."
_NEAREST = 5


@dataclass(frozen=True)
class Text:
    """An answer's text, with the verdict on it if its score is here."""

    label: str
    budget: Budget
    text: str
    right: bool | None

    def statistics(self) -> str:
        """What is known of it, in a line."""
        return f"{self.label} ({self.budget}), published" + ("" if self.right is None else f", {verdict(self.right)}")


@dataclass(frozen=True)
class Published:
    """Texts of answers to a question."""

    question: str
    """Its id."""
    prompt: "Prompt | None"
    why: str
    """Why there is no `prompt`."""
    answers: list[Text]
    notes: list[str]
    """What is not here."""


def find(
    experiment: Experiment, question: str, asked: list[tuple[str | None, str | None]], seed: int | None
) -> Published | None:
    """Published texts of answers to a question; None if its answers were recorded here, or no texts were published.

    Args:
        experiment: whose answers are meant.
        question: its id.
        asked: of each answer the model and the budget, as `decode.ask` takes them.
        seed: of which training.

    Raises:
        ParameterError: the experiment has no such model, or it is no budget.
        DataError: there is no such question, or no such answer to it; the message names the nearest that are there.
        CorruptArtefactError: the archive is damaged.
    """
    if not texts.path_of(experiment).is_file():
        return None
    models = find_models(experiment, asked, seed, recorded=True)
    if all(_is_recorded(experiment, str(model.name), budget, question) for model, budget in models):
        return None
    path, there = texts.path_of(experiment), texts.read(experiment)
    benchmark = next((name for name, questions in there.items() if question in questions), None)
    if benchmark is None:
        ids = [key for questions in there.values() for key in questions]
        near = _nearest(question, ids, 0.6) or [next(iter(questions)) for questions in there.values()]
        raise DataError(
            f"{path} has no question {short(repr(question))}; it has {len(ids)}, such as "
            f"{', '.join(map(printable, near))}."
        )
    found = there[benchmark][question]
    shown = [_text(experiment, path, benchmark, question, found, model, budget) for model, budget in models]
    prompt, why = _prompt(experiment, benchmark, question)
    notes = [NOT_KEPT]
    if any(text.right is None for text in shown) and archive.paths_of(experiment.name)[0].is_file():
        notes.append(f"Verdicts come with {store.pulling(experiment.name)}.")
    return Published(question, prompt, why, shown, notes)


def _is_recorded(experiment: Experiment, model: str, budget: Budget | None, question: str) -> bool:
    """Whether a model's answer to a question, with the step of each token, is on this machine."""
    paths = Path("data", experiment.name, "answers", model).glob(f"*/{budget or '*'}{store.MANIFEST}")
    there = (of_artefact(made, ANSWERS, ["id"]) for made in map(store.find, paths) if made is not None)
    return any(question in answers["id"].to_pylist() for answers in there)


def _text(
    experiment: Experiment,
    path: Path,
    benchmark: str,
    question: str,
    found: dict[str, str],
    model: Model,
    budget: Budget | None,
) -> Text:
    name = str(model.name)
    own = [key.partition("/")[2] for key in found if key.startswith(f"{name}/")]
    if not own:
        runs = list(dict.fromkeys(key.partition("/")[0] for key in found))
        raise DataError(
            f"{path} has no answer of {name} to {question}; it has those of {len(runs)} models, such as "
            f"{', '.join(_nearest(name, runs, 0.0))}."
        )
    if budget is None:
        budget = next((b for b in map(read_budget, own) if b.tokens_per_step == 1), None)
    if budget is None or str(budget) not in own:
        at = "at one token per step" if budget is None else f"at {budget}"
        raise DataError(
            f"{path} has no answer of {name} {at} to {question}; it has those at {', '.join(own)}: choose one "
            f"with --budget, or in --compare as {name}@{own[0]}."
        )
    right = verdict_on(experiment, f"{name}/{benchmark}/{budget}", question)
    return Text(label_of(model, budget), budget, printable(found[f"{name}/{budget}"]), right)


def _nearest(name: str, there: Sequence[str], cutoff: float) -> list[str]:
    return get_close_matches(name, there, _NEAREST, cutoff)


def _prompt(experiment: Experiment, benchmark: str, question: str) -> "tuple[Prompt | None, str]":
    from t3d.prompts import asked

    name = experiment.benchmarks[benchmark].prompts
    prompts, why = asked.find_or_why(experiment, name)
    return prompts.get(question), why or f"prompt set {name} has no such question."


def show(published: Published, console: "Console") -> None:
    """Draw the question on a terminal, the texts side by side below it, and what is known of them."""
    from rich.panel import Panel
    from rich.text import Text as Drawn

    from t3d.terminal import replay

    if published.prompt is not None:
        console.print(replay.question(published.prompt))
    else:
        console.print(Panel(Drawn(_without(published)), title=Drawn(f"Question {published.question}")))
    panels = []
    for answer in published.answers:
        shown = Drawn(answer.text, overflow="fold")
        if answer.right is not None:
            shown.append("\n\n").append_text(replay.verdict_mark(answer.right))
        panels.append(Panel(shown, title=Drawn(answer.label)))
    console.print(replay.side_by_side(panels, console.width))
    for answer in published.answers:
        console.print(answer.statistics(), style="bold", highlight=False, markup=False)
    for note in published.notes:
        console.print(note, style="dim", highlight=False, markup=False)


def piped(published: Published) -> tuple[str, str]:
    """What a pipe gets, and what is said beside it: the texts; the question, the verdicts and what was not kept."""
    prompt = published.prompt
    asked = _without(published) if prompt is None else f"{prompt.text.strip()}\nexpected: {prompt.expected.strip()}"
    answers = published.answers
    out = answers[0].text if len(answers) == 1 else "\n\n".join(f"[{a.label}]\n{a.text}" for a in answers) + "\n"
    said = [
        f"[Question {published.question}]",
        printable(asked),
        "",
        *(a.statistics() for a in answers),
        *published.notes,
    ]
    return out, "\n".join(said)


def _without(published: Published) -> str:
    return f"The question's text is not here: {published.why}"
