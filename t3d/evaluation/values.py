r"""What one expression is worth, and whether two are worth the same.

latex2sympy, the parser of math-verify, reads an expression; sympy compares. Two exact values are equal or not. A
decimal stands for a number to six significant digits: 0.333333 is 1/3, and 0.333 is not.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

DIGITS = 6
"""Significant digits to which decimals are compared."""
UNDECIDED = (TypeError, ValueError, AttributeError, NotImplementedError, ArithmeticError, RecursionError)
"""What sympy raises where it cannot compare."""
# Where two exact values agree to so many digits, algebra decides; where it cannot, the second number does.
_FIRST, _SECOND = 60, 400
# A number and its base, 312_5 or (312)_{5}; digits beyond 9 are upper case, since 2a_5 is a product.
_DIGITS = r"\d[\dA-F]*|[A-F]+\d[\dA-F]*"
_BASED = re.compile(rf"(?<![A-Za-z\d.,_^\\}}])(?:\( *({_DIGITS}) *\)|({_DIGITS})) *_ *(?:(\d+)|\{{[( ]*(\d+)[) ]*\}})")


# Two numbers side by side; latex2sympy takes them for a mixed number and adds them.
_SIDE_BY_SIDE = re.compile(r"(?:^|[-+*/(=]) *\d[\d.]* +\d")


@dataclass(frozen=True)
class Value:
    """What an expression is: an object of sympy's without floating-point numbers, and whether it had decimals."""

    exact: Any
    decimal: bool


@lru_cache(maxsize=1024)
def read(text: str) -> Value | None:
    """The value of an expression in cleaned LaTeX; None if it cannot be read."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
    from math_verify.grader import should_treat_as_complex
    from sympy import Float, Rational

    if _SIDE_BY_SIDE.search(text):
        return None
    # Units and boxes are gone and all braces are there. By default, letters would lose their case.
    spelling = NormalizationConfig(units=False, malformed_operators=False, nits=True, boxed="none")
    try:
        latex = normalize_latex(_BASED.sub(_based, text), spelling)
        value = latex2sympy(
            latex,
            is_real=not should_treat_as_complex(latex),
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
        decimals = value.atoms(Float)
        return Value(value.xreplace({number: Rational(str(number)) for number in decimals}), bool(decimals))
    except Exception:  # the parser raises Exception itself, and sympy whatever it meets
        return None


def _based(match: re.Match) -> str:
    """A number in a base as one symbol: it is equal to the same digits in the same base alone."""
    digits, base = match.group(1) or match.group(2), match.group(3) or match.group(4)
    if not digits.isdigit():
        try:
            int(digits, int(base))
        except ValueError:
            return match.group()
    return rf"\text{{base{base}digits{digits.lstrip('0') or '0'}}}"


def same(one: Value, other: Value) -> bool:
    """Whether two expressions have one value."""
    from sympy import MatrixBase

    try:
        if isinstance(one.exact, MatrixBase) or isinstance(other.exact, MatrixBase):
            return _same_matrices(one, other)
        return _equal(one.exact, other.exact) or ((one.decimal or other.decimal) and _close(one, other))
    except UNDECIDED:
        return False


def ratio_of_differences(sides: list[Value]) -> Any:
    """(a - b) / (c - d) of four expressions, if that is a number other than 0; else None."""
    from sympy import simplify

    a, b, c, d = (side.exact for side in sides)
    try:
        ratio = simplify((a - b).expand() / (c - d).expand())
    except UNDECIDED:
        return None
    return ratio if ratio.is_number and ratio.is_finite and ratio.is_real and not ratio.is_zero else None


def _same_matrices(one: Value, other: Value) -> bool:
    from sympy import MatrixBase

    # A sum or a product of matrices is one only after it is computed.
    first, second = one.exact.doit(), other.exact.doit()
    if not isinstance(first, MatrixBase) or not isinstance(second, MatrixBase) or first.shape != second.shape:
        return False
    pairs = zip(first.flat(), second.flat(), strict=True)
    return all(same(Value(a, one.decimal), Value(b, other.decimal)) for a, b in pairs)


def _equal(one: Any, other: Any) -> bool:
    """Whether two exact expressions are equal."""
    from sympy import Expr, nan, simplify, zoo

    if one == other:
        return one not in (nan, zoo)
    if not isinstance(one, Expr) or not isinstance(other, Expr):
        return False
    # Numbers that differ are told apart by their digits, which takes less than algebra, and less memory than 2^(10^9).
    if _agree(one, other, _FIRST) is False:
        return False
    one, other = one.doit(), other.doit()
    if one == other:
        return one not in (nan, zoo)
    if one.is_Rational and other.is_Rational:
        return False
    difference = simplify((one - other).expand())
    if difference.is_zero is not None or difference.free_symbols:
        return bool(difference.is_zero)
    return _agree(one, other, _SECOND) is True


def _agree(one: Any, other: Any, digits: int) -> bool | None:
    """Whether two numbers agree in all but ten of so many digits; None if these cannot be computed."""
    first, second = _number(one, digits), _number(other, digits)
    if first is None or second is None:
        return None
    return bool(abs(first - second) <= max(abs(first), abs(second)) / 10 ** (digits - 10))


def _number(expression: Any, digits: int) -> Any:
    """An expression's value with so many correct digits; None if it is no finite number, or they cannot be had."""
    if not getattr(expression, "is_number", False):
        return None
    try:
        value = expression.evalf(digits, maxn=2 * digits, strict=True)
    except Exception:  # PrecisionExhausted, and what functions raise outside of their domain
        return None
    return value if all(part.is_Float or part.is_Rational for part in value.as_real_imag()) else None


def _close(one: Value, other: Value) -> bool:
    """Whether expressions with decimals are equal when these stand for `DIGITS` significant digits.

    An integer is exact: 70 is not 70.0000001. Beside variables each coefficient is compared.
    """
    first, second = one.exact.doit().expand(), other.exact.doit().expand()
    terms, others = first.as_coefficients_dict(), second.as_coefficients_dict()
    if not first.is_number or not second.is_number:
        return terms.keys() == others.keys() and all(
            _close_numbers(terms[key], others[key], one.decimal, other.decimal) for key in terms
        )
    return _close_numbers(first, second, one.decimal, other.decimal)


def _close_numbers(one: Any, other: Any, one_decimal: bool, other_decimal: bool) -> bool:
    from sympy import Rational, floor, log

    if one == other:
        return True
    if (one.is_Integer and not one_decimal) or (other.is_Integer and not other_decimal):
        return False
    first, second = _number(one, _FIRST), _number(other, _FIRST)
    if first is None or second is None:
        return False
    largest = max(abs(first), abs(second))
    # Half a unit of the last digit that counts.
    unit = Rational(10) ** (floor(log(largest, 10)) + 1 - DIGITS)
    return bool(abs(first - second) <= unit / 2)
