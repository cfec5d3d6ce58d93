"""The verbs of `t3d` that look at what was made, and make nothing."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from t3d.errors import ParameterError

if TYPE_CHECKING:
    from t3d.params import Experiment

app = typer.Typer()

ExperimentName = Annotated[str, typer.Option("--experiment", help="Name of a file in params/, without .yaml.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def find(experiment: str) -> "Experiment":
    """Read `params/<experiment>.yaml`; whoever asks for `--help` does without what checks it."""
    from t3d import params

    return params.find(experiment)


@app.command("trace")
def trace_cell(
    table: Annotated[Path, typer.Argument(help="results/table1.csv, or a table of another experiment below results/.")],
    cell: Annotated[
        str | None, typer.Option(help="row/column/budget, t3d/gsm/b8s2 for example; all are listed.")
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Whose table; found from its path.")] = None,
    json: Json = False,
) -> None:
    """Show what a cell of a table was made from: digests, commits, devices, seeds and commands."""
    from t3d.provenance import remote, trace

    found, name = trace.table_of(table, experiment)
    if cell is None:
        print("\n".join(trace.cells(found, name)))
        return
    origins = trace.trace(found, name, cell)
    print(trace.to_json(origins) if json else trace.to_text(origins, remote.command(found.name)))


@app.command("status")
def show_status(experiment: ExperimentName = "demo", json: Json = False) -> None:
    """Show which tables and figures there are, what of each stage is made, what is running and what remains."""
    from t3d.terminal import status

    found = status.look(find(experiment))
    print(status.to_json(found) if json else status.to_text(found, colours=sys.stdout.isatty()))


@app.command("decode")
def decode_question(
    text: Annotated[str | None, typer.Argument(help="The question, as a user types it.")] = None,
    experiment: ExperimentName = "demo",
    teacher: Annotated[str | None, typer.Option(help="Teacher to ask, or a model's folder; the first if none.")] = None,
    student: Annotated[str | None, typer.Option(help="Student to ask instead (t3d), or one run of it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Which training of a student of several seeds.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="b8s2 (block 8, 2 steps) or b8t0.9 (threshold .9); a step a token if none.")
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="Show another beside it: MODEL@BUDGET, MODEL or @BUDGET. Repeatable.")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Id of a benchmark's question: its recorded answer is shown.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    pace: Annotated[float, typer.Option(min=0, help="Denoising steps per second to watch; 0 for the end.")] = 12.0,
) -> None:
    """Ask a model and watch its answer being written; piped, the answer alone (statistics on stderr)."""
    from rich.console import Console

    from t3d.terminal import decode, replay

    if teacher and student:
        raise ParameterError("give --teacher or --student; --compare shows the other beside it.")
    model = student or teacher
    asked = [(model, budget)]
    for item in compare or []:
        other, _, how = item.rpartition("@") if "@" in item else (item, "", "")
        asked.append((other or model, how or budget))
    answers = decode.ask(find(experiment), text, question, asked, seed, max_new_tokens)
    console = Console()
    if console.is_terminal:
        replay.show(answers, pace, console)
        return
    for answer in answers:
        print(answer.text if len(answers) == 1 else f"[{answer.label}]\n{answer.text}\n")
        print(answer.statistics(), file=sys.stderr)


@app.command("cost")
def estimate_cost(
    experiment: ExperimentName = "paper",
    gpu: Annotated[str, typer.Option(help="A100, H100 or H200.")] = "A100",
) -> None:
    """State the GPU hours of an experiment, by stage and by table, and how they are worked out."""
    from t3d.terminal import cost

    print(cost.report(find(experiment), gpu))
