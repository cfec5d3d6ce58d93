"""Assert statements about a program in the sandbox: its calls are evaluated there, everything else here.

`assert set(f(Pair(1, 2))) == {3}` asks the sandbox for `f(Pair(1, 2))` and nothing more: arguments may be objects of
the program's own classes, what comes back is plain data, and what is expected is never shown to the program.
"""

import ast
import builtins
import importlib
import sys
from dataclasses import dataclass
from types import CodeType
from typing import Any

from t3d.errors import DataError
from t3d.evaluation.sandbox import Program

_CALL = "_call"


@dataclass(frozen=True)
class Assert:
    """One assert statement, as an expression without its calls of the program's function."""

    source: str
    calls: tuple[str, ...]
    """Source of each outermost call of the function."""
    code: CodeType
    """The expression, with `_call(number)` where the calls were."""
    modules: frozenset[str]
    """Modules of the standard library that it names, within or outside the calls."""


def read(source: str, function: str) -> Assert:
    """Take a test apart.

    Args:
        source: one assert statement, trusted; a message in it is ignored.
        function: name of the function it calls.

    Raises:
        DataError: it is something else, or names what only the program can know outside the calls.
    """
    try:
        (statement,) = ast.parse(source.strip()).body
    except (SyntaxError, ValueError) as error:
        raise DataError(f"a test is one assert statement, not {source!r}.") from error
    if not isinstance(statement, ast.Assert):
        raise DataError(f"a test is one assert statement, not {source!r}.")
    text = ast.unparse(statement.test)
    modules = _names(statement.test) & sys.stdlib_module_names - {function}
    taken = _TakeOutCalls(function)
    test = ast.fix_missing_locations(ast.Expression(taken.visit(statement.test)))
    if not taken.calls or _names(test) - modules - vars(builtins).keys() - {_CALL}:
        raise DataError(f"a test compares what {function} returns with plain data, unlike {source!r}.")
    return Assert(text, tuple(taken.calls), compile(test, "<test>", "eval"), frozenset(modules))


def run(test: Assert, candidate: Program) -> None:
    """Evaluate a test.

    Raises:
        AssertionError: it does not hold; the message has the values that were returned.
        ProgramFailed: a call returned no value.
    """
    values = []

    def call(number: int) -> Any:
        values.append(candidate.evaluate(test.calls[number]))
        return values[-1]

    namespace: dict[str, Any] = {name: importlib.import_module(name) for name in test.modules}
    if not eval(test.code, namespace | {_CALL: call}):
        raise AssertionError(f"{', '.join(map(repr, values))} where {test.source}")


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


class _TakeOutCalls(ast.NodeTransformer):
    """Replaces the outermost calls of a function and keeps their source."""

    def __init__(self, function: str) -> None:
        self.function = function
        self.calls: list[str] = []

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if not (isinstance(node.func, ast.Name) and node.func.id == self.function):
            return self.generic_visit(node)
        self.calls.append(ast.unparse(node))
        return ast.Call(ast.Name(_CALL, ast.Load()), [ast.Constant(len(self.calls) - 1)], [])
