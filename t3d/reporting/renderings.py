"""Accuracy tables as a reader sees them, in the layout of the paper's Table 1.

Rows are tokens per step x method, columns block size x benchmark, then the average and its relative change. Both
functions draw the tidy table of `tables.py`, and nothing else: no number is computed here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from t3d.params import AccuracyTable, Budget, Experiment

AVERAGE = "average"
"""The `benchmark` of a tidy table's rows of averages."""
_SIGNIFICANT = 0.05
_DAGGER, _DASH, _MINUS = "†", "–", "\N{MINUS SIGN}"


@dataclass(frozen=True)
class _Markup:
    """How a format writes text."""

    escape: Callable[[str], str]
    bold: Callable[[str], str]


def _escape_latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: "\\" + character for character in "&%$#_{}"}
    special |= {_DAGGER: r"$^{\dagger}$", _DASH: "--", _MINUS: "$-$", "<": "$<$", ">": "$>$"}
    return "".join(special.get(character, character) for character in text)


_MARKDOWN = _Markup(lambda text: re.sub(r"([\\|*_`<])", r"\\\1", text), lambda text: f"**{text}**")
_LATEX = _Markup(_escape_latex, lambda text: f"\\textbf{{{text}}}")


def to_markdown(experiment: Experiment, table: AccuracyTable, tidy: pd.DataFrame) -> str:
    """The table in GitHub's Markdown: caption, table, note."""
    escape = _MARKDOWN.escape
    columns = [f"{experiment.benchmarks[benchmark].label}, block {block}" for block, benchmark in _columns(table)]
    head = ["Tokens per step", "Method", *map(escape, columns), "Average", "Relative change"]
    lines = [
        escape(table.caption),
        "",
        _markdown_row(head),
        _markdown_row(["---:", "---"] + ["---:"] * (len(head) - 2)),
    ]
    for rows in _body(table, tidy, _MARKDOWN):
        lines += map(_markdown_row, rows)
    return "\n".join([*lines, "", escape(_note(experiment, table, tidy)), ""])


def to_latex(experiment: Experiment, table: AccuracyTable, tidy: pd.DataFrame) -> str:
    r"""The table as a LaTeX `table`; the document needs `\usepackage{booktabs}`."""
    escape = _LATEX.escape
    columns, width = _columns(table), len(table.benchmarks)
    blocks = list(dict.fromkeys(block for block, _ in columns))
    groups = [f"\\multicolumn{{{width}}}{{c}}{{Block size {block}}}" for block in blocks]
    rules = [f"\\cmidrule(lr){{{3 + i * width}-{2 + (i + 1) * width}}}" for i in range(len(blocks))]
    head = ["Tokens per step", "Method", *(escape(experiment.benchmarks[b].label) for _, b in columns)]
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escape(table.caption)}}}",
        f"\\begin{{tabular}}{{rl{'r' * (len(columns) + 2)}}}",
        r"\toprule",
        _latex_row(["", "", *groups, "", ""]),
        "".join(rules),
        _latex_row([*head, "Average", "Relative change"]),
    ]
    for rows in _body(table, tidy, _LATEX):
        lines += [r"\midrule", *map(_latex_row, rows)]
    note = escape(_note(experiment, table, tidy))
    lines += [r"\bottomrule", r"\end{tabular}", rf"\par\smallskip{{\footnotesize {note}}}", r"\end{table}", ""]
    return "\n".join(lines)


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _latex_row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _columns(table: AccuracyTable) -> list[tuple[int, str]]:
    blocks = sorted({Budget.parse(budget).block_size for budget in table.budgets})
    return [(block, benchmark) for block in blocks for benchmark in table.benchmarks]


def _body(table: AccuracyTable, tidy: pd.DataFrame, markup: _Markup) -> list[list[list[str]]]:
    """A group of rows for every tokens per step, a row of cells for every method."""
    columns: list[tuple[int | None, str]] = [*_columns(table), (None, AVERAGE)]
    best = tidy.groupby(["tokens_per_step", "block_size", "benchmark"], dropna=False)["accuracy"].transform("max")
    cells = {}
    for row in tidy.assign(best=tidy["accuracy"] == best).itertuples():
        block = None if pd.isna(row.block_size) else int(row.block_size)
        cells[row.tokens_per_step, row.method, block, row.benchmark] = row
    body = []
    for tokens_per_step in tidy["tokens_per_step"].unique():
        rows = []
        for method in tidy["method"].unique():
            texts = [_text(cells.get((tokens_per_step, method, *column)), markup) for column in columns]
            change = cells[tokens_per_step, method, None, AVERAGE].relative_change
            changed = markup.escape(_DASH if pd.isna(change) else f"{change:+.1f} %".replace("-", _MINUS))
            rows.append([f"{tokens_per_step:g}", markup.escape(method), *texts, changed])
        body.append(rows)
    return body


def _text(row: Any, markup: _Markup) -> str:
    """`85.0 [79.4, 89.3]`, a dagger where it differs from the teacher, the paper's value in parentheses."""
    if row is None:
        return markup.escape(_DASH)
    accuracy = f"{row.accuracy:.1f}"
    rest = "" if pd.isna(row.low) else f" [{row.low:.1f}, {row.high:.1f}]"
    rest += _DAGGER if row.p_adjusted < _SIGNIFICANT else ""
    rest += "" if pd.isna(row.reported) else f" ({row.reported:.1f})"
    return (markup.bold(accuracy) if row.best else accuracy) + markup.escape(rest)


def _note(experiment: Experiment, table: AccuracyTable, tidy: pd.DataFrame) -> str:
    teacher = experiment.teachers[table.teacher].label
    counts = tidy.dropna(subset="n").drop_duplicates("benchmark")
    questions = ", ".join(f"{experiment.benchmarks[row.benchmark].label} {row.n}" for row in counts.itertuples())
    tuned = tidy[tidy["method"] != teacher].drop_duplicates("method")
    seeds = ", ".join(f"{row.method} {row.seeds}" for row in tuned.itertuples())
    parts = [
        "Accuracy in percent with its 95 % Wilson interval over the questions.",
        f"Questions (n): {questions}.",
        f"Training seeds averaged: {seeds}." if seeds else "",
        f"Bold: best of its column at these tokens per step. {_DASH}: no such budget or nothing to compare.",
        f"{_DAGGER}: p < {_SIGNIFICANT} against {teacher}, two-sided exact sign-flip test paired by question (exact "
        "McNemar for one seed), corrected for the number of cells by Holm's method.",
        "In parentheses: the paper's value." if tidy["reported"].notna().any() else "",
    ]
    return " ".join(part for part in parts if part)
