"""Evaluation through the real lm-eval: extraction, replay, and that different answers give different scores."""

import json
from itertools import islice

import pytest

from t3d.decoding.request import DecodingOptions
from t3d.errors import DataError
from t3d.evaluation import harness
from t3d.models.folder import mask_id, stop_ids
from t3d.params import Budget, Difficulty
from t3d.prompts import gsm
from t3d.prompts.reader import encode_prompt
from tests.conftest import SHIPPED


@pytest.fixture
def questions(tmp_path, tokenizer):
    path = tmp_path / "questions.jsonl"
    with path.open("w") as file:
        for p in islice(gsm.problems("test", 0, Difficulty(max_steps=3, max_number=999)), 6):
            row = {
                "id": p.id,
                "text": p.question,
                "prompt_ids": encode_prompt(tokenizer, p.question),
                "answer": p.answer,
            }
            file.write(json.dumps(row) + "\n")
    return path


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def scored(texts, questions):
    samples = harness.evaluate(harness.RecordedAnswers(texts), "gsm_boxed", questions, score=True)
    return [sample["exact_match"] for sample in samples]


def test_the_last_box_counts_and_only_exactly(questions):
    docs = rows(questions)
    texts = {
        docs[0]["id"]: f"So \\boxed{{{docs[0]['answer']}}}.",
        docs[1]["id"]: f"\\boxed{{1234}} no: \\boxed{{{docs[1]['answer']}}}",
        docs[2]["id"]: f"\\boxed{{{docs[2]['answer']}}} or rather \\boxed{{99999}}",
        docs[3]["id"]: f"The answer is {docs[3]['answer']}.",
        docs[4]["id"]: f"\\boxed{{{docs[4]['answer']}0}}",
        docs[5]["id"]: "",
    }
    assert scored(texts, questions) == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_a_missing_answer_is_an_error(questions):
    with pytest.raises(DataError, match="no answer is recorded for 6 questions"):
        scored({}, questions)


def test_models_and_budgets_that_answer_differently_score_differently(questions, teacher, tokenizer):
    def texts(model, budget):
        options = DecodingOptions(120, stop_ids(SHIPPED), mask_id(tokenizer), batch_size=6)
        lm = harness.BlockDiffusionLM(model, tokenizer, Budget.parse(budget), options, seed_of=lambda item: 0)
        samples = harness.evaluate(lm, "gsm_boxed", questions, score=False)
        assert list(lm.responses) == [row["id"] for row in rows(questions)]
        return {sample["doc"]["id"]: sample["resps"][0][0] for sample in samples}

    slow, fast = texts(teacher, "b8s8"), texts(teacher, "b8s1")
    assert slow != fast
    assert sum(scored(slow, questions)) > sum(scored(fast, questions))


def test_log_likelihood_tasks_are_refused():
    with pytest.raises(DataError, match="cannot be run"):
        harness.RecordedAnswers({}).loglikelihood([])
