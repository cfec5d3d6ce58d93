"""What runs inside the sandbox: values come back as Python's `==` has them, and a program is a module."""

import enum
import json
from collections import Counter, OrderedDict, UserString, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction

import pytest

from t3d.sandbox import worker
from t3d.sandbox.sandbox import check_cases
from tests.sandboxed import bubblewrap


def again(value):
    return worker.decode(json.loads(json.dumps(worker.encode(value))))


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            True,
            3,
            2.5,
            "a",
            [1, [2]],
            (1, "b"),
            {1, 2},
            {"a": [1], 2: (3,)},
            frozenset({1}),
            float("inf"),
            1 - 2j,
        ),
        *(10**4000, -(10**6000), [10**6000], {10**5000: 1}, "\ud800", b"\x00\xff", range(3), range(9, 0, -2)),
        *(Fraction(1, 3), Fraction(10**5000, 7), Decimal("0.10"), Decimal("-Infinity"), deque([1]), {(1, 2): {3}}),
        list(range(10**5)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_data_come_back_as_they_are(value):
    assert again(value) == value
    assert type(again(value)) is type(value)


class Text(str):
    __slots__ = ()


class Whole(int):
    def __int__(self):
        return 99

    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


class Colour(enum.IntEnum):
    RED = 1


class Word(enum.StrEnum):
    YES = "yes"

    def __str__(self):
        return "no"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Counter("aab"), {"a": 2, "b": 1}),
        (defaultdict(int, {1: 2}), {1: 2}),
        (OrderedDict(a=1), {"a": 1}),
        (namedtuple("point", "x y")(1, 2), (1, 2)),
        (Text("a"), "a"),
        (Whole(3), 3),
        (type("Real", (float,), {})(0.5), 0.5),
        (Colour.RED, 1),
        ([Colour.RED], [1]),
        (Word.YES, "yes"),
        (bytearray(b"a"), b"a"),
        (type("Third", (Fraction,), {})(1, 3), Fraction(1, 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_relatives_of_plain_data_come_back_as_what_they_are_equal_to(value, plain):
    assert again(value) == plain
    assert type(again(value)) is type(plain)


def test_numbers_are_equal_as_python_has_it():
    assert again(Fraction(1, 2)) == again(Decimal("0.5")) == again(0.5)
    assert again(Decimal("0.1")) != 0.1
    assert again({1: 2}.keys()) == {1}
    assert again(OrderedDict({1: 2}).items()) == {(1, 2)}
    assert again(range(0)) != []
    assert again(deque([1])) != [1]
    assert again(b"a") != "a"


@pytest.mark.parametrize(
    "value",
    [
        *(object(), [object()], iter([1]), map(abs, [1]), {1: 2}.values(), int, UserString("a"), ..., NotImplemented),
        *(len, enum.Enum("Plain", "A").A, memoryview(b"a")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_no_plain_data(value):
    with pytest.raises(TypeError, match="is not plain data"):
        worker.encode(value)


@pytest.mark.parametrize(
    "content",
    [
        {"int": "f" * 200_000},
        {"int": 5},
        {"range": [0, 10**18, 1]},
        {"range": [0, {"int": "0x1" + "0" * 5000}, 1]},
        {"Decimal": "1E+999999"},
        {"Decimal": "no"},
        {"Fraction": [1, 0]},
        {"set": [n * (2**61 - 1) for n in range(1000)]},
        {"keys": [[n * (2**61 - 1), None] for n in range(1000)]},
        {"set": [{"list": []}]},
        {"bytes": "zz"},
        {"object": []},
        {"list": 3},
        {},
    ],
    ids=str,
)
def test_what_no_honest_program_returns_is_refused_at_once(content):
    with pytest.raises((ValueError, TypeError, LookupError, ArithmeticError)):
        worker.decode(content)


PREFIX = (
    "from __future__ import annotations\nfrom dataclasses import *\nimport copy, enum, inspect, pickle, sys, typing\n"
)
MODULES = {
    "a dataclass": "@dataclass\nclass A:\n    x: int\ndef f(x): return A(x).x",
    "a quoted annotation": "@dataclass\nclass A:\n    x: 'int'\ndef f(x): return A(x).x",
    "a class variable": "@dataclass\nclass A:\n    n: typing.ClassVar = 0\n    x: int = 0\ndef f(x): return A(x).x",
    "a slot": "@dataclass(slots=True, order=True)\nclass A:\n    x: int\ndef f(x): return A(x).x",
    "a node": "@dataclass\nclass A:\n    x: int\n    next: A | None = None\ndef f(x): return A(1, A(x)).next.x",
    "pickle": "class A: pass\ndef f(x):\n    a = A()\n    a.x = x\n    return pickle.loads(pickle.dumps(a)).x",
    "pickle of a function": "def f(x): return x if pickle.loads(pickle.dumps(f)) is f else None",
    "pickle of a tuple": "A = typing.NamedTuple('A', x=int)\ndef f(x): return pickle.loads(pickle.dumps(A(x))).x",
    "pickle of an Enum": "class A(enum.Enum):\n    B = 3\ndef f(x): return pickle.loads(pickle.dumps(A.B)).value",
    "a copy": "class A: pass\ndef f(x):\n    a = A()\n    a.x = [x]\n    return copy.deepcopy(a).x[0]",
    "type hints": "class A:\n    b: B\nclass B: pass\ndef f(x): return x if typing.get_type_hints(A)['b'] is B else 0",
    "type hints of a function": "def f(x: A): return x if typing.get_type_hints(f)['x'] is A else 0\nclass A: pass",
    "its own module": "N = 3\ndef f(x): return sys.modules[__name__].N",
    "a function by its name": "def g(x): return x\ndef f(x): return getattr(sys.modules[__name__], 'g')(x)",
    "its globals": "N = 2\ndef f(x):\n    globals()['N'] += 1\n    return N",
    "a dispatch by type": (
        "from functools import singledispatch\n@singledispatch\ndef g(x): return 0\n"
        "@g.register\ndef _(x: int): return x\ndef f(x): return g(x)"
    ),
    "a protocol": "class P(typing.Protocol): x: int\nclass A(typing.NamedTuple):\n    x: int\ndef f(x): return A(x).x",
    "where a function is": "def f(x): return x if inspect.getmodule(f).f is f else 0",
    "a main part, which does not run": "def f(x): return x\nif __name__ == '__main__':\n    f = None",
}
"""What is special -> a program with the function f(x) = x, called with 3, after `PREFIX`."""


@bubblewrap
@pytest.mark.parametrize("source", MODULES.values(), ids=MODULES)
def test_a_program_is_a_module(source, box):
    verdict = box.judge(PREFIX + source, "f", check_cases([(3, 3)]))
    assert (verdict.passed, verdict.reason) == (True, "passed")
