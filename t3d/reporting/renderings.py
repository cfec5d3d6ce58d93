"""Tables as a reader sees them, in Markdown and LaTeX: from the tidy tables, no number is computed here."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from t3d.params import (
    AccuracyTable,
    Budget,
    Comparison,
    DecodingTable,
    Experiment,
    ParallelismTable,
    ServedTable,
)
from t3d.provenance import lineage
from t3d.reporting.accuracy import AVERAGE, base_label
from t3d.reporting.decoding import ALONE, METRICS, SATURATED, text_of
from t3d.reporting.parallelism import ALLOWED_LOSS, PENALTY

_SIGNIFICANT = 0.05
_DAGGER, _DASH, _MINUS = "†", "–", "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Cell:
    """A cell's number, whether it is the best of its column, and what follows the number."""

    text: str
    best: bool = False
    rest: str = ""


@dataclass(frozen=True)
class View:
    """A table to look at: heads of columns, groups of rows, a note."""

    caption: str
    spans: tuple[tuple[int | None, int], ...]
    """Block size that adjacent columns share (None for columns without one) and how many they are."""
    head: tuple[str, ...]
    align: str
    """`l` or `r` for each column, as LaTeX writes it."""
    groups: tuple[tuple[tuple[Cell, ...], ...], ...]
    note: str

    def markdown(self) -> str:
        """GitHub's Markdown: caption, table, note."""
        blocks = [block for block, width in self.spans for _ in range(width)]
        head = [f"{name}, block {block}" if block else name for name, block in zip(self.head, blocks, strict=True)]
        align = ["---" if side == "l" else "---:" for side in self.align]
        lines = [_escape_markdown(self.caption), "", _row(map(_escape_markdown, head)), _row(align)]
        lines += [_row(_cell(cell, _MARKDOWN) for cell in row) for group in self.groups for row in group]
        return "\n".join([*lines, "", _escape_markdown(self.note), ""])

    def latex(self) -> str:
        r"""A LaTeX `table`; the document needs `\usepackage{booktabs}`."""
        lines = [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{_escape_latex(self.caption)}}}",
            f"\\begin{{tabular}}{{{self.align}}}",
            r"\toprule",
        ]
        if any(block for block, _ in self.spans):
            cells, rules, column = [], "", 1
            for block, width in self.spans:
                cells.append(f"\\multicolumn{{{width}}}{{c}}{{Block size {block}}}" if block else " & " * (width - 1))
                rules += f"\\cmidrule(lr){{{column}-{column + width - 1}}}" if block else ""
                column += width
            lines += [_latex_row(cells), rules]
        lines.append(_latex_row(map(_escape_latex, self.head)))
        for group in self.groups:
            lines += [r"\midrule", *(_latex_row(_cell(cell, _LATEX) for cell in row) for row in group)]
        note = _escape_latex(self.note)
        lines += [r"\bottomrule", r"\end{tabular}", rf"\par\smallskip{{\footnotesize {note}}}", r"\end{table}", ""]
        return "\n".join(lines)


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


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<])", r"\\\1", text)


_MARKDOWN = _Markup(_escape_markdown, lambda text: f"**{text}**")
_LATEX = _Markup(_escape_latex, lambda text: f"\\textbf{{{text}}}")


def _cell(cell: Cell, markup: _Markup) -> str:
    text = markup.escape(cell.text)
    return (markup.bold(text) if cell.best else text) + markup.escape(cell.rest)


def _row(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _latex_row(cells: Any) -> str:
    return " & ".join(cells) + r" \\"


def accuracy_view(experiment: Experiment, table: AccuracyTable, tidy: pd.DataFrame) -> View:
    """The paper's Table 1: rows tokens per step x method, columns block size x benchmark, average, relative change."""
    base = base_label(experiment, table)
    blocks = sorted({Budget.parse(budget).block_size for budget in table.budgets})
    columns: list[tuple[int | None, str]] = [(block, b) for block in blocks for b in table.benchmarks]
    columns.append((None, AVERAGE))
    groups = ["tokens_per_step", "threshold"]
    best = tidy.groupby([*groups, "block_size", "benchmark"], dropna=False)["accuracy"].transform("max")
    body = []
    # An empty field is not equal to itself, and so would be no key.
    keyed = tidy.assign(best=tidy["accuracy"] == best).fillna({name: 0.0 for name in groups})
    for (tokens_per_step, threshold), group in keyed.groupby(groups, sort=False):
        cells = {
            (row.method, None if pd.isna(row.block_size) else int(row.block_size), row.benchmark): row
            for row in group.itertuples()
        }
        rows = []
        for method in group["method"].unique():
            change = cells[method, None, AVERAGE].relative_change
            changed = _DASH if pd.isna(change) else f"{change:+.1f} %".replace("-", _MINUS)
            if not tokens_per_step and not threshold:
                texts = [_without_block(cells[method, None, b] if x in (None, blocks[0]) else None) for x, b in columns]
                rows.append((Cell(_DASH), Cell(method), *texts, Cell(changed)))
                continue
            texts = [_accuracy(cells.get((method, *column)), table.base is not None) for column in columns]
            first = f"{tokens_per_step:g}" if tokens_per_step else f"p > {threshold:g}"
            rows.append((Cell(first), Cell(method), *texts, Cell(changed)))
        body.append(tuple(rows))
    return View(
        caption=table.caption,
        spans=((None, 2), *((block, len(table.benchmarks)) for block in blocks), (None, 2)),
        head=(
            *("Tokens per step", "Method"),
            *(experiment.benchmarks[name].label for _ in blocks for name in table.benchmarks),
            *("Average", "Relative change"),
        ),
        align="rl" + "r" * (len(columns) + 1),
        groups=tuple(body),
        note=_accuracy_note(experiment, table, tidy, base),
    )


def _without_block(row: Any) -> Cell:
    """The cell of a model that has no blocks: under the first block size, and blank under the others."""
    if row is None:
        return Cell("")
    return Cell(f"{row.accuracy:.1f}", rest="" if pd.isna(row.low) else f" [{row.low:.1f}, {row.high:.1f}]")


def _accuracy(row: Any, with_difference: bool) -> Cell:
    """`85.0 [79.4, 89.3]` or `85.0 (+2.5 [-1.2, 6.0])`, a dagger where it differs, the paper's value in parentheses."""
    if row is None:
        return Cell(_DASH)
    rest = "" if pd.isna(row.low) else f" [{row.low:.1f}, {row.high:.1f}]"
    if with_difference and not pd.isna(row.difference):
        interval = "" if pd.isna(row.low) else f" [{row.difference_low:.1f}, {row.difference_high:.1f}]"
        rest = f" ({row.difference:+.1f}{interval})".replace("-", _MINUS)
    rest += _DAGGER if row.p_adjusted < _SIGNIFICANT else ""
    rest += "" if pd.isna(row.reported) else f" ({row.reported:.1f})"
    return Cell(f"{row.accuracy:.1f}", bool(row.best), rest)


def _accuracy_note(experiment: Experiment, table: AccuracyTable, tidy: pd.DataFrame, base: str) -> str:
    shown = "Accuracy in percent with its 95 % Wilson interval over the questions."
    if table.base is not None:
        shown = (
            f"Accuracy in percent; in parentheses the difference from {base} with its 95 % paired bootstrap interval."
        )
    parts = [
        shown,
        _questions(experiment, table, tidy.dropna(subset="n")),
        _seeds(experiment, table),
        f"Bold: best of its column at these tokens per step. {_DASH}: no such budget or nothing to compare.",
        f"{_DAGGER}: p < {_SIGNIFICANT} against {base}, two-sided exact sign-flip test paired by question (exact "
        "McNemar for one seed), corrected for the number of cells by Holm's method.",
        "Last, in parentheses: the paper's value." if tidy["reported"].notna().any() else "",
        _autoregressive_note(experiment, table, tidy, "it has no blocks, and stands once, under the first block size"),
    ]
    return " ".join(part for part in parts if part)


def _autoregressive_note(experiment: Experiment, table: ServedTable, tidy: pd.DataFrame, how: str) -> str:
    """What a table says of its autoregressive row, or of its absence."""
    if table.autoregressive is None:
        return ""
    label = experiment.teachers[table.autoregressive].label
    rows = [label, SATURATED.format(label), ALONE.format(label)]
    if not tidy["method"].isin(rows).any():
        return f"{label}: no row, for vLLM has not answered here (docs/vllm.md)."
    return f"{label} writes a token at a time, at no budget: {how}."


def _questions(experiment: Experiment, table: Comparison, tidy: pd.DataFrame) -> str:
    counts = tidy.drop_duplicates("benchmark")
    listed = ", ".join(f"{experiment.benchmarks[row.benchmark].label} {row.n}" for row in counts.itertuples())
    return f"Questions (n): {listed}."


def _seeds(experiment: Experiment, table: Comparison) -> str:
    counts = {
        row.label: len(lineage.runs_of(experiment, row.model))
        for row in lineage.rows_of(experiment, table)
        if row.model not in experiment.teachers
    }
    listed = ", ".join(f"{label} {count}" for label, count in counts.items())
    return f"Training seeds averaged: {listed}." if listed else ""


def decoding_view(experiment: Experiment, table: DecodingTable, tidy: pd.DataFrame, totals: pd.DataFrame) -> View:
    """The paper's Table 3, one group of rows per budget and benchmark."""
    body = []
    for budget in table.budgets:
        parsed = Budget.parse(budget)
        kind = "threshold" if parsed.threshold else "tokens_per_step"
        here = (tidy["block_size"] == parsed.block_size) & (tidy[kind] == getattr(parsed, kind))
        for benchmark in table.benchmarks:
            group = tidy[here & (tidy["benchmark"] == benchmark)]
            label = experiment.benchmarks[benchmark].label
            rows = []
            for method, values in group.groupby("method", sort=False):
                by_metric = {row.metric: row for row in values.itertuples()}
                rows.append(
                    (
                        Cell(label),
                        Cell(budget),
                        Cell(str(method)),
                        *(_measured(by_metric[metric]) for metric in METRICS),
                    )
                )
            body.append(tuple(rows))
    without = tidy[tidy["block_size"].isna()]
    for benchmark, group in without.groupby("benchmark", sort=False):
        label = experiment.benchmarks[str(benchmark)].label
        rows = []
        for method, values in group.groupby("method", sort=False):
            by_metric = {row.metric: row for row in values.itertuples()}
            measured = [_measured(by_metric[m]) if m in by_metric else Cell(_DASH) for m in METRICS]
            rows.append((Cell(label), Cell(_DASH), Cell(str(method)), *measured))
        body.append(tuple(rows))
    alone = without.loc[without["method"].str.endswith(ALONE.format("")), "n"]
    parts = [
        "Tokens/s: response tokens over the time of the whole decoding; latency: seconds per response at that speed; "
        "steps: denoising steps per response, commit passes left out; accuracy in percent, 95 % Wilson interval.",
        _questions(experiment, table, tidy),
        _seeds(experiment, table),
        _device(totals),
        "In parentheses: the paper's value." if tidy["reported"].notna().any() else "",
        _autoregressive_note(
            experiment,
            table,
            tidy,
            "saturated, it is asked everything with as many sequences together as the others; at batch 1, the first "
            f"{', '.join(str(n) for n in alone.unique())} questions one after the other; starting it is left out",
        ),
    ]
    return View(
        caption=table.caption,
        spans=((None, 3 + len(METRICS)),),
        head=("Benchmark", "Budget", "Method", *METRICS.values()),
        align="lll" + "r" * len(METRICS),
        groups=tuple(body),
        note=" ".join(part for part in parts if part),
    )


def _measured(row: Any) -> Cell:
    rest = "" if pd.isna(row.low) else f" [{row.low:.1f}, {row.high:.1f}]"
    rest += "" if pd.isna(row.reported) else f" ({text_of(row.metric, row.reported)})"
    return Cell(text_of(row.metric, row.value), rest=rest)


def _device(totals: pd.DataFrame) -> str:
    where = ", ".join(sorted(totals["device"].unique()))
    sizes = ", ".join(str(size) for size in sorted(totals["batch_size"].unique()))
    jobs = "jobs may have shared the machine"
    if "gpu_jobs" in totals and totals["gpu_jobs"].notna().all():
        most = int(totals["gpu_jobs"].max())
        jobs = "each job had its GPU to itself" if most == 1 else f"up to {most} jobs shared a GPU"
    return f"Speed is that of this run: on {where}, {sizes} sequences together; {jobs}."


def parallelism_view(experiment: Experiment, table: ParallelismTable, tidy: pd.DataFrame, totals: pd.DataFrame) -> View:
    """AUP, and what the fastest budget at matched accuracy gives, one group of rows per benchmark and block size."""
    body = []
    for (benchmark, block), group in tidy.groupby(["benchmark", "block_size"], sort=False):
        rows = []
        for row in group.itertuples():
            area = Cell(f"{row.aup:.1f}", row.aup == group["aup"].max(), f" [{row.aup_low:.1f}, {row.aup_high:.1f}]")
            there = [Cell(_DASH)] * 4
            if not pd.isna(row.fastest_budget):
                numbers = (row.accuracy, row.tokens_per_forward, row.tokens_per_second)
                there = [Cell(row.fastest_budget), *(Cell(f"{number:.1f}") for number in numbers)]
            label = experiment.benchmarks[str(benchmark)].label
            rows.append((Cell(label), Cell(f"{block}"), Cell(row.method), area, Cell(f"{row.points}"), *there))
        body.append(tuple(rows))
    best = ", ".join(f"{experiment.benchmarks[b].label} {value:g}" for b, value in table.best_accuracy.items())
    parts = [
        "AUP: accuracy under parallelism (arXiv 2601.07568) over tokens per forward, commit passes counted, with its "
        f"95 % bootstrap interval over questions; penalty {PENALTY:g}, y_max declared ({best}); points more than "
        f"{ALLOWED_LOSS:g} below the curve's first point are left out. It depends on the budgets that were run.",
        f"Fastest: the budget with most tokens/s whose accuracy is at most {ALLOWED_LOSS:g} points below the "
        f"teacher's at its fewest tokens per forward; {_DASH}: none is.",
        _questions(experiment, table, tidy),
        _seeds(experiment, table),
        _device(totals),
    ]
    return View(
        caption=table.caption,
        spans=((None, 9),),
        head=(
            *("Benchmark", "Block", "Method", "AUP", "Points"),
            *("Fastest", "Accuracy", "Tokens per forward", "Tokens/s"),
        ),
        align="lll" + "r" * 6,
        groups=tuple(body),
        note=" ".join(part for part in parts if part),
    )
