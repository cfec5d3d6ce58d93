"""Asking an autoregressive model where vLLM is not there, or fails; `make test-vllm` asks one where it is."""

import sys

import pyarrow.parquet as pq
import pytest
import torch

from t3d.errors import MissingInputError, ParameterError, ServingError
from t3d.evaluation import answers, vllm_client
from t3d.models import autoregressive
from t3d.params import AUTOREGRESSIVE, Experiment
from t3d.prompts.reader import encode_prompt, read_prompts
from t3d.provenance import recipes, store
from tests.artefacts import made
from tests.conftest import SHIPPED
from tests.started import vllm_environment
from tests.training import SMALL, small_corpus


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """An experiment, and where its autoregressive model `ar` and six questions are."""
    root = tmp_path_factory.mktemp("served")
    small = SMALL.model_copy(update={"steps": 1, "warmup_steps": 0})
    experiment = Experiment(
        name="x",
        device="cpu",
        teachers={
            "m": {"source": "shipped", "path": str(SHIPPED)},
            "ar": {"source": "pretrain", "attention": "causal", "pretraining": small.model_dump()},
        },
        prompt_sets={"q": {"teacher": "m", "split": "test", "count": 6}},
        benchmarks={"b": {"label": "B", "prompts": "q", "task": "gsm_boxed", "max_new_tokens": 8}},
    )
    with pytest.MonkeyPatch.context() as patch:
        small_corpus(patch)
        made(experiment, root, "teachers/ar", "prompts/q")
    return experiment, [root / f"{name}.manifest.json" for name in ("teachers/ar", "prompts/q")]


def answer(asked, out, budget=AUTOREGRESSIVE):
    experiment, given = asked
    answers.make(experiment, "b", budget, *given, out / f"{budget}.manifest.json")


def test_it_has_no_budget_but_its_own(asked, tmp_path):
    with pytest.raises(ParameterError, match=r"answers/ar/b/b8s2: ar is autoregressive and has no budget but b1s1"):
        answer(asked, tmp_path, "b8s2")


def test_without_vllm_the_error_says_what_makes_it(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_client, "VLLM", tmp_path / "nowhere")
    with pytest.raises(MissingInputError, match=r"nowhere/installed is missing: `make vllm-env`"):
        answer(asked, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_environment_that_cannot_start_it_is_an_error_that_points_to_the_log(asked, tmp_path, monkeypatch, capfd):
    """This environment: it has lm-eval's backend, and no vLLM."""
    monkeypatch.setattr(vllm_client, "VLLM", vllm_environment(tmp_path, sys.executable))
    with pytest.raises(ServingError, match=r"vLLM ended with status 1 and gave no answers"):
        answer(asked, tmp_path)
    assert "vllm" in capfd.readouterr().err


def test_the_projects_engine_answers_without_vllm(asked, tmp_path, monkeypatch):
    """Greedy answers are those of transformers; the receipt has the speed of one question at a time as well."""
    monkeypatch.setattr(vllm_client, "VLLM", tmp_path / "nowhere")
    experiment, (model_at, questions_at) = asked
    teachers = experiment.teachers | {"ar": experiment.teachers["ar"].model_copy(update={"engine": "t3d"})}
    answer((experiment.model_copy(update={"teachers": teachers}), asked[1]), tmp_path)
    manifest = store.read(tmp_path / f"{AUTOREGRESSIVE}.manifest.json")
    rows = pq.read_table(manifest.file(".parquet")).to_pylist()
    assert len(rows) == 6
    folder = store.read(model_at).folder()
    model, tokenizer = autoregressive.load_model(folder), autoregressive.load_tokenizer(folder)
    prompts = {prompt.id: prompt.text for prompt in read_prompts(store.read(questions_at))}
    for row in rows:
        ids = torch.tensor([encode_prompt(tokenizer, prompts[row["id"]])])
        written = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)
        assert row["response_ids"] == written[0, ids.shape[1] :].tolist()
    decoding = store.read_receipt(manifest)["decoding"]
    assert decoding["engine"] == "t3d"
    assert decoding["one_at_a_time"]["questions"] == 6
    assert recipes.digest(experiment, "answers/ar/b/b1s1") != manifest.recipe
    assert recipes.digest(experiment, "teachers/ar") == store.read(model_at).recipe
