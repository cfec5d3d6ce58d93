"""lm-eval's side of evaluation: a model that decodes, a model that replays, and one call for both.

Generation and scoring are separate stages. `answers.py` runs lm-eval with `BlockDiffusionLM` and keeps what was
decoded; `scores.py` runs it again with `RecordedAnswers`, which needs no model, and keeps what lm-eval extracted and
counted.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Tasks and data are local files; lm-eval and datasets would otherwise ask the hub about them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import lm_eval
import yaml
from lm_eval.api.filter import Filter
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_filter, register_metric
from lm_eval.tasks import TaskManager

from t3d.errors import DataError
from t3d.evaluation import boxed
from t3d.params import Budget

if TYPE_CHECKING:
    from t3d.decoding.request import DecodingOptions, Response
    from t3d.models.sdar import SDARForCausalLM

TASKS = Path(__file__).parent / "tasks"


class GenerationOnly(LM):
    """A model for `generate_until` tasks."""

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise DataError("a block-diffusion LM generates; tasks that ask for log-likelihoods cannot be run with it.")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return self.loglikelihood(requests)  # type: ignore[return-value]


class BlockDiffusionLM(GenerationOnly):
    """Decodes each question at one budget; of several processes all ask it the same, and each decodes its share.

    `responses` keeps what was decoded, by question id, and `seconds` how long decoding took, all processes together.
    """

    def __init__(
        self,
        model: "SDARForCausalLM",
        tokenizer,
        budget: Budget,
        options: "DecodingOptions",
        seed_of: Callable[[str], int],
        on_finished: Callable[[int], None] | None = None,
    ) -> None:
        """Wrap a model; the arguments are those of `decode`, and `seed_of` gives the seed of a question's draws."""
        super().__init__()
        self.model, self.tokenizer, self.budget, self.options = model, tokenizer, budget, options
        self.seed_of, self.on_finished = seed_of, on_finished
        self.responses: dict[str, Response] = {}
        self.seconds = 0.0

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Texts of the responses; prompts are the recorded ids of each document, never re-tokenised text."""
        # Imported here: scoring recorded answers needs no model, and starts three seconds sooner without one.
        from t3d.decoding.decoder import decode
        from t3d.decoding.request import Request
        from t3d.distributed import collectives

        started = time.monotonic()
        responses = collectives.map_over_ranks(
            [Request(r.doc["prompt_ids"], self.seed_of(r.doc["id"]), r.doc["id"]) for r in requests],
            lambda some, on_finished: decode(self.model, some, self.budget, self.options, on_finished),
            self.on_finished,
        )
        self.seconds += time.monotonic() - started
        self.responses |= {r.doc["id"]: response for r, response in zip(requests, responses, strict=True)}
        return [text_of(self.tokenizer, response.ids[: response.length]) for response in responses]


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


def text_of(tokenizer, ids: Sequence[int]) -> str:
    """Text of response ids without special tokens."""
    return tokenizer.decode(ids, skip_special_tokens=True)


def evaluate(model: LM, task: str, questions: Path, *, score: bool) -> list[dict[str, Any]]:
    """Run an lm-eval task over the questions of a prompt set.

    Args:
        model: what answers.
        task: name of a task in `t3d/evaluation/tasks/`.
        questions: the prompt set's `.jsonl`.
        score: extract and count answers; otherwise they are only generated.

    Returns:
        lm-eval's samples, one per question, in the order of the file.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        data = {"data_files": {"test": str(questions.resolve())}, "cache_dir": folder}
        spec = Path(folder) / "task.yaml"
        spec.write_text(yaml.safe_dump({"include": str(TASKS / f"{task}.yaml"), "dataset_kwargs": data}))
        tasks = TaskManager(include_defaults=False).load([str(spec)])
        if not score:
            tasks["tasks"][task].override_metric(metric_name="bypass")
        # Not simple_evaluate: around this call it seeds global generators, which nothing here draws from, and asks pip
        # and the compiler about the machine, which takes longer than scoring.
        results = lm_eval.evaluate(model, tasks, bootstrap_iters=0)
    assert results is not None
    return sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
