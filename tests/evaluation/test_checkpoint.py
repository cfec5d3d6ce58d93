"""A checkpoint of nobody's, scored through the stages of the workflow."""

import hashlib
import json
import re
import shutil

import pytest
import yaml

from t3d import cli
from tests.conftest import ROOT, SHIPPED

QUESTION = (
    "A stack is made out of 7 purple cubes, 2 times as many orange cubes, and an unknown number of green cubes. If "
    "there are {} cubes in the stack in total, how many green cubes are there?"
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An experiment that names four questions in a file and a teacher that is not here."""
    (tmp_path / "params").mkdir()
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    (tmp_path / "pears").mkdir()
    rows = [json.dumps({"q": QUESTION.format(n), "a": str(n - 21)}) + "\n" for n in (23, 30, 34, 41)]
    (tmp_path / "pears" / "test.jsonl").write_text("".join(rows))
    digest = hashlib.sha256((tmp_path / "pears" / "test.jsonl").read_bytes()).hexdigest()
    pears = {"repository": "me/pears", "revision": "1" * 40, "files": {"test.jsonl": digest}, "local": "pears"}
    prompts = {"teacher": "far", "domain": "questions", "source": "pears", "split": "test"}
    content = {
        "sources": {"pears": pears, "far": {"repository": "me/far", "kind": "model"}},
        "teachers": {"far": {"source": "hub", "hub": "far"}},
        "prompt_sets": {"pears": prompts | {"columns": {"question": "q", "answer": "a"}}},
        "benchmarks": {"pears": {"label": "Pears", "prompts": "pears", "task": "math_boxed", "max_new_tokens": 128}},
    }
    (tmp_path / "params" / "fruit.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["t3d", "evaluate", "--like", "fruit", "--dtype", "float32", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_a_folder_is_scored_with_interval_and_receipt(project, monkeypatch, capsys):
    words = (str(SHIPPED), "--benchmark", "pears", "--budget", "b8s8")
    code, out, _ = run(monkeypatch, capsys, *words)
    assert not code
    line = out.splitlines()[-1]
    told = re.fullmatch(
        r"Pears: (.*) % in float32 on .+ \(block 8, 1 tokens per step; n 4, 95 % interval .* to .*\); (.*)", line
    )
    assert told
    # The shipped teacher knows such questions.
    assert float(told[1]) >= 50
    receipt = json.loads((project / told[2]).read_text())
    assert re.fullmatch("scores/model-float32/pears-[0-9a-f]{8}/b8s8", receipt["artefact"])
    made = {path: path.stat().st_mtime_ns for path in (project / "data").rglob("*.manifest.json")}
    code, out, _ = run(monkeypatch, capsys, *words, "--budget", "b8s2")
    assert not code
    assert [text.partition(";")[0].split(", ")[1] for text in out.splitlines() if text.startswith("Pears")] == [
        "1 tokens per step",
        "4 tokens per step",
    ]
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())
    # Nor does another format, or another limit of tokens, replace what is there.
    code, out, _ = run(monkeypatch, capsys, *words, "--dtype", "bfloat16")
    assert not code
    other = re.search(r"Pears: .* % in bfloat16 on .*; (\S+)$", out)
    assert json.loads((project / other[1]).read_text())["artefact"].startswith("scores/model-bfloat16/pears-")
    fruit = project / "params" / "fruit.yaml"
    fruit.write_text(fruit.read_text().replace("max_new_tokens: 128", "max_new_tokens: 64"))
    code, out, _ = run(monkeypatch, capsys, *words)
    assert not code
    assert out.splitlines()[-1].rpartition("; ")[2] not in (told[2], other[1])
    assert all(path.stat().st_mtime_ns == when for path, when in made.items())


def test_the_spread_over_formats_and_batches_stands_beside_the_score(project, monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, str(SHIPPED), "--benchmark", "pears", "--budget", "b8s2", "--spread")
    assert not code
    *_, said = out.partition("| format")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()[2:8]]
    assert [row[:2] for row in rows] == [[kind, size] for kind in ("float32", "bfloat16") for size in ("1", "8", "128")]
    accuracies = [float(row[2]) for row in rows]
    assert f"Spread: {max(accuracies) - min(accuracies):.1f} points. First row: Pears, block 8, 4 tokens" in said
    # On a CPU a number of float32 does not depend on the rows beside it.
    assert [row[3] for row in rows[:3]] == ["0 of 4"] * 3


def test_a_damaged_folder_is_named_as_it_was_given(project, monkeypatch, capsys):
    """Not the copy of it that the workflow makes."""
    folder = project / "mine"
    shutil.copytree(SHIPPED, folder)
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    for name, size in (("model.safetensors", 2_000_000), ("tokenizer.json", 1000), ("config.json", 10)):
        (folder / name).write_bytes(whole[folder / name][:size])
        code, _, error = run(monkeypatch, capsys, "mine", "--benchmark", "pears", "--budget", "b8s8")
        (folder / name).write_bytes(whole[folder / name])
        assert code == 1
        assert error.startswith("t3d: mine"), error
        assert "data/evaluate" not in error
    assert not (project / "data").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere", "--benchmark", "pears", "--budget", "b8s8"), "nowhere is no folder of a model"),
        ((str(SHIPPED), "--benchmark", "plums", "--budget", "b8s8"), "no benchmark 'plums': pears"),
        ((str(SHIPPED), "--benchmark", "pears", "--budget", "b8"), "--budget: budget 'b8' is not of the form"),
        (("params", "--benchmark", "pears", "--budget", "b8s8"), "params holds no model: there is no config.json"),
    ],
)
def test_bad_calls_are_said_in_a_sentence(project, monkeypatch, capsys, words, message):
    code, _, error = run(monkeypatch, capsys, *words)
    assert code == 1
    assert message in error
    assert "Traceback" not in error
