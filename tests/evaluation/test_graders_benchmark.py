"""`benchmarks/graders.py`: references are right, broken variants are not, and a wrong verdict is said."""

import json
import subprocess
import sys

import pytest

from benchmarks import graders
from t3d.evaluation import boxed
from tests.conftest import ROOT

MATH = [
    {"problem": "2x = 1?", "solution": r"So $x = \boxed{\frac{1}{2}}$.", "answer": r"\frac{1}{2}", "unique_id": "a"},
    {"problem": "Who?", "solution": r"It is \boxed{\text{Nora}}.", "answer": r"\text{Nora}", "unique_id": "b"},
    {"problem": "Roots?", "solution": r"\boxed{1,-2}", "answer": "1,-2", "unique_id": "c"},
]
GSM8K = [{"question": "How many?", "answer": "3 + 4 = 7\n#### 7"}, {"question": "More?", "answer": "#### 1,200"}]
MBPP = {
    "task_id": 11,
    "text": "Double it.",
    "test_list": ["assert f(1) == 2", "assert f(0) == 0"],
    "test_setup_code": "",
}
SANITIZED = {"task_id": 12, "prompt": "Is it even?", "test_list": ["assert g(2) == True"], "test_imports": []}
DOUBLE = "def f(n):\n    return n if n == 0 else f(n - 1) + 2"
EVEN = "def g(n):\n    return n % 2 == 0"


@pytest.fixture
def folder(tmp_path):
    """The benchmarks' files in small."""
    rows = {
        "math500/test.jsonl": MATH,
        "gsm8k/test.jsonl": GSM8K,
        "mbpp/mbpp.jsonl": [MBPP | {"code": DOUBLE}],
    }
    for name, content in rows.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    (tmp_path / "mbpp/sanitized-mbpp.json").write_text(json.dumps([SANITIZED | {"code": EVEN}]))
    return tmp_path


def run(folder, capsys, *more):
    """Exit status and the table, as cells by line."""
    # Its forks must not share the process that compares with the tests before it.
    boxed._process.cache_clear()
    status = graders.main([str(folder), "--kind", "process", *more])
    lines = capsys.readouterr().out.splitlines()
    return status, {line[:26].strip(): line[26:].split() for line in lines if line[26:].strip()}, lines


def test_references_pass_and_broken_variants_do_not(folder, capsys):
    status, table, lines = run(folder, capsys, "--limit", "3")
    assert status == 0
    assert table[graders.REFERENCE] == ["3/3", "2/2", "1/1", "1/1", "3/3"]
    assert len(graders.ANSWER_VARIANTS) == len(graders.PROGRAM_VARIANTS) == 10
    assert all(table[variant] == ["0", "0", "-", "-", "-"] for variant in graders.ANSWER_VARIANTS)
    assert all(table[variant] == ["-", "-", "0", "0", "0"] for variant in graders.PROGRAM_VARIANTS)
    assert lines[-1].startswith("110 verdicts, 0 of them wrong")


def test_a_reference_that_fails_and_a_variant_that_passes_are_said(folder, capsys):
    wrong = MBPP | {"code": DOUBLE, "test_list": ["assert f(1) == 3"]}
    nothing = MBPP | {"task_id": 13, "code": "def f(n):\n    return", "test_list": ["assert f(1) == None"]}
    (folder / "mbpp/mbpp.jsonl").write_text(json.dumps(wrong) + "\n" + json.dumps(nothing) + "\n")
    status, table, lines = run(folder, capsys, "--limit", "2")
    assert status == 1
    assert table[graders.REFERENCE][2] == "1/2"
    assert table["returns None"][2] == "1"
    assert [line for line in lines if line.startswith("MBPP, 11, references right: wrong")]
    assert "MBPP, 13, returns None: passed" in lines


def test_ctrl_c_ends_it_without_a_traceback():
    """Each of its processes printed one."""
    program = """if True:
        import os, signal, sys
        from benchmarks import graders
        from t3d.errors import in_a_sentence
        from t3d.prompts.questions import Question

        class Progress(graders.Progress):
            def advance(self, count):
                self.done += count
                if self.done == self.total:
                    os.killpg(0, signal.SIGINT)

        graders.Progress = Progress
        signal.signal(signal.SIGINT, signal.default_int_handler)
        numbers = [Question(str(n), "How many?", str(n), f"\\\\boxed{{{n}}}") for n in range(100)]
        with in_a_sentence():
            graders.judge(graders.Benchmark("numbers", "", numbers), "process")
    """
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, start_new_session=True, timeout=120)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (130, "t3d: interrupted.")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "value", [True, 0, -1, 1.5, float("inf"), 2j, None, "", "a", b"", [], (1,), set(), {}, object()]
)
def test_a_changed_result_is_another_one(value):
    names = {}
    exec(graders._CHANGED, names)
    changed = names["_changed"](value)
    assert changed != value
    assert type(changed) is type(value) or value is None or type(value) is object or value == float("inf")


def test_a_recursive_function_changes_once():
    names = {}
    exec(graders.PROGRAM_VARIANTS["result + 1"](DOUBLE, "f"), names)
    assert [names["f"](n) for n in range(3)] == [1, 5, 9]
