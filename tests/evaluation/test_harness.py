"""Evaluation through the real lm-eval: extraction, replay, and that different answers give different scores."""

from itertools import islice

import pytest

from t3d.decoding.decoder import decode
from t3d.decoding.request import DecodingOptions, Request
from t3d.errors import DataError
from t3d.evaluation import harness
from t3d.models.folder import mask_id, stop_ids
from t3d.params import Budget, Difficulty
from t3d.prompts import gsm
from t3d.prompts.reader import Prompt, encode_prompt
from tests.conftest import SHIPPED


@pytest.fixture
def questions(tokenizer):
    problems = islice(gsm.problems("test", 0, Difficulty(max_steps=3, max_number=999)), 6)
    return [
        Prompt(p.id, "gsm", "test", p.question, encode_prompt(tokenizer, p.question), "", [], p.answer)
        for p in problems
    ]


def scored(texts, questions):
    return [sample["exact_match"] for sample in harness.evaluate(texts, "gsm_boxed", questions)]


def test_the_last_box_counts_and_only_exactly(questions):
    gold = [question.answer for question in questions]
    texts = [
        f"So \\boxed{{{gold[0]}}}.",
        f"\\boxed{{1234}} no: \\boxed{{{gold[1]}}}",
        f"\\boxed{{{gold[2]}}} or rather \\boxed{{99999}}",
        f"The answer is {gold[3]}.",
        f"\\boxed{{{gold[4]}0}}",
        "",
    ]
    assert scored(dict(zip((question.id for question in questions), texts, strict=True)), questions) == [
        1.0,
        1.0,
        0.0,
        0.0,
        0.0,
        0.0,
    ]


def test_it_draws_no_bar(questions, capsys):
    scored({question.id: "" for question in questions}, questions)
    assert capsys.readouterr().err == ""


def test_a_missing_answer_is_an_error(questions):
    with pytest.raises(DataError, match="no answer is recorded for 6 questions"):
        scored({}, questions)


def test_models_and_budgets_that_answer_differently_score_differently(questions, teacher, tokenizer):
    def texts(model, budget):
        options = DecodingOptions(120, stop_ids(SHIPPED), mask_id(tokenizer), batch_size=6)
        requests = [Request(question.prompt_ids, 0, question.id) for question in questions]
        responses = decode(model, requests, Budget.parse(budget), options)
        return {r.name: tokenizer.decode(a.ids[: a.length]) for r, a in zip(requests, responses, strict=True)}

    slow, fast = texts(teacher, "b8s8"), texts(teacher, "b8s1")
    assert slow != fast
    assert sum(scored(slow, questions)) > sum(scored(fast, questions))


def test_log_likelihood_tasks_are_refused():
    with pytest.raises(DataError, match="cannot be run"):
        harness.RecordedAnswers({}).loglikelihood([])
