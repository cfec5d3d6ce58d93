"""Assert statements: the sandbox evaluates calls and the builtins around them, and says whether a bare call is true."""

import builtins
import math
import sys

import pytest

from t3d.errors import DataError
from t3d.evaluation import asserts
from t3d.sandbox.sandbox import Limits
from tests.sandboxed import bubblewrap

LIMITS = Limits(seconds=2.0)


HOLDS = {
    # Truth.
    "a match": ("import re\ndef f(x): return re.match('b', x)", ["assert f('bat')", "assert not f('cat')"]),
    "an object": ("def f(x): return object()", ["assert f(1)", "assert bool(f(1))", "assert f(1) and not not f(2)"]),
    "a long list": ("def f(x): return [0] * 10**7", ["assert f(1)", "assert len(f(1)) == 10**7"]),
    "a class's truth": (
        "class A:\n    def __init__(self, x): self.x = x\n"
        "    def __bool__(self): return self.x > 1\ndef f(x): return A(x)",
        ["assert f(2)", "assert not f(1)", "assert f(1) or f(2)", "assert bool(f(1)) == False"],
    ),
    # Builtins around a call.
    "a generator": (
        "def f(x): return (y for y in x)",
        [
            *("assert set(f([1, 1])) == {1}", "assert list(f([2, 1])) == [2, 1]", "assert tuple(f([1])) == (1,)"),
            *("assert sorted(f([2, 1])) == [1, 2]", "assert sum(f([1, 2])) == 3", "assert len(list(f([1, 2]))) == 2"),
            *("assert max(f([1, 2])) == 2", "assert any(f([0, 1]))", "assert not all(f([0, 1]))"),
        ],
    ),
    "a map": ("def f(x): return map(abs, x)", ["assert list(f([-1])) == [1]"]),
    "a filter": ("def f(x): return filter(None, x)", ["assert tuple(f([0, 1])) == (1,)"]),
    "pairs": ("def f(x): return zip(x, x)", ["assert list(f('ab')) == [('a', 'a'), ('b', 'b')]"]),
    "an iterator": ("def f(x): return reversed(x)", ["assert list(f([1, 2])) == [2, 1]"]),
    "a deque": ("from collections import deque\ndef f(x): return deque(x)", ["assert list(f([1, 2])) == [1, 2]"]),
    "views": (
        "def f(x): return dict(x).keys()",
        ["assert sorted(f({'a': 1})) == ['a']", "assert f({1: 2}) == {1}", "assert len(f({})) == 0"],
    ),
    "values of a dict": (
        "def f(x): return x.values()",
        ["assert list(f({1: 2})) == [2]", "assert sum(f({1: 2})) == 2"],
    ),
    "a class with items": (
        "class A:\n    def __getitem__(self, i): return [3, 1][i]\ndef f(): return A()",
        ["assert sorted(f()) == [1, 3]"],
    ),
    "a class with a size": (
        "class A:\n    def __len__(self): return 3\ndef f(): return A()",
        ["assert len(f()) == 3"],
    ),
    "a date": ("import datetime\ndef f(): return datetime.date(2020, 1, 2)", ["assert str(f()) == '2020-01-02'"]),
    "a rounded Decimal": (
        "from decimal import Decimal\ndef f(): return Decimal('-2.5')",
        ["assert int(f()) == -2", "assert abs(f()) == 2.5", "assert round(f()) == -2", "assert float(f()) == -2.5"],
    ),
    "builtins whose names the program uses": (
        "set = sorted = list = bool = None\ndef f(x): return (y for y in x)",
        ["assert set(f([1])) == {1}", "assert sorted(f([2, 1])) == [1, 2]", "assert list(f([])) == []", "assert f([])"],
    ),
    "a builtin's name": ("def sum(x): return iter(x)", ["assert list(sum([1])) == [1]"]),
    "arguments beside the call": (
        "def f(x): return x",
        ["assert round(f(2.345), 2) == 2.35 or True", "assert sorted(f([1, 2]), reverse=True) == [2, 1]"],
    ),
}
"""What a function returns -> the program, asserts that hold under Python."""

FAILS = {
    "a generator is no list": (
        "def f(x): return (y for y in x)",
        "assert f([1]) == [1]",
        "generator is not plain data",
    ),
    "a map is no list": ("def f(x): return map(abs, x)", "assert f([1]) == [1]", "map is not plain data"),
    "a deque is no list": (
        "from collections import deque\ndef f(x): return deque(x)",
        "assert f([1]) == [1]",
        "wrong: deque([1]) where",
    ),
    "a range is no list": ("def f(x): return range(x)", "assert f(2) == [0, 1]", "wrong: range(0, 2) where"),
    "values of dicts are never equal": ("def f(x): return x.values()", "assert f({1: 2}) == [2]", "is not plain data"),
    "another set": ("def f(x): return iter(x)", "assert set(f([1, 2])) == {1}", "wrong: {1, 2} where set(f([1, 2]))"),
    "a truth that does not hold": ("def f(x): return []", "assert f(1)", "wrong: False where f(1)"),
    "a truth that does": ("def f(x): return object()", "assert not f(1)", "wrong: True where not f(1)"),
    "an object for True": ("def f(x): return object()", "assert f(1) == True", "object is not plain data"),
    "one for truth itself": ("def f(x): return 1", "assert f(1) is True", "wrong: 1 where f(1) is True"),
    "objects in a list": (
        "def f(x): return (object() for _ in x)",
        "assert list(f([1])) == [1]",
        "object is not plain",
    ),
    "a length that lies": (
        "class A(list):\n    def __eq__(self, other): return True\ndef f(): return A([1])",
        "assert f() == [2]",
        "wrong: [1] where f() == [2]",
    ),
    "an endless generator": (
        "import itertools\ndef f(): return itertools.count()",
        "assert list(f()) == [0]",
        "MemoryError",
    ),
    "no length": (
        "def f(): return iter([])",
        "assert len(f()) == 0",
        "TypeError: object of type 'list_iterator'",
    ),
}
"""What is special -> the program, an assert that fails, what the reason says."""


def judge(box, program, tests):
    statements = [asserts.read(test, "sum" if "def sum" in program else "f") for test in tests]

    def check(candidate):
        for statement in statements:
            asserts.run(statement, candidate)

    return box.judge(program, "f", check, LIMITS)


@bubblewrap
@pytest.mark.parametrize(("program", "tests"), HOLDS.values(), ids=HOLDS)
def test_what_holds_under_python_holds(box, program, tests):
    verdict = judge(box, program, tests)
    assert (verdict.passed, verdict.reason) == (True, "passed")


@bubblewrap
@pytest.mark.parametrize(("program", "test", "reason"), FAILS.values(), ids=FAILS)
def test_what_does_not_hold_fails(box, program, test, reason):
    verdict = judge(box, program, [test])
    assert not verdict.passed
    assert reason in verdict.reason


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
