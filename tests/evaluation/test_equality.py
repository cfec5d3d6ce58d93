"""What equals what, kind by kind: exact values, decimals, bases, case, brackets, words, units, thousands."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from t3d.evaluation import equality
from t3d.evaluation.boxed import compare

PAIRS = yaml.safe_load((Path(__file__).parent / "pairs.yaml").read_text())


@pytest.mark.parametrize(("gold", "answer", "equal"), [pair for pairs in PAIRS.values() for pair in pairs], ids=str)
def test_pairs(gold, answer, equal):
    assert compare(gold, answer) == (equal, "equal" if equal else "not equal")


@pytest.mark.parametrize(
    "answer", ["5", r"\frac{1}{3}", "x^2", r"\{1,2\}", r"\text{east}", "312_5", r"\oops 3", r"\frac{1}{0}"]
)
def test_every_answer_equals_itself(answer):
    assert compare(answer, answer)[0]
    assert compare(answer, f"{answer}.")[0]


def test_ctrl_c_at_the_terminal_ends_no_comparison_and_says_nothing():
    """A comparison that Ctrl-C ends would be a wrong verdict, and two tracebacks beside the sentence of the program."""
    program = """if True:
        import os, signal
        from t3d.evaluation.boxed import compare
        signal.signal(signal.SIGINT, signal.default_int_handler)
        compare("0.5", r"\\frac{2}{4}")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.killpg(0, signal.SIGINT)
        print(compare("0.5", r"\\\\frac{1}{2}"))
    """
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, start_new_session=True, timeout=120
    )
    assert (run.stdout, run.stderr) == ("(True, 'equal')\n", "")


def test_the_process_says_nothing_when_who_asked_has_gone():
    command = [sys.executable, "-P", equality.__file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        process.stdin.write(b'["1", "1"]\n')
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
