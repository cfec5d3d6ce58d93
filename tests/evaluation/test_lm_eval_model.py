"""Our model in lm-eval's own command line answers as our own path does, and says what it cannot do."""

import json
from functools import partialmethod

import pytest
import yaml
from lm_eval.tasks import TaskManager

from t3d import cli
from t3d.decoding.decoder import decode
from t3d.decoding.request import DecodingOptions, Request
from t3d.evaluation import harness, lm_eval_model
from t3d.models.folder import mask_id, stop_ids
from t3d.params import Budget
from tests.conftest import SHIPPED

QUESTIONS = [
    "James picks 61 pears on Monday. On Tuesday he picks 82 pears. How many pears does James have?",
    "Anna has 12 books. She buys 3 more. How many books does she have?",
]
EXAMPLE = "Ben has 2 hats. He buys 1 more. How many hats does Ben have?"


@pytest.fixture
def task(tmp_path):
    """A task as a user of lm-eval writes one: texts, few-shot examples from a split."""
    for split, questions in (("test", [*QUESTIONS, EXAMPLE]), ("train", [EXAMPLE] * 2)):
        lines = [json.dumps({"text": text, "answer": "\\boxed{3}"}) + "\n" for text in questions]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    spec = {
        "task": "pears",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(tmp_path / f"{split}.jsonl") for split in ("test", "train")}},
        "test_split": "test",
        "fewshot_split": "train",
        "output_type": "generate_until",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": 120},
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "pears.yaml").write_text(yaml.safe_dump(spec))
    return tmp_path


def test_it_answers_as_our_own_path_does(monkeypatch, task, tokenizer, teacher):
    """One run of lm-eval's command line, with an example before each question."""
    # Of lm-eval's own tasks it would read 13,000 files first.
    monkeypatch.setattr(TaskManager, "__init__", partialmethod(TaskManager.__init__, include_defaults=False))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(task / "cache"))
    words = [
        *("--model_args", f"pretrained={SHIPPED},budget=b8s4,dtype=float32", "--tasks", "pears", "--limit", "2"),
        *("--include_path", str(task), "--apply_chat_template", "--num_fewshot", "1", "--fewshot_as_multiturn", "true"),
        *("--log_samples", "--output_path", str(task / "out")),
    ]
    monkeypatch.setattr("sys.argv", ["t3d", "lm-eval", *words])
    with pytest.raises(SystemExit) as ended:
        cli.app()
    assert not ended.value.code
    (samples,) = (task / "out").rglob("samples_pears_*.jsonl")
    theirs = [json.loads(line) for line in samples.read_text().splitlines()]
    example = [{"role": "user", "content": EXAMPLE}, {"role": "assistant", "content": "\\boxed{3}"}]
    requests = []
    for number, text in enumerate(QUESTIONS[:2]):
        conversation = [*example, {"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        assert theirs[number]["arguments"]["gen_args_0"]["arg_0"] == rendered
        requests.append(Request(tokenizer(rendered, add_special_tokens=False)["input_ids"], 0))
    options = DecodingOptions(120, stop_ids(SHIPPED), mask_id(tokenizer), batch_size=2)
    found = decode(teacher, requests, Budget.parse("b8s4"), options)
    ours = [tokenizer.decode(each.ids[: each.length], skip_special_tokens=True) for each in found]
    assert [sample["resps"][0][0] for sample in theirs] == ours
    assert len(set(ours)) == 2


class Asked:
    def __init__(self, context, **options):
        self.args = context, options


@pytest.fixture(scope="module")
def lm():
    return lm_eval_model.T3DLM(str(SHIPPED), "b8s4", dtype="float32", batch_size="4")


def ask(lm, **options):
    context = lm.apply_chat_template([{"role": "user", "content": QUESTIONS[1]}])
    return lm.generate_until([Asked(context, max_gen_toks=120, **options)] * 2)


def test_text_ends_before_the_first_until(lm):
    (whole, _), (cut, again) = ask(lm, do_sample=False), ask(lm, do_sample=False, until=["never", " \\boxed"])
    assert cut == again == whole[: whole.index(" \\boxed")]


def test_a_repeated_question_is_drawn_anew_and_a_draw_comes_again(lm):
    one, other = ask(lm, do_sample=True, temperature=2.0)
    assert one != other
    assert [one, other] == ask(lm, do_sample=True, temperature=2.0)


def test_what_it_does_not_have_is_refused(lm):
    with pytest.raises(harness.DataError, match="num_beams"):
        ask(lm, num_beams=4)
    with pytest.raises(harness.DataError, match="log-likelihoods"):
        lm.loglikelihood([])
    with pytest.raises(lm_eval_model.ParameterError, match="peft is not known; there are pretrained"):
        lm_eval_model.T3DLM(str(SHIPPED), "b8s4", peft="adapter")
    with pytest.raises(lm_eval_model.ParameterError, match="batch_size is 'auto'; give a number"):
        lm_eval_model.T3DLM(str(SHIPPED), "b8s4", batch_size="auto")
    for missing in ({"budget": "b8s4"}, {"pretrained": str(SHIPPED)}):
        with pytest.raises(lm_eval_model.ParameterError, match="give a folder and a budget: pretrained=FOLDER"):
            lm_eval_model.T3DLM(**missing)
    for wrong in ({"seed": "x"}, {"max_gen_toks": 0}, {"max_gen_toks": "many"}):
        with pytest.raises(lm_eval_model.ParameterError, match=r"max_gen_toks=.* and seed=.* are to be whole numbers"):
            lm_eval_model.T3DLM(str(SHIPPED), "b8s4", **wrong)
