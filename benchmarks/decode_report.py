"""The table and the figure of `benchmarks/decode.py`: every decoder of a machine beside its floor.

    python -m benchmarks.decode_report decode.json     # again, from what was measured

The floor is what the machine's measured bandwidth and arithmetic allow (`benchmarks/decode_floor.py`).
"""

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from t3d.params import Budget
from t3d.reporting.figures.style import STYLE, legend_below, light_grid

Row = dict[str, Any]
_COLUMNS = {"tokens/s": 10, "spread": 8, "ms/fwd": 9, "floor": 7, "bandw.": 8, "arith.": 8, "start s": 9, "GB": 7}
HEADING = f"{'size':8}{'batch':>6} {'budget':7}{'decoder':14}" + "".join(f"{k:>{w}}" for k, w in _COLUMNS.items())
"""Above the lines that `line` makes."""
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def line(row: Row) -> str:
    """A measurement as it is printed while others are still made."""
    memory = f"{row['peak_gb']:7.1f}" if "peak_gb" in row else f"{'–':>7}"
    return (
        f"{row['size']:8}{row['batch']:6} {row['budget']:7}{row['decoder']:14}{row['tokens_per_second']:10.0f}"
        f"{row['spread']:8.1%}{row['ms_per_forward']:9.2f}{row['of_floor']:7.0%}{row['of_bandwidth']:8.0%}"
        f"{row['of_arithmetic']:8.0%}{row['start_seconds']:9.2f}{memory}"
    )


def tokens_per_step(budget: str) -> float:
    """Of a static budget; an autoregressive model has 1."""
    if budget == "ar":
        return 1.0
    parsed = Budget.parse(budget)
    assert parsed.steps is not None
    return parsed.block_size / parsed.steps


def table(rows: list[Row]) -> str:
    """Markdown: a line per model, batch size and budget of the engine, the other decoders beside it."""
    found = {(row["size"], row["batch"], row["budget"], row["decoder"]): row for row in rows}
    head = ["model", "batch", "tokens per step", "engine, tokens/s", "ms per token", "of the floor", "GB"]
    head += ["vLLM, AR", "engine / vLLM", "Hugging Face loop", "engine / loop", "plain decoder", "engine / plain"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]

    def beside(row: Row, other: Row | None) -> list[str]:
        if other is None:
            return ["–", "–"]
        return [f"{other['tokens_per_second']:,.0f}", f"{row['tokens_per_second'] / other['tokens_per_second']:.2f}"]

    for row in (row for row in rows if row["decoder"] == "engine"):
        size, batch, budget = row["size"], row["batch"], row["budget"]
        step = "AR" if budget == "ar" else f"{tokens_per_step(budget):g} ({budget})"
        speed = f"{row['tokens_per_second']:,.0f} ± {row['spread'] / 2:.1%}"
        cells = [size, str(batch), step, speed, f"{row['ms_per_token']:.2f}", f"{row['of_floor']:.0%}"]
        cells += [f"{row['peak_gb']:.1f}" if "peak_gb" in row else "–"]
        cells += beside(row, found.get((size, batch, "ar", "vLLM")))
        cells += beside(row, found.get((size, batch, budget, "hugging face")))
        cells += beside(row, found.get((size, batch, budget, "plain")))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(rows: list[Row], machine: dict[str, Any]) -> Figure:
    """Tokens per second against batch size, a panel per model, a line per decoder; its floor is dashed."""
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    shown = [key for key in dict.fromkeys((row["decoder"], row["budget"]) for row in rows) if key[0] != "plain"]
    # One line of the Hugging Face loop is enough: that of the most tokens per step.
    loops = [key for key in shown if key[0] == "hugging face"]
    shown = [key for key in shown if key not in loops or key == max(loops, key=lambda each: tokens_per_step(each[1]))]
    drawn = Figure(figsize=(max(4.2, 3.2 * len(sizes)), 3.2), layout="constrained")
    handles: list[Line2D] = []
    labels: list[str] = []
    for axis, size in zip(drawn.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        for number, (decoder, budget) in enumerate(shown):
            those = sorted(
                (row for row in rows if (row["size"], row["decoder"], row["budget"]) == (size, decoder, budget)),
                key=lambda row: row["batch"],
            )
            look = {"color": "#404040" if decoder == "vLLM" else _COLOURS[number % len(_COLOURS)]}
            batches = [row["batch"] for row in those]
            (handle,) = axis.plot(batches, [row["tokens_per_second"] for row in those], marker="o", ms=4, **look)
            if decoder in ("vLLM", "engine"):
                axis.plot(batches, [row["floor_tokens_per_second"] for row in those], ls="--", lw=0.9, **look)
            if size == sizes[0]:
                step = "AR" if budget == "ar" else f"{tokens_per_step(budget):g} per step"
                name = {"hugging face": "Hugging Face loop"}.get(decoder, decoder)
                handles, labels = [*handles, handle], [*labels, f"{name}, {step}"]
        axis.set(
            xscale="log", yscale="log", title=size.upper() if size[0].isdigit() else size, xlabel="sequences at a time"
        )
        ticks = sorted({row["batch"] for row in rows})
        axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axis.minorticks_off()
        light_grid(axis)
    drawn.axes[0].set_ylabel("tokens per second")
    rates = f"{machine['bandwidth'] / 1e12:.2f} TB/s and {machine['arithmetic'] / 1e12:.0f} TFLOP/s"
    legend_below(drawn, handles, labels, f"{machine['name']}; dashed: the floor at its measured {rates}.")
    return drawn


def write(content: dict[str, Any], out: Path) -> None:
    """Table and figure beside the JSON file `out`."""
    out.with_suffix(".md").write_text(table(content["rows"]))
    if content["rows"]:
        with style.context(STYLE):
            figure(content["rows"], content["machine"]).savefig(out.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    write(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[1]))
