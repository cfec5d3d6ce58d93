"""Unit tests that are written as assert statements, such as MBPP's: which function do they call?"""

import ast
import builtins
from collections.abc import Sequence

from t3d.errors import DataError


def entry_point_of(code: str, tests: Sequence[str]) -> str:
    """Name of the function of `code` that every test calls.

    Args:
        code: the reference solution; it may define helpers, and tests may call builtins around the function.
        tests: assert statements.

    Raises:
        DataError: there is no such function, or the solution is no Python.
    """
    try:
        defined = {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}
        called = [_called(test) for test in tests]
    except SyntaxError as error:
        raise DataError(f"the solution or a test is no Python ({error}): {code[:60]!r}") from error
    # A helper can be called in an argument: the outermost call comes first.
    for name in called[0] if called else []:
        if name in defined and all(name in names for names in called):
            return name
    raise DataError(f"the tests call none of {', '.join(sorted(defined)) or 'no functions'}: {list(tests)[:1]}")


def first_called(test: str) -> str | None:
    """Name of the outermost function that an assert statement calls, builtins left out; None if there is none."""
    try:
        called = _called(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return next((name for name in called if not hasattr(builtins, name)), None)


def _called(test: str) -> list[str]:
    """Names of called functions, from the outside in."""
    calls = (node for node in ast.walk(ast.parse(test.strip())) if isinstance(node, ast.Call))
    return [call.func.id for call in calls if isinstance(call.func, ast.Name)]
