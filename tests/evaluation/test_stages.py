"""The two evaluation stages on real artefacts: answers are decoded, scores are counted from them."""

import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t3d.evaluation import scores
from t3d.params import Experiment
from t3d.prompts.reader import read_prompts
from t3d.provenance import store, writer
from tests.artefacts import made
from tests.conftest import ROOT, SHIPPED
from tests.sandboxed import bubblewrap


def asking(prompts, **tasks) -> Experiment:
    """An experiment that asks the shipped teacher test prompts `q`; benchmark -> its task and what else it says."""
    return Experiment(
        name="x",
        device="cpu",
        teachers={"m": {"source": "shipped", "path": str(SHIPPED)}},
        prompt_sets={"q": {"teacher": "m", "split": "test"} | prompts},
        benchmarks={name: {"label": "B", "prompts": "q"} | spec for name, spec in tasks.items()},
    )


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Paths of an evaluated pair of budgets: {budget: (answers manifest, scores manifest)}."""
    root = tmp_path_factory.mktemp("evaluation")
    benchmark = {"task": "gsm_boxed", "max_new_tokens": 96}
    experiment, results = asking({"count": 6, "difficulty": {"max_steps": 2}}, b=benchmark), {}
    for budget in ("b8s8", "b8s1"):
        results[budget] = [made(experiment, root, f"{kind}/m/b/{budget}") for kind in ("answers", "scores")]
    return results


def judged(experiment, root, benchmark, texts):
    """The scores' rows, as if the teacher had answered with these texts."""
    at = [
        root / f"{name}.manifest.json" for name in ("teachers/m", "prompts/q", f"{benchmark}/answers", f"{benchmark}/s")
    ]
    inputs = [store.read(path) for path in at[:2]]
    counts = {"response_tokens": 1, "denoising_steps": 1, "commit_passes": 0, "finish_reason": "stop"}
    rows = [{"id": p.id, "text": text, **counts} for p, text in zip(read_prompts(inputs[1]), texts, strict=True)]
    with writer.writing(experiment, f"answers/m/{benchmark}/b8s1", at[2], inputs=inputs) as job:
        pq.write_table(pa.Table.from_pylist(rows), job.file(".parquet"))
        job.receipt["decoding"] = {"tokens_per_second": 1.0, "batch_size": 1, "device": "cpu"}
    scores.make(experiment, at[2], at[1], at[3])
    return pq.read_table(store.read(at[3]).file(".parquet")).to_pylist()


def totals(stages, budget):
    return json.loads(store.read(stages[budget][1], kind="scores").file(".json").read_text())


def test_budgets_that_answer_differently_score_differently(stages):
    slow, fast = totals(stages, "b8s8"), totals(stages, "b8s1")
    assert slow["correct"] > fast["correct"]
    assert slow["tokens_per_step"] < 1.01 < 5 < fast["tokens_per_step"]
    assert fast["tokens_per_forward"] < fast["tokens_per_step"]


def test_totals_are_the_sum_of_the_questions(stages):
    for budget, (answered, scored) in stages.items():
        found = totals(stages, budget)
        per_question = pq.read_table(store.read(scored).file(".parquet")).to_pylist()
        recorded = pq.read_table(store.read(answered).file(".parquet")).to_pylist()
        assert found["n"] == len(per_question) == len(recorded) == 6
        assert found["correct"] == sum(row["correct"] for row in per_question)
        assert found["accuracy"] == found["correct"] / 6
        assert found["denoising_steps"] == sum(row["denoising_steps"] for row in recorded)
        assert [row["id"] for row in per_question] == [row["id"] for row in recorded]


def test_scores_carry_the_recipes_of_all_they_came_from(stages):
    recipes = store.read(stages["b8s1"][1]).recipes
    assert set(recipes) == {"scores/m/b/b8s1", "answers/m/b/b8s1", "prompts/q", "teachers/m"}


@bubblewrap
def test_programs_are_run_against_their_hidden_tests(tmp_path):
    """A gold program passes, another's does not."""
    experiment = asking({"domain": "code", "count": 4}, b={"task": "code_function"})
    texts = [prompt.reference for prompt in read_prompts(store.read(made(experiment, tmp_path, "prompts/q")))]
    texts[1] = texts[0]
    texts[2] = f"> {texts[2]}".replace("\n", "\n> ")
    texts[3] = "```python\nimport sys\nsys.exit(0)\n```"
    found = judged(experiment, tmp_path, "b", texts)
    assert [row["correct"] for row in found] == [True, False, True, False]
    assert [row["reason"] for row in found if row["correct"]] == ["passed", "passed"]
    assert found[3]["reason"].startswith("SystemExit")
    assert found[2]["extracted"].startswith("def f(")
    # Half a surrogate pair in a message cannot be written as UTF-8: the reason shows its number.
    texts[3] = "```python\ndef f(x):\n    raise ValueError('\\ud800')\n```"
    found = judged(experiment, tmp_path, "b", texts)
    assert (found[3]["correct"], found[3]["reason"]) == (False, "ValueError: \\ud800")


def test_mathematics_is_scored_with_a_reason_for_each_answer(tmp_path):
    """Through both lm-eval tasks on the same answers: 2.0 is 2 as mathematics, not as text."""
    experiment = asking({"count": 4}, b={"task": "math_boxed"}, text={"task": "gsm_boxed"})
    gold = [prompt.answer for prompt in read_prompts(store.read(made(experiment, tmp_path, "prompts/q")))]
    texts = [f"\\boxed{{{gold[0]}}}", f"\\boxed{{{gold[1]}.0}}", f"It is {gold[2]}.", "\\boxed{9^{9^{9^9}}"]
    found = {benchmark: judged(experiment, tmp_path, benchmark, texts) for benchmark in ("b", "text")}
    assert [row["correct"] for row in found["b"]] == [True, True, False, False]
    assert [row["correct"] for row in found["text"]] == [True, False, False, False]
    assert [row["extracted"] for row in found["b"]] == [gold[0], f"{gold[1]}.0", None, None]
    none = "no closed box with an answer in it"
    assert [row["reason"] for row in found["b"]] == ["equal", "equal", none, none]
    assert {row["reason"] for row in found["text"]} == {None}


def test_a_stage_starts_without_what_it_does_not_need():
    """Each is loaded beside those before it, so that none of these loads it either."""
    unneeded = {
        "t3d.teachers.teacher": {"torch", "transformers"},
        "t3d.evaluation.scores": {"lm_eval", "math_verify", "torch"},
        "t3d.evaluation.harness": {"torch", "math_verify"},
        "t3d.models.folder": {"transformers.modeling_utils"},
    }
    code = f"import sys\nfor module, unneeded in {unneeded}.items():\n"
    code += "    __import__(module)\n    print(*(f'{module}: {name}' for name in unneeded & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == []
