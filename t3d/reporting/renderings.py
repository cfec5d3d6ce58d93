"""A view of a table as Markdown and as LaTeX. The third format, HTML, is `page/report.html.j2`."""

import re
from collections.abc import Callable, Iterable

from t3d.reporting.view import DAGGER, DASH, MINUS, Cell, View

_Markup = Callable[[str], str]


def markdown(view: View) -> str:
    """GitHub's Markdown: caption, table, note."""
    blocks = [f", block {block}" if block else "" for block, width in view.blocks for _ in range(width)]
    columns = [name + block for name, block in zip(view.columns, blocks or [""] * len(view.columns), strict=True)]
    head = [*view.common, "Method", *columns]
    align = [{"l": "---", "r": "---:"}[side] for side in _align(view)]
    lines = [_escape_markdown(view.caption), "", _row(map(_escape_markdown, head)), _row(align)]
    lines += [_row(row) for rows in _rows(view, _escape_markdown, lambda text: f"**{text}**") for row in rows]
    return "\n".join([*lines, "", _escape_markdown(view.note), ""])


def latex(view: View) -> str:
    r"""A LaTeX `table`; the document needs `\usepackage{booktabs}`."""
    lines = [
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{_escape_latex(view.caption)}}}",
        f"\\begin{{tabular}}{{{_align(view)}}}",
        r"\toprule",
    ]
    if view.blocks:
        cells, rules, column = [], "", 1
        for block, width in ((None, len(view.common) + 1), *view.blocks):
            cells.append(f"\\multicolumn{{{width}}}{{c}}{{Block size {block}}}" if block else " & " * (width - 1))
            rules += f"\\cmidrule(lr){{{column}-{column + width - 1}}}" if block else ""
            column += width
        lines += [_latex_row(cells), rules]
    lines.append(_latex_row(map(_escape_latex, (*view.common, "Method", *view.columns))))
    for rows in _rows(view, _escape_latex, lambda text: f"\\textbf{{{text}}}"):
        lines += [r"\midrule", *map(_latex_row, rows)]
    note = _escape_latex(view.note)
    lines += [r"\bottomrule", r"\end{tabular}", rf"\par\smallskip{{\footnotesize {note}}}", r"\end{table}", ""]
    return "\n".join(lines)


def _align(view: View) -> str:
    """`l` or `r` for each column, as LaTeX writes it."""
    return ("r" if view.blocks else "l" * len(view.common)) + "l" + "r" * len(view.columns)


def _rows(view: View, escape: _Markup, bold: _Markup) -> Iterable[list[list[str]]]:
    """The texts of every group's rows."""
    for common, rows in view.groups:
        yield [
            [*map(escape, (*common, method)), *(_cell(cell, escape, bold) for cell in cells)] for method, cells in rows
        ]


def _cell(cell: Cell, escape: _Markup, bold: _Markup) -> str:
    """`85.0 [79.4, 89.3]` or `85.0 (+2.5 [-1.2, 6.0])`, a dagger where it differs, the paper's value in parentheses."""
    text, beside = escape(cell.text), cell.difference or cell.interval
    rest = f" {beside}" * bool(beside) + DAGGER * cell.differs + f" ({cell.reported})" * bool(cell.reported)
    return (bold(text) if cell.best else text) + escape(rest)


def _escape_latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: "\\" + character for character in "&%$#_{}"}
    special |= {DAGGER: r"$^{\dagger}$", DASH: "--", MINUS: "$-$", "<": "$<$", ">": "$>$"}
    return "".join(special.get(character, character) for character in text)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\|*_`<])", r"\\\1", text)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"
