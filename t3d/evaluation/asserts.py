"""Assert statements about a program in the sandbox: its calls are evaluated there, everything else here.

`assert len(f(Pair(1, 2))) == 3` asks the sandbox for `len(f(Pair(1, 2)))` and nothing more: arguments may be objects of
the program's own classes, a builtin around a call may be given any value, what comes back is plain data, and what is
expected is never shown to the program. `assert f(1)` and `assert not f(1)` ask for `bool(f(1))`.

Python executes no test on this side: comparisons, displays, arithmetic and a few names are evaluated by this module.
"""

import ast
import math
import operator
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from t3d.errors import DataError
from t3d.sandbox.sandbox import Program, shown
from t3d.sandbox.worker import WRAPPERS

_CALL = "_call"
_LARGEST = 10**6
"""Bits of a power, items of a product."""


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > _LARGEST:
        raise ValueError(f"a power of {base.bit_length() * exponent} bits in a test")
    return base**exponent


def _product(left: Any, right: Any) -> Any:
    for count, items in ((left, right), (right, left)):
        if isinstance(count, int) and isinstance(items, Sequence) and count * len(items) > _LARGEST:
            raise ValueError(f"a product of {count * len(items)} items in a test")
    return left * right


_NAMES: dict[str, Any] = {
    **WRAPPERS,
    **{f"math.{name}": getattr(math, name) for name in ("isclose", "inf", "nan", "pi", "e")},
    **{f"sys.{name}": getattr(sys, name) for name in ("getsizeof", "maxsize")},
}
"""What a test may name apart from the program; in the two editions of MBPP only `set` and two functions are named."""
_OPERATORS: dict[type, Callable[..., Any]] = {
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Is: operator.is_, ast.IsNot: operator.is_not},
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b},
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Div: operator.truediv, ast.Mult: _product, ast.Pow: _power},
    **{ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_},
}
_DISPLAYS: dict[type, Callable[[list[Any]], Any]] = {ast.List: list, ast.Tuple: tuple, ast.Set: set}
_NODES = (
    *(ast.Constant, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.Call, ast.keyword, ast.Subscript, ast.Dict),
    *(*_DISPLAYS, ast.Load, ast.And, ast.Or, *_OPERATORS),
)


@dataclass(frozen=True)
class Assert:
    """One assert statement, as an expression without its calls of the program's function."""

    source: str
    calls: tuple[tuple[str, tuple[str, ...]], ...]
    """Source of each outermost call of the function, and the builtins around it."""
    test: ast.expr
    """The expression, with `_call(number)` where the calls were."""
    modules: frozenset[str]
    """Modules of the standard library that it names, within or outside the calls."""


def read(source: str, function: str) -> Assert:
    """Take a test apart.

    Args:
        source: one assert statement, trusted; a message in it is ignored.
        function: name of the function it calls.

    Raises:
        DataError: it is something else, or has something outside the calls that is not evaluated here.
    """
    try:
        (statement,) = ast.parse(source.strip()).body
        text = ast.unparse(getattr(statement, "test", statement))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"a test is one assert statement, not {source[:200]!r}.") from error
    if not isinstance(statement, ast.Assert):
        raise DataError(f"a test is one assert statement, not {source[:200]!r}.")
    modules = _names(statement.test) & sys.stdlib_module_names - {function}
    calls: list[tuple[str, tuple[str, ...]]] = []

    def take_out(call: ast.Call, wrappers: tuple[str, ...]) -> ast.expr:
        calls.append((ast.unparse(call), wrappers))
        return ast.Call(ast.Name(_CALL, ast.Load()), [ast.Constant(len(calls) - 1)], [])

    statement.msg = None
    test = _Calls({function}, take_out).visit(statement).test
    if not calls or not _is_evaluated(test):
        raise DataError(f"a test compares what {function} returns with plain data, unlike {source[:200]!r}.")
    return Assert(text, tuple(calls), test, frozenset(modules))


def run(test: Assert, candidate: Program) -> None:
    """Evaluate a test.

    Raises:
        AssertionError: it does not hold; the message has the values that were returned.
        ProgramFailed: a call returned no value.
    """
    values = []

    def call(number: int) -> Any:
        values.append(candidate.evaluate(*test.calls[number]))
        return values[-1]

    if not _value(test.test, _NAMES | {_CALL: call}):
        raise AssertionError(f"{', '.join(map(shown, values))} where {test.source}")


def _is_evaluated(test: ast.expr) -> bool:
    """Whether `_value` knows what an expression means."""
    nodes = list(ast.walk(test))
    names = [n for n in nodes if isinstance(n, ast.Name | ast.Attribute) and ast.unparse(n) in {*_NAMES, _CALL}]
    known = [part for name in names for part in ast.walk(name)]
    return (
        all(isinstance(node, _NODES) or node in known for node in nodes)
        and all(node.func in names for node in nodes if isinstance(node, ast.Call))
        # `**` before a dict has no name.
        and all(node.arg for node in nodes if isinstance(node, ast.keyword))
        and not any(None in node.keys for node in nodes if isinstance(node, ast.Dict))
    )


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    """The value of an expression that `_is_evaluated`, as Python has it."""

    def value(part: ast.expr) -> Any:
        return _value(part, names)

    match node:
        case ast.Constant(constant):
            return constant
        case ast.Name() | ast.Attribute():
            return names[ast.unparse(node)]
        case ast.List(items) | ast.Tuple(items) | ast.Set(items):
            return _DISPLAYS[type(node)]([value(item) for item in items])
        case ast.Dict(keys, items):
            return {value(key): value(item) for key, item in zip(keys, items, strict=True) if key}
        case ast.UnaryOp(sign, operand):
            return _OPERATORS[type(sign)](value(operand))
        case ast.BinOp(left, sum_, right):
            return _OPERATORS[type(sum_)](value(left), value(right))
        case ast.BoolOp(conjunction, items):
            for item in items:
                result = value(item)
                if bool(result) == isinstance(conjunction, ast.Or):
                    break
            return result
        case ast.Compare(left, operations, items):
            first = value(left)
            for comparison, item in zip(operations, items, strict=True):
                second = value(item)
                if not _OPERATORS[type(comparison)](first, second):
                    return False
                first = second
            return True
        case ast.Subscript(container, index):
            return value(container)[value(index)]
        case ast.Call(function, items, keywords):
            named = {keyword.arg: value(keyword.value) for keyword in keywords if keyword.arg}
            return value(function)(*map(value, items), **named)
    raise TypeError(f"{type(node).__name__} in a test")


def with_wrapped_calls(tree: ast.Module, functions: Collection[str]) -> ast.Module:
    """A test whose calls of a `Program` inside builtins are `program.call_within(builtins, ..)`.

    Args:
        tree: the test, trusted; it is changed.
        functions: names by which it calls the program.
    """

    def call_within(call: ast.Call, wrappers: tuple[str, ...]) -> ast.expr:
        if not wrappers:
            return call
        names = ast.Tuple([ast.Constant(name) for name in wrappers], ast.Load())
        return ast.Call(ast.Attribute(call.func, "call_within", ast.Load()), [names, *call.args], call.keywords)

    return ast.fix_missing_locations(_Calls(functions, call_within).visit(tree))


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


class _Calls(ast.NodeTransformer):
    """Replaces the outermost calls of functions, together with the builtins that have such a call as only argument.

    Args:
        functions: their names.
        replace: makes an expression of a call and of the names of the builtins around it, the innermost first.
    """

    def __init__(self, functions: Collection[str], replace: Callable[[ast.Call, tuple[str, ...]], ast.expr]) -> None:
        self.functions, self.replace = functions, replace

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return self._replaced(node, ()) or self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.test = self._truth(node.test)
        return node

    def _truth(self, node: ast.expr) -> ast.expr:
        """An expression of which only the truth matters."""
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            node.operand = self._truth(node.operand)
        elif isinstance(node, ast.BoolOp):
            node.values = [self._truth(value) for value in node.values]
        elif (replaced := self._replaced(node, ("bool",))) is not None:
            return replaced
        else:
            self.generic_visit(node)
        return node

    def _replaced(self, node: ast.expr, wrappers: tuple[str, ...]) -> ast.expr | None:
        match node:
            case ast.Call(ast.Name(name)) if name in self.functions:
                return self.replace(node, wrappers)
            case ast.Call(ast.Name(name), [argument], []) if name in WRAPPERS:
                return self._replaced(argument, (name, *wrappers))
        return None
