"""A folder of the shape the hub has, with its vocabulary of 151 936, through every stage: fetch to score, and back."""

import json
import shutil

import pytest

from benchmarks import published
from t3d import params
from t3d.errors import CorruptArtefactError, MissingInputError, ParameterError
from t3d.models.folder import load_tokenizer, mask_id, stop_ids
from t3d.prompts.reader import read_prompts
from t3d.provenance import store
from t3d.teachers import teacher
from tests.artefacts import made

# One of Unicode's other line ends is part of a question.
QUESTIONS = [{"problem": f"What is\u2028{n} + 1?", "answer": str(n + 1), "unique_id": f"q{n}"} for n in range(6)]


EXPERIMENT = """
device: cpu
sources:
  sdar: {repository: owner/SDAR, kind: model, revision: %(a)s, files: %(model_files)s, local: %(model)s}
  rows: {repository: owner/rows, revision: %(b)s, files: %(rows_files)s, local: %(rows)s}
teachers: {sdar: {source: hub, hub: sdar, dtype: bfloat16}}
prompt_sets:
  train: {teacher: sdar, domain: questions, source: rows, columns: {question: problem}, split: train, count: 2,
    suffix: " Answer in a box."}
  test: {teacher: sdar, domain: questions, source: rows, split: test,
    columns: {question: problem, answer: answer, id: unique_id}}
trajectories: {r: {prompts: train, budget: b4s4, max_new_tokens: 12}}
students:
  t3d:
    label: T3D
    trajectories: r
    objective: {name: t3d}
    states: {kind: trajectory, random_tokens: 0.1}
    rows: {max_response_tokens: 10}
    block_size: 4
    optimizer: {steps: 2, batch_size: 2, learning_rate: 1.0e-3}
benchmarks: {b: {label: B, prompts: test, task: gsm_boxed, max_new_tokens: 8}}
"""


def experiment_file(folder, model, rows):
    given = {"model": model, "rows": rows, "a": "a" * 40, "b": "b" * 40}
    for name, path in (("model", model), ("rows", rows)):
        given[f"{name}_files"] = json.dumps({p.name: store.sha256(p) for p in sorted(path.iterdir())})
    path = folder / "published.yaml"
    path.write_text(EXPERIMENT % given)
    return params.load(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sdar")
    published.write(path, "tiny", shard_size="6MB", scale=8.0)
    return path


def test_a_head_that_is_the_embedding_is_no_missing_weight(tmp_path):
    published.write(tmp_path, "tiny", tied=True)
    teacher.check_folder(tmp_path)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows"
    path.mkdir()
    (path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    return path


def test_a_published_folder_goes_through_every_stage(folder, rows, tmp_path):
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    e = experiment_file(tmp_path, folder, rows)
    scored = store.read(made(e, tmp_path, "scores/t3d-seed0/b/b4s1"))
    asked = read_prompts(store.read(tmp_path / "prompts/test.manifest.json"))
    assert [p.id for p in asked] == [f"rows/q{n}" for n in range(6)]
    assert [p.answer for p in asked] == ["1", "2", "3", "4", "5", "6"]
    student = store.read(tmp_path / "students/t3d-seed0.manifest.json")
    assert student.facts["steps"] == 2
    config = json.loads((student.folder() / "config.json").read_text())
    assert (config["model_type"], config["vocab_size"]) == ("sdar", published.VOCABULARY)
    teacher.check_folder(student.folder())
    assert json.loads(scored.file(".json").read_text())["n"] == 6
    assert {"sources/sdar", "sources/rows", "teachers/sdar", "students/t3d-seed0"} <= set(scored.recipes)
    assert str(tmp_path) not in (tmp_path / "sources/sdar.manifest.json").read_text()


def test_the_mask_is_where_published_models_have_it(folder):
    tokenizer = load_tokenizer(folder)
    assert mask_id(tokenizer) == published.MASK_ID == 151_669
    assert stop_ids(folder) == {151_643, 151_645}
    text = 'def f(x):\n    return "é" * x'
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "config.json").write_text('{"model_type": "qwen3"}'), ParameterError, "model_type is 'qwen3'"),
        (
            lambda f: [
                (f / n).write_text(
                    (f / n).read_text().replace("<|MASK|>", "<|HOLE|>").replace('"mask_token"', '"hole_token"')
                )
                for n in ("tokenizer.json", "tokenizer_config.json")
            ],
            ParameterError,
            "no mask token",
        ),
        (lambda f: next(iter(sorted(f.glob("model-*")))).unlink(), MissingInputError, "are not complete"),
        (
            lambda f: next(iter(sorted(f.glob("model-*")))).write_bytes(b"torn"),
            CorruptArtefactError,
            "cannot be read",
        ),
        (
            lambda f: (f / "config.json").write_text(
                (f / "config.json").read_text().replace('"intermediate_size": 64', '"intermediate_size": 80')
            ),
            CorruptArtefactError,
            r"weight model.layers.0.mlp.down_proj.weight is \(32, 64\); by its config.json it should be \(32, 80\)",
        ),
    ],
    ids=["another model", "no mask token", "a shard missing", "a torn shard", "other shapes"],
)
def test_a_folder_that_is_no_whole_sdar_is_refused(folder, tmp_path, damage, error, message):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(error, match=message):
        teacher.check_folder(copy)


def test_a_benchmark_asked_in_another_tokenizers_ids_is_refused(folder, rows, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    settings = (other / "tokenizer_config.json").read_text()
    (other / "tokenizer_config.json").write_text(settings.replace("<|im_start|>assistant", "<|im_start|>model"))
    e = experiment_file(tmp_path, folder, rows)
    two = experiment_file(tmp_path, other, rows)
    two = e.model_copy(
        update={
            "sources": e.sources | {"other": two.sources["sdar"]},
            "teachers": e.teachers | {"other": two.teachers["sdar"].model_copy(update={"hub": "other"})},
        }
    )
    with pytest.raises(ParameterError, match="other has another tokenizer or chat template than teacher sdar"):
        made(two, tmp_path, "answers/other/b/b4s1")
