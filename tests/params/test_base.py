"""Budgets: one spelling each, and what is none."""

import pytest
from pydantic import TypeAdapter, ValidationError

from t3d.params import Budget
from t3d.params.base import Caption, Label


@pytest.mark.parametrize("text", ["b4s1", "b8s8", "b4t0.9", "b16t0.05", "b8t0.0001", "b8t0.9999"])
def test_budgets_are_written_as_they_are_read(text):
    assert str(Budget.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["b4", "s4b4", "b4s0", "b4s5", "b0s0", "b4t1.5", "b4t0", "", "b8t.5", "b8t0.50", "b8s02", "b8t0.00001", "b8t1.0"],
)
def test_bad_budgets(text):
    with pytest.raises(ValueError, match=rf"budget '{text}'"):
        Budget.parse(text)


@pytest.mark.parametrize("shown", [lambda t: f"b8t{t:g}", lambda t: f"b8t{t:.4f}", lambda t: f"b8t{t!r}"])
def test_a_budget_has_one_spelling(shown):
    """Of a thousand thresholds, what is read is written again; whatever else is written is refused."""
    for number in range(1, 10_000, 10):
        text = shown(number / 10_000)
        try:
            assert str(Budget.parse(text)) == text
        except ValueError as error:
            assert f"is written b8t{number / 10_000:g}" in str(error)  # noqa: PT017


def test_tokens_per_step():
    assert Budget.parse("b8s2").tokens_per_step == 4
    assert Budget.parse("b8t0.9").tokens_per_step is None


@pytest.mark.parametrize("text", ["T3D", "GSM_100%", "Naive TD + L_path", "4B (ours), k=2 | a*b <c>", "Éà 中"])
def test_texts_of_tables_are_written_as_they_are(text):
    assert TypeAdapter(Label).validate_python(text) == text
    assert TypeAdapter(Caption).validate_python(text) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((sign + "A1", "does not begin with a letter or a digit") for sign in "=+-@#>*'\"|! ~<`_\\(."),
        *((f"a{character}b", "is not printed") for character in "\n\r\t\0\x0b\x1b\x85\u2028\u202e\u200b\ufeff"),
        *((text, "formula or a link") for text in ("a $x$", "a [b](c)", "a![b](c)", "a https://b", "www.a.b")),
        ("", "does not begin with"),
        ("a" * 501, "at most"),
    ],
)
def test_texts_that_a_table_would_not_show_as_they_are_are_refused(text, reason):
    for kind in (Label, Caption):
        with pytest.raises(ValidationError, match=reason):
            TypeAdapter(kind).validate_python(text)
