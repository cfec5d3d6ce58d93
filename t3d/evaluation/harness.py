"""lm-eval's side of evaluation: it extracts and counts what was decoded before (`answers.py`), and needs no model."""

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Tasks and data are local files; lm-eval and datasets would otherwise ask the hub about them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import lm_eval
import lm_eval.api.task
import yaml
from datasets import Dataset
from lm_eval.api.filter import Filter
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_filter, register_metric
from lm_eval.tasks import TaskManager

from t3d.errors import DataError
from t3d.evaluation import boxed

if TYPE_CHECKING:
    from t3d.prompts.reader import Prompt

TASKS = Path(__file__).parent / "tasks"


class GenerationOnly(LM):
    """A model for `generate_until` tasks."""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise DataError("a block-diffusion LM generates; tasks that ask for log-likelihoods cannot be run with it.")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return self.loglikelihood(requests)  # type: ignore[return-value]


class RecordedAnswers(GenerationOnly):
    """Returns answers that were decoded before."""

    def __init__(self, texts: dict[str, str]) -> None:
        """Replay `texts`, by question id."""
        super().__init__()
        self.texts = texts

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts of the recorded answers.

        Raises:
            DataError: a question has no recorded answer.
        """
        missing = [r.doc["id"] for r in requests if r.doc["id"] not in self.texts]
        if missing:
            raise DataError(f"no answer is recorded for {len(missing)} questions (e.g. {missing[0]}).")
        return [self.texts[r.doc["id"]] for r in requests]


@register_filter("last_box")
class LastBox(Filter):
    """Each response becomes the content of its last box."""

    def apply(self, resps: Any, docs: list[dict]) -> list[list[str]]:
        """Lists of responses, one per question, to lists of answers."""
        return [[boxed.last_box(text) for text in texts] for texts in resps]


@register_metric(metric="math_equality", higher_is_better=True)
def math_equality(references: list[str], predictions: list[str]) -> dict[str, Any]:
    """`exact_match`, 1 or 0, and the reason, of one gold answer and one extracted answer."""
    (gold,), (answer,) = references, predictions
    equal, reason = boxed.compare(gold, answer)
    return {"exact_match": float(equal), "reason": reason}


def evaluate(texts: dict[str, str], task: str, questions: Sequence["Prompt"]) -> list[dict[str, Any]]:
    """Extract and count recorded answers with an lm-eval task.

    Args:
        texts: the answers, by question id.
        task: name of a task in `t3d/evaluation/tasks/`.
        questions: the prompt set.

    Returns:
        lm-eval's samples, one per question, in the order of the questions.

    Raises:
        DataError: a question has no recorded answer.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    # A bar that is full after a tenth of a second, for every score.
    lm_eval.api.task.tqdm = partial(lm_eval.api.task.tqdm, disable=True)
    asked = {"test": Dataset.from_list([{"id": q.id, "text": q.text, "answer": q.answer} for q in questions])}
    spec = yaml.safe_load((TASKS / f"{task}.yaml").read_text()) | {"custom_dataset": lambda **_: asked}
    tasks = TaskManager(include_defaults=False).load([spec])
    # Not simple_evaluate: around this call it seeds global generators, which nothing here draws from, and asks pip
    # and the compiler about the machine, which takes longer than scoring.
    results = lm_eval.evaluate(RecordedAnswers(texts), tasks, bootstrap_iters=0)
    assert results is not None
    return sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
