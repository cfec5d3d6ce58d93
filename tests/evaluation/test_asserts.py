"""Assert statements: the sandbox evaluates calls and the builtins around them, and says whether a bare call is true."""

import builtins
import math
import sys
from pathlib import Path

import pytest
import yaml

from t3d.errors import DataError
from t3d.evaluation import asserts
from t3d.sandbox.sandbox import Limits
from tests.sandboxed import bubblewrap

LIMITS = Limits(seconds=2.0)


CASES = yaml.safe_load((Path(__file__).parent / "asserted.yaml").read_text())


def judge(box, program, tests):
    statements = [asserts.read(test, "sum" if "def sum" in program else "f") for test in tests]

    def check(candidate):
        for statement in statements:
            asserts.run(statement, candidate)

    return box.judge(program, "f", check, LIMITS)


@bubblewrap
@pytest.mark.parametrize("case", CASES["holds"].values(), ids=CASES["holds"])
def test_what_holds_under_python_holds(box, case):
    verdict = judge(box, case["program"], case["tests"])
    assert (verdict.passed, verdict.reason) == (True, "passed")


@bubblewrap
@pytest.mark.parametrize("case", CASES["fails"].values(), ids=CASES["fails"])
def test_what_does_not_hold_fails(box, case):
    verdict = judge(box, case["program"], [case["test"]])
    assert not verdict.passed
    assert case["reason"] in verdict.reason


def test_the_sandbox_is_asked_for_calls_and_the_builtins_around_them_alone():
    read = asserts.read("assert sorted(set(f(1))) == [f(2), 3] and not f(g(4)) and len(f(5)) < 6", "f")
    assert read.calls == (("f(1)", ("set", "sorted")), ("f(2)", ()), ("f(g(4))", ("bool",)), ("f(5)", ("len",)))


@pytest.mark.parametrize(
    "test",
    [
        "f(1) == 1",
        "assert f(1) == 1\nassert f(2) == 2",
        "assert 1 == 1",
        "assert g(f(1)) == 1",
        "assert all(f(x) for x in y)",
        "assert f(1) == y",
        "assert f(1) == set.mro()",
        "assert f(1) == {**{1: 2}}",
        "assert f(1) == '%d' % 1",
        "assert f(1)[0:1] == [1]",
        "assert f(1).real == 1",
        "assert f(1)() == 1",
        "assert f(1) == [*[1]]",
        "assert f(1) == f'{1}'",
        "assert f(1) == (x := 1)",
        "assert f(1) == (lambda: 1)()",
        "assert f(1) == open('left', 'w').write('x')",
        "assert f(1) == __import__('os').system('touch left')",
        "assert os.system('touch left') == f(1)",
        "assert sorted(f(1), **{'key': 1})",
        "assert f(1) == math.isclose.__self__.factorial(10**6)",
        "assert f(1) == (1).__class__",
        f"assert f(1) == {'(' * 300}1{')' * 300}",
        f"assert f(1) == {'1+' * 30000}1",
        "assert f(1) == 1\0",
    ],
    ids=lambda test: test[:40],
)
def test_tests_of_another_shape_are_refused_and_nothing_of_them_is_executed(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"a test (is one assert statement|compares what f returns with plain data)"):
        asserts.read(test, "f")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "test",
    [
        *("f(1) == 1", "f(1) != 1", "f(1) is None", "f(1) is not None", "f(1) in [1, (2, 3)]", "f(1) not in {1: 2}"),
        *("1 < f(1) <= 2 < 3", "2 > f(1) >= 0", "f(1) - 1 < 1e-6", "f(1) + 1 == 1 / 2", "abs(f(1) - 0.5) < 0.5"),
        *("(f(1) and 3) == 0", "(f(1) or [3]) == [3]", "not f(1)", "f(1) and f(2) or f(3)", "f(1) == (-2 + 2j)"),
        *("f(1) == [-1, +2, (3,), {4}, {'a': {5: b'6'}}, 'b', None, ...]", "f(1) == set([1, 1])", "f(1) == ()"),
        *("math.isclose(f(1), 0.5, rel_tol=0.1)", "f(1) == sys.getsizeof((1, 2))", "sorted(f(1), reverse=True) == [1]"),
        *("f(1)[0] == 2", "f(1) == {1: 2}[1]", "f(1) == 2 * [1]", "f(1) == 7 * 2 ** 3", "f(1) == '1' * 1"),
        *("f(1) == set", "f(1) < math.pi < math.inf", "f(1) == sys.maxsize or f(2) == 2 * math.e"),
        *("round(f(1), 2) == 1.25", "str(f(1)) == '1'", "len(f(1)) == 2", "f(1) == f(2)", "dict(f(1)) == {1: 2}"),
    ],
)
def test_an_assert_has_the_value_that_python_gives_it(test):
    statement = asserts.read(f"assert {test}", "f")

    def outcome(evaluate, value):
        try:
            return bool(evaluate(value))
        except (TypeError, ValueError, LookupError, AssertionError) as error:
            return type(error) is not AssertionError and type(error)

    def ours(value):
        class Candidate:
            def evaluate(self, _, wrappers):
                for name in wrappers:
                    value_ = vars(builtins)[name](value)
                    return value_
                return value

        asserts.run(statement, Candidate())
        return True

    for value in (0, 1, 0.5, 1.25, True, None, "1", b"1", [], [1], [2, 3], (2, 3), {1}, {1: 2}, [(1, 2)], -2 + 2j, 56):
        namespace = {"f": lambda _, value=value: value, "math": math, "sys": sys}
        assert outcome(ours, value) == outcome(lambda _, n=namespace: eval(test, n), value), value


@pytest.mark.parametrize("test", ["2 ** 10 ** 10 == f(1)", "[0] * 10 ** 10 == f(1)", "10 ** 10 * 'ab' == f(1)"])
def test_an_assert_is_not_huge(test):
    with pytest.raises(ValueError, match="in a test"):
        asserts.run(asserts.read(f"assert {test}", "f"), None)
