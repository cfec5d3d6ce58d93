"""An autoregressive model through the DAG and through vLLM, against transformers: the same tokens, the same accuracy.

`make test-vllm` runs this; `make test` does not. A small model is pretrained on the spot (some minutes on two cores).
"""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from t3d import params
from t3d.evaluation import scores
from t3d.models.autoregressive import load_tokenizer
from t3d.provenance import store, writer
from t3d.provenance.lineage import VLLM
from t3d.sandbox.zygote import find_bwrap
from tests.conftest import ROOT

LONGEST = 96
SHAPE = {"vocab_size": 512, "hidden_size": 128, "layers": 2, "heads": 2, "key_value_heads": 1, "intermediate_size": 256}
PRETRAINING = {
    "model": SHAPE,
    "domains": {"code": 1},
    "problems": 4000,
    "max_length": 192,
    "steps": 600,
    "batch_size": 24,
    "learning_rate": 4e-3,
    "warmup_steps": 30,
}
SHOWN = {"teacher": "sdar", "students": [], "benchmarks": ["code"], "autoregressive": "ar"}
EXPERIMENT = {
    "device": "cpu",
    "teachers": {
        "sdar": {"source": "pretrain", "pretraining": PRETRAINING | {"steps": 20, "warmup_steps": 2}},
        "ar": {"source": "pretrain", "attention": "causal", "label": "AR (vLLM)", "pretraining": PRETRAINING},
    },
    "prompt_sets": {"code": {"teacher": "sdar", "domain": "code", "split": "test", "count": 100}},
    "benchmarks": {
        "code": {
            "label": "Functions",
            "prompts": "code",
            "task": "code_function",
            "max_new_tokens": LONGEST,
            "batch_size": 16,
            "sandbox": "bubblewrap" if find_bwrap() else "process",
        }
    },
    "tables": {
        "table1": {"caption": "Accuracy", "budgets": ["b8s1"], **SHOWN},
        "table3": {"caption": "Cost", "kind": "decoding", "budgets": ["b8s1"], **SHOWN},
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project folder in which Snakemake has made both tables from nothing."""
    if not (VLLM / "installed").is_file():
        pytest.exit("vLLM is needed: make vllm-env", returncode=1)
    folder = tmp_path_factory.mktemp("project")
    (folder / "params").mkdir()
    (folder / "params" / "served.yaml").write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    shutil.copy(ROOT / "params" / "reported.csv", folder / "params")
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-d", str(folder), "--cores", "1"]
    done = subprocess.run([*command, "--config", "experiment=served"], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def data(project):
    return project / "data" / "served"


@pytest.fixture(scope="module")
def answers(data):
    """What vLLM answered, by question id."""
    return pd.read_parquet(data / "answers" / "ar" / "code" / "b1s1.parquet").set_index("id")


@pytest.fixture(scope="module")
def expected(data):
    """What transformers answers to the recorded ids, greedily and one by one: question id -> ids."""
    model = AutoModelForCausalLM.from_pretrained(data / "teachers" / "ar", dtype=torch.float32)
    lines = (data / "prompts" / "code.jsonl").read_text().splitlines()
    found = {}
    for prompt in map(json.loads, lines):
        asked = torch.tensor([prompt["prompt_ids"]])
        mask = torch.ones_like(asked)
        written = model.generate(asked, attention_mask=mask, max_new_tokens=LONGEST, do_sample=False)
        found[prompt["id"]] = written[0, asked.shape[1] :].tolist()
    return found


def test_token_for_token(answers, expected):
    assert len(answers) == len(expected) == 100
    assert {key: list(ids) for key, ids in answers["response_ids"].items()} == expected
    ended = {key: "stop" if ids[-1] in (0, 2) else "length" for key, ids in expected.items()}
    assert answers["finish_reason"].to_dict() == ended
    assert "stop" in ended.values()
    assert (answers["response_tokens"] == answers["response_ids"].map(len)).all()
    assert (answers["denoising_steps"] == answers["response_tokens"]).all()
    assert (answers["commit_passes"] == 0).all()


def test_the_accuracy_is_that_of_transformers(project, data, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    experiment, tokenizer = params.find("served"), load_tokenizer(data / "teachers" / "ar")
    rows = [
        {"id": key, "text": tokenizer.decode(ids, skip_special_tokens=True), "finish_reason": "stop"}
        | {"response_tokens": len(ids), "denoising_steps": len(ids), "commit_passes": 0}
        for key, ids in expected.items()
    ]
    asked, out = data / "prompts" / "code.manifest.json", tmp_path / "b1s1.manifest.json"
    inputs = [store.read(data / "teachers" / "ar.manifest.json"), store.read(asked)]
    with writer.writing(experiment, "answers/ar/code/b1s1", out, inputs=inputs) as job:
        pq.write_table(pa.Table.from_pylist(rows), job.file(".parquet"))
        job.receipt["decoding"] = {}
    scored = tmp_path / "scores" / "b1s1.manifest.json"
    scores.make(experiment, out, asked, scored)
    theirs, ours = (json.loads(path.read_text()) for path in (scored.parent / "b1s1.json", _score(data)))
    assert ours["correct"] == theirs["correct"] > 0
    assert ours["n"] == theirs["n"] == 100


def _score(data):
    return data / "scores" / "ar" / "code" / "b1s1.json"


def test_both_tables_have_its_row(project, data):
    accuracy = pd.read_csv(project / "results" / "table1.csv").set_index("method").loc["AR (vLLM)"]
    right = json.loads(_score(data).read_text())["correct"]
    assert accuracy["accuracy"].tolist() == [right, right]
    cost = pd.read_csv(project / "results" / "table3.csv").set_index(["method", "metric"])["value"]
    alone, saturated = cost["AR (vLLM), batch 1"], cost["AR (vLLM), saturated"]
    assert saturated["tokens_per_second"] > alone["tokens_per_second"] > 0
    assert alone["latency_seconds"] > saturated["latency_seconds"] > 0
    assert saturated["tokens_per_step"] == 1


def test_the_receipt_says_what_answered(data):
    speed = json.loads((data / "answers" / "ar" / "code" / "b1s1.receipt.json").read_text())["decoding"]
    assert speed["engine"].startswith("vLLM ")
    assert speed["batch_size"] == 16
    assert speed["one_at_a_time"]["questions"] == 32


def test_nothing_is_left_to_be_done(project):
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-d", str(project), "--dry-run"]
    done = subprocess.run([*command, "--config", "experiment=served"], capture_output=True, text=True, cwd=project)
    assert "Nothing to be done" in done.stdout + done.stderr


@pytest.mark.usefixtures("project")
def test_a_gpu_is_not_answered_for_by_a_cpu(tmp_path):
    """The receipt would name the GPU."""
    asked = tmp_path / "request.json"
    asked.write_text(json.dumps({"device": "cuda"}))
    command = [str(VLLM / "bin" / "python"), "-m", "t3d.evaluation.vllm_backend", str(asked), str(tmp_path / "none")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cuda is asked for, and this vLLM is built for cpu." in done.stderr
