"""Assert statements about a program in the sandbox: its calls are evaluated there, everything else here.

`assert len(f(Pair(1, 2))) == 3` asks the sandbox for `len(f(Pair(1, 2)))` and nothing more: arguments may be objects of
the program's own classes, a builtin around a call may be given any value, what comes back is plain data, and what is
expected is never shown to the program. `assert f(1)` and `assert not f(1)` ask for `bool(f(1))`.
"""

import ast
import builtins
import importlib
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import CodeType
from typing import Any

from t3d.errors import DataError
from t3d.sandbox.sandbox import Program, shown
from t3d.sandbox.worker import WRAPPERS

_CALL = "_call"


@dataclass(frozen=True)
class Assert:
    """One assert statement, as an expression without its calls of the program's function."""

    source: str
    calls: tuple[tuple[str, tuple[str, ...]], ...]
    """Source of each outermost call of the function, and the builtins around it."""
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
    calls: list[tuple[str, tuple[str, ...]]] = []

    def take_out(call: ast.Call, wrappers: tuple[str, ...]) -> ast.expr:
        calls.append((ast.unparse(call), wrappers))
        return ast.Call(ast.Name(_CALL, ast.Load()), [ast.Constant(len(calls) - 1)], [])

    statement.msg = None
    test = _Calls({function}, take_out).visit(statement).test
    if not calls or _names(test) - modules - vars(builtins).keys() - {_CALL}:
        raise DataError(f"a test compares what {function} returns with plain data, unlike {source!r}.")
    expression = ast.fix_missing_locations(ast.Expression(test))
    return Assert(text, tuple(calls), compile(expression, "<test>", "eval"), frozenset(modules))


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

    namespace: dict[str, Any] = {name: importlib.import_module(name) for name in test.modules}
    if not eval(test.code, namespace | {_CALL: call}):
        raise AssertionError(f"{', '.join(map(shown, values))} where {test.source}")


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
