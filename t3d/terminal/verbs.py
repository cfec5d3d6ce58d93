"""The verbs of `t3d` that no rule calls: they look at what was made, publish it, and fetch it."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from t3d.errors import MissingInputError, ParameterError, SourceError

if TYPE_CHECKING:
    from t3d.params import Experiment

app = typer.Typer()

RULES, YOURS, VERSIONS = "Run by Snakemake", "For you", "Versions"
"""The groups of `t3d --help`."""

ExperimentName = Annotated[str, typer.Option("--experiment", help="Name of a file in params/, without .yaml.")]
Remote = Annotated[str | None, typer.Option(help="DVC remote; those of .dvc/config unless given.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


class Verb(TyperCommand):
    """A verb of which an option takes all manifests up to the next option, as many as a rule or `*` gives it, or none.

    `--data a b --student --out c` stands for `--data a --data b --out c`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        many = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        spread: list[str] = []
        option = None
        for word in args:
            if word.startswith("--"):
                option = word if word in many else None
            if word != option:
                spread += [word] if option is None else [option, word]
        return super().parse_args(ctx, spread)


def find(experiment: str) -> "Experiment":
    """Read `params/<experiment>.yaml`; whoever asks for `--help` does without what checks it."""
    from t3d import params

    return params.find(experiment)


@app.command("trace", rich_help_panel=YOURS)
def trace_cell(
    table: Annotated[Path, typer.Argument(help="results/table1.csv, or a table of another experiment below results/.")],
    cell: Annotated[
        str | None, typer.Option(help="row/column/budget, t3d/gsm/b8s2 for example; all are listed.")
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Whose table; found from its path.")] = None,
    json: Json = False,
) -> None:
    """List a table's cells with their numbers, or show what one was made from: digests, commits, devices, commands."""
    from json import dumps

    from t3d.provenance import publish, remote, trace, verify

    found, name = trace.table_of(table, experiment)

    def fetching() -> str | None:
        missing = verify.missing_of(found, found.tables[name], here=True)
        return publish.remedy(found, missing) if missing else None

    if cell is None:
        listed = trace.index(found, name)
        width = max(map(len, listed))
        lines = (f"{key:<{width}}  {said}" for key, said in listed.items())
        print(dumps(listed, indent=1) if json else "\n".join(lines))
        if command := fetching():
            print(f"{command} fetches what is not here.", file=sys.stderr)
        return
    try:
        origins = trace.trace(found, name, cell)
    except MissingInputError as error:
        if command := fetching():
            raise MissingInputError(f"{error} {command} fetches what was published.") from None
        raise
    print(trace.to_json(origins) if json else trace.to_text(cell, origins, remote.command(found.name)))


@app.command("status", rich_help_panel=YOURS)
def show_status(experiment: ExperimentName = "demo", json: Json = False) -> None:
    """Show which tables and figures there are, what of each stage is made, what is running and what remains."""
    from t3d.terminal import status

    found = status.look(find(experiment))
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else None
    print(status.to_json(found) if json else status.to_text(found, terminal, width))


@app.command("decode", rich_help_panel=YOURS)
def decode_question(
    text: Annotated[str | None, typer.Argument(help="The question, as a user types it.")] = None,
    experiment: ExperimentName = "demo",
    teacher: Annotated[
        str | None, typer.Option(help="Teacher to ask, or a model's folder; the first teacher by default.")
    ] = None,
    student: Annotated[str | None, typer.Option(help="Student to ask instead (t3d), or one run of it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Which training of a student of several seeds.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="b8s2 (block 8, 2 steps) or b8t0.9 (threshold .9); one step per token by default."),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Show another beside it: MODEL@BUDGET, MODEL (at --budget) or @BUDGET. Repeatable."),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(help="Id of a benchmark's question: its recorded answer is shown, or the published text of one."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, max=2**20, help="Longest answer.")] = 256,
    pace: Annotated[float, typer.Option(min=0, help="Denoising steps per second to watch; 0 for the end.")] = 12.0,
) -> None:
    """Ask a model and watch its answer being written; piped, the answer alone (statistics on stderr)."""
    from rich.console import Console

    from t3d.terminal import decode, published, replay

    if pace != pace:
        raise ParameterError("--pace: nan is no number of steps per second.")
    if teacher and student:
        raise ParameterError("give --teacher or --student; --compare shows the other beside it.")
    model = student or teacher
    asked = [(model, budget)]
    for item in compare or []:
        other, _, how = item.rpartition("@") if "@" in item else (item, "", "")
        if not (other or how):
            raise ParameterError(f"--compare: expected MODEL@BUDGET, MODEL or @BUDGET, got {item!r}.")
        asked.append((other or model, how or budget))
    found, console = find(experiment), Console()
    if question is not None and text is None and (texts := published.find(found, question, asked, seed)) is not None:
        if console.is_terminal:
            published.show(texts, console)
        else:
            out, said = published.piped(texts)
            print(said, file=sys.stderr)
            print(out)
        return
    answers = decode.ask(found, text, question, asked, seed, max_new_tokens)
    if console.is_terminal:
        replay.show(answers, pace, console)
        return
    for answer in answers:
        print(answer.text if len(answers) == 1 else f"[{answer.label}]\n{answer.text}\n")
        print(answer.statistics(), file=sys.stderr)


@app.command("pin", rich_help_panel=VERSIONS)
def pin_sources(experiment: ExperimentName = "demo") -> None:
    """Print what pins an experiment's sources, to paste into its file; asks the hub."""
    from t3d.prompts import sources

    text, faults = sources.pins(find(experiment))
    print(text if text or faults else f"# All sources of experiment {experiment} are pinned.\n", end="")
    if faults:
        raise SourceError("\n".join(["these sources cannot be pinned now:", *map(str, faults)]))


@app.command("verify", rich_help_panel=VERSIONS)
def verify_made(
    what: Annotated[Literal["models", "tables"], typer.Argument(help="What models make, or the tables of that.")],
    experiment: ExperimentName = "demo",
) -> None:
    """Check that what is on disk is complete and was made with the experiment's parameters."""
    from t3d.provenance import verify

    found = find(experiment)
    if what == "models":
        from t3d.prompts import reader

        count = verify.models(found)
        reader.check_prompt_sets(found)
    else:
        from t3d.reporting import tables

        count = tables.check_all(found)
    print(f"{what}: {count} verified")


@app.command("publish", rich_help_panel=VERSIONS)
def publish_experiment(experiment: ExperimentName = "demo", remote: Remote = None) -> None:
    """Verify what an experiment made, write its archive for git, and push the rest with DVC. Never from a job."""
    from t3d.prompts import reader
    from t3d.provenance import publish
    from t3d.reporting import tables

    kept = publish.publish(find(experiment), remote, (reader.check_prompt_sets, tables.check_all))
    print("Published. Keep the versions in git:\n  git add " + " ".join(map(str, kept)) + "\n  git commit")


@app.command("pull", rich_help_panel=VERSIONS)
def pull_published(
    what: Annotated[str, typer.Argument(help="scores (from git), students (through DVC, too), or all.")] = "scores",
    experiment: ExperimentName = "demo",
    remote: Remote = None,
) -> None:
    """Get back what an experiment published, so that Snakemake knows it and makes nothing again."""
    from t3d.provenance import publish

    count, left = publish.pull(find(experiment), what, remote)
    print(f"{count} files are here as they were published.")
    if left:
        others = f" and {len(left) - 1} other copies of tables there differ" if left[1:] else " differs"
        print(f"{left[0]}{others} from this experiment's and stayed as before; its own are in results/{experiment}/.")


@app.command("metrics", rich_help_panel=RULES)
def write_metrics(experiment: ExperimentName, out: Annotated[Path, typer.Option(help="JSON file to write.")]) -> None:
    """Write the accuracies of the default tables for `dvc metrics` and `dvc plots`."""
    from t3d.reporting import metrics

    metrics.write(find(experiment), out)


@app.command("log", rich_help_panel=YOURS)
def send_curves(
    to: Annotated[Literal["tensorboard", "trackio", "wandb"], typer.Option(help="Where; pip install it first.")],
    experiment: ExperimentName = "demo",
    out: Annotated[Path, typer.Option(help="Folder of TensorBoard's files.")] = Path("runs"),
) -> None:
    """Send the training curves that are here to TensorBoard, trackio or Weights & Biases."""
    from t3d.terminal import curves

    for artefact in curves.send(find(experiment), to, out):
        print(f"{artefact}: sent to {to}")


CardModel = Annotated[str, typer.Option(help="Key of a teacher, of a student (its first seed) or of one run of it.")]
License = Annotated[
    str | None, typer.Option(help="The hub's name of the licence, apache-2.0 for example; that of the base model.")
]


@app.command("doctor", rich_help_panel=YOURS)
def check_machine(experiment: ExperimentName = "demo") -> None:
    """Check what an experiment needs of this machine or cluster before its first job, and say what to do."""
    from t3d.terminal import doctor

    lines = doctor.look(find(experiment))
    print(doctor.to_text(lines))
    if any(line.state == "todo" for line in lines):
        raise typer.Exit(1)


@app.command("card", rich_help_panel=YOURS)
def show_card(model: CardModel, experiment: ExperimentName = "demo", license: License = None) -> None:
    """Print the model card of a model: what it is, its scores with intervals, how it was made."""
    from t3d.terminal import card

    print(card.text(find(experiment), model, license, None), end="")


@app.command("push", rich_help_panel=YOURS)
def push_model(
    model: CardModel,
    repository: Annotated[str, typer.Option(help="Repository on the Hugging Face hub, owner/name.")],
    experiment: ExperimentName = "demo",
    license: License = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be uploaded, and upload nothing.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Keep what is uploaded in this folder, which must be empty.")] = None,
) -> None:
    """Upload a model with its card and results to the Hugging Face hub (`hf auth login` first)."""
    import tempfile

    from t3d.terminal import card

    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary)
        for path in card.write(find(experiment), model, folder, license, repository):
            print(f"{path.stat().st_size:>14,} {path.relative_to(folder)}")
        if not dry_run:
            print(card.push(folder, repository, private))


@app.command("cost", rich_help_panel=YOURS)
def estimate_cost(
    experiment: ExperimentName = "demo",
    gpu: Annotated[str, typer.Option(help="A100, H100 or H200.")] = "A100",
) -> None:
    """State the GPU hours of an experiment, by stage and by table, and how they are worked out."""
    from t3d.terminal import cost

    print(cost.report(find(experiment), gpu))
