"""`t3d <verb>`: one verb per rule of the workflow. Each rule's command line can be typed by hand.

Manifests (`<artefact>.manifest.json`) stand for artefacts: an input is the manifest of something made before, `--out`
the manifest that is written last, when the artefact beside it is complete.
"""

import atexit
import gc
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from t3d import params
from t3d.errors import ParameterError, T3DError
from t3d.provenance import lineage

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

ExperimentName = Annotated[str, typer.Option("--experiment", help="Name of a file in params/, without .yaml.")]
Out = Annotated[Path, typer.Option(help="Manifest to write, <artefact>.manifest.json; the artefact lies beside it.")]
TeacherManifest = Annotated[Path, typer.Option(help="Manifest of the teacher.")]
PromptsManifest = Annotated[Path, typer.Option(help="Manifest of the prompt set.")]
Remote = Annotated[str | None, typer.Option(help="DVC remote; those of .dvc/config unless given.")]
DecodingProcesses = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="Processes that decode it together; the experiment's number if not given."),
]
ScoreManifests = Annotated[list[Path], typer.Argument(help="Manifests of the scores it shows.")]

# The imports below are inside the verbs: PyTorch and lm-eval take seconds to load, and `--help` needs neither.


@app.callback()
def verbs() -> None:
    """Few-step diffusion language models by trajectory self-distillation.

    Snakemake runs these verbs in order (`snakemake -n results/table1.csv` shows how); each can be run by hand.
    """


@app.command("fetch")
def fetch_source(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the source in the experiment.")],
    work: Annotated[Path, typer.Option(help="Folder for downloads in progress.")],
    out: Out,
) -> None:
    """Fetch a repository's files from the hub and check them. One that is not pinned: its pin is printed."""
    from t3d.prompts import sources

    sources.make(params.find(experiment), name, work, out)


@app.command("pin")
def pin_sources(experiment: ExperimentName = "paper") -> None:
    """Print what pins an experiment's sources, to paste into its file; asks the hub."""
    from t3d.prompts import sources

    print(sources.pins(params.find(experiment)), end="")


@app.command("teacher")
def make_teacher(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the teacher in the experiment.")],
    out: Out,
    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Manifests of its fetched folder, of the model that its pretraining begins with, or of the "
            "autoregressive model that is converted and of its answers."
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that convert it together; the experiment's number if none."),
    ] = None,
) -> None:
    """Make a teacher: pretrain or convert it, or take the weights that are shipped or fetched.

    Training that was killed resumes from its last state, beside --out in <artefact>.states.
    """
    found = params.find(experiment)
    converts = name in found.teachers and found.teachers[name].source == "convert"
    if not converts or not _done_by_several(found, "training_processes", processes):
        from t3d.teachers import teacher

        teacher.make(found, name, out, *(sources or ()))


@app.command("prompts")
def make_prompts(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the prompt set in the experiment.")],
    teacher: TeacherManifest,
    out: Out,
    origins: Annotated[
        list[Path] | None,
        typer.Argument(help="Manifests of the fetched files that hold them, or of what a model wrote."),
    ] = None,
) -> None:
    """Draw the questions of a prompt set and tokenise them for a teacher."""
    from t3d.prompts import sets

    sets.make(params.find(experiment), name, teacher, out, *(origins or ()))


@app.command("generate")
def make_generations(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the generations in the experiment.")],
    shard: Annotated[str, typer.Option(help="Which part of the prompts, 0-of-2 for example.")],
    teacher: Annotated[Path, typer.Option(help="Manifest of the autoregressive teacher.")],
    prompts: PromptsManifest,
    out: Out,
) -> None:
    """Draw an autoregressive teacher's own answers to prompts: one shard of what its conversion learns from."""
    from t3d.trajectories import generations

    generations.make(params.find(experiment), name, shard, teacher, prompts, out)


@app.command("rollout")
def make_trajectories(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the trajectories in the experiment.")],
    shard: Annotated[str, typer.Option(help="Which part of the prompts, 0-of-2 for example.")],
    teacher: TeacherManifest,
    prompts: PromptsManifest,
    out: Out,
    student: Annotated[
        Path | None, typer.Argument(help="Manifest of the student that decodes in the teacher's place.")
    ] = None,
    processes: DecodingProcesses = None,
) -> None:
    """Record a full-step decoding of prompts by their teacher, or by a student of it: one trajectory shard."""
    found = params.find(experiment)
    if not _done_by_several(found, "decoding_processes", processes):
        from t3d.trajectories import rollout

        rollout.make(found, name, shard, teacher, prompts, out, student)


@app.command("distill")
def make_student(
    experiment: ExperimentName,
    run: Annotated[str, typer.Option(help="Student and seed, t3d-seed0 for example.")],
    teacher: TeacherManifest,
    work: Annotated[Path, typer.Option(help="Folder for resumable training states.")],
    out: Out,
    data: Annotated[
        list[Path],
        typer.Argument(help="Manifests of trajectory shards or prompt sets, and of the student it begins with."),
    ],
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that train it together; the experiment's number if not given.")
    ] = None,
) -> None:
    """Train a student. Killed or requeued, it resumes from its last state in --work."""
    found = params.find(experiment)
    lineage.check_processes(found, run, processes or found.training_processes)
    if not _done_by_several(found, "training_processes", processes):
        from t3d.distillation import trainer

        trainer.make(found, run, teacher, data, work, out)


@app.command("generate-answers")
def make_answers(
    experiment: ExperimentName,
    benchmark: Annotated[str, typer.Option(help="Key of the benchmark in the experiment.")],
    budget: Annotated[str, typer.Option(help="b8s2 (block 8, 2 steps) or b8t0.9 (block 8, threshold .9).")],
    model: Annotated[Path, typer.Option(help="Manifest of a teacher or a student.")],
    prompts: PromptsManifest,
    out: Out,
    processes: DecodingProcesses = None,
) -> None:
    """Answer a benchmark with a model at a step budget, through lm-eval; an autoregressive one (b1s1) through vLLM."""
    found = params.find(experiment)
    # vLLM has a process of its own.
    if budget == params.AUTOREGRESSIVE or not _done_by_several(found, "decoding_processes", processes):
        from t3d.evaluation import answers

        answers.make(found, benchmark, budget, model, prompts, out)


@app.command("score")
def make_score(
    experiment: ExperimentName,
    answers: Annotated[Path, typer.Option(help="Manifest of the answers.")],
    prompts: PromptsManifest,
    out: Out,
) -> None:
    """Score recorded answers with lm-eval; needs no GPU and no model."""
    from t3d.evaluation import scores

    scores.make(params.find(experiment), answers, prompts, out)


@app.command("factorisation")
def make_factorisation(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the trajectories in the experiment.")],
    model: Annotated[Path, typer.Option(help="Manifest of a teacher or a student.")],
    out: Out,
    shards: Annotated[list[Path], typer.Argument(help="Manifests of the trajectory shards.")],
) -> None:
    """Score every state of recorded full-step rollouts, for the factorisation error."""
    from t3d.evaluation import factorisation

    factorisation.make(params.find(experiment), model, name, shards, out)


@app.command("table")
def make_table(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the table in the experiment.")],
    out: Annotated[Path, typer.Option(help="CSV to write; Markdown and LaTeX lie beside it.")],
    scores: ScoreManifests,
) -> None:
    """Build a table. Scores made with other parameters than the experiment's are refused."""
    from t3d.reporting import tables

    tables.write(params.find(experiment), name, scores, out)


@app.command("figure")
def make_figure(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the figure in the experiment.")],
    out: Annotated[Path, typer.Option(help="PDF to write; a PNG lies beside it.")],
    material: Annotated[list[Path], typer.Argument(help="Manifests of what it is drawn from, by its kind.")],
) -> None:
    """Draw a figure. What was made with other parameters than the experiment's is refused."""
    from t3d.reporting import figures

    figures.write(params.find(experiment), name, material, out)


@app.command("report")
def make_report(
    experiment: ExperimentName,
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
) -> None:
    """Write one HTML page of the tables and figures that are there, with provenance, costs and trajectories."""
    from t3d.reporting import page

    page.write(params.find(experiment), out)
    print(f"The report is in {out}: open it in a browser, no network is needed.")


@app.command("verify")
def verify_made(
    what: Annotated[Literal["models", "tables"], typer.Argument(help="What models make, or the tables of that.")],
    experiment: ExperimentName = "demo",
) -> None:
    """Check that what is on disk is complete and was made with the experiment's parameters."""
    from t3d.provenance import verify

    found = params.find(experiment)
    if what == "models":
        count = verify.models(found)
        _check_prompts(found)
    else:
        from t3d.reporting import tables

        count = tables.check_all(found)
    print(f"{what}: {count} verified")


def _check_prompts(experiment: params.Experiment) -> None:
    """Check that no prompt set that is learned from holds a question that another asks."""
    from t3d.prompts import reader
    from t3d.provenance import store

    paths = [store.manifest_path(experiment, f"prompts/{name}") for name in experiment.prompt_sets]
    reader.check_disjoint(reader.read_prompts(store.read(path)) for path in paths if path.is_file())


@app.command("publish")
def publish_experiment(experiment: ExperimentName = "demo", remote: Remote = None) -> None:
    """Verify what an experiment made, write its archive for git, and push the rest with DVC. Never from a job."""

    from t3d.provenance import publish
    from t3d.reporting import tables

    def check(made: params.Experiment) -> None:
        _check_prompts(made)
        tables.check_all(made)

    kept = publish.publish(params.find(experiment), remote, check)
    print("Published. Keep the versions in git:\n  git add " + " ".join(map(str, kept)) + "\n  git commit")


@app.command("pull")
def pull_published(
    what: Annotated[str, typer.Argument(help="scores (from git), students (through DVC, too), or all.")] = "scores",
    experiment: ExperimentName = "demo",
    remote: Remote = None,
) -> None:
    """Get back what an experiment published, so that Snakemake knows it and makes nothing again."""
    from t3d.provenance import publish

    count = publish.pull(params.find(experiment), what, remote)
    print(f"{count} files are here as they were published.")


@app.command("trace")
def trace_cell(
    table: Annotated[Path, typer.Argument(help="results/table1.csv, or a table of another experiment below results/.")],
    cell: Annotated[
        str | None, typer.Option(help="row/column/budget, t3d/gsm/b8s2 for example; all are listed.")
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="Whose table; found from its path.")] = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
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
def show_status(
    experiment: ExperimentName = "demo",
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show which tables and figures there are, what of each stage is made, what is running and what remains."""
    from rich.console import Console

    from t3d.terminal import status

    found = status.look(params.find(experiment))
    console = Console()
    if json:
        print(status.to_json(found))
    elif console.is_terminal:
        console.print(status.to_rich(found))
    else:
        print(status.to_text(found))


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

    if (text is None) == (question is None):
        raise ParameterError("ask one question: its text, or --question with the id of a recorded one.")
    if teacher and student:
        raise ParameterError("give --teacher or --student; --compare shows the other beside it.")
    found = params.find(experiment)
    asked = [(student or teacher, budget)]
    for item in compare or []:
        other, _, how = item.rpartition("@") if "@" in item else (item, "", "")
        asked.append((other or student or teacher, how or budget))
    # What cannot be asked is said before the first model is loaded.
    models = [
        (decode.find_model(found, name, seed), decode.parse_budget(chosen) if chosen else None)
        for name, chosen in asked
    ]
    answers = []
    for model, at in models:
        if question is not None:
            answers.append(decode.recorded(found, model, at, question))
        elif text is not None:
            answers.append(decode.answer(found, model, at, text, max_new_tokens))
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

    print(cost.report(params.find(experiment), gpu))


def _done_by_several(experiment: params.Experiment, field: str, processes: int | None) -> bool:
    """Start the processes that do this verb together, and see it done; False if this one is to do it.

    Args:
        experiment: whose `field` is their number, unless it is given.
        field: `training_processes` or `decoding_processes`.
        processes: their number on the command line.
    """
    processes = processes or getattr(experiment, field)
    if processes == 1:
        return False
    from t3d.distributed.collectives import is_one_of_several

    if is_one_of_several():
        return False
    from t3d.distributed import launch

    launch.launch(experiment, field, processes, sys.argv[1:])
    return True


def main() -> None:
    """Run the command line; an expected error is one message and exit status 1."""
    # PyTorch and transformers make a million objects that live to the end. Looking for garbage among them as they load,
    # and once more at exit, took a third of a short job.
    gc.set_threshold(100_000, 20, 20)
    atexit.register(gc.freeze)
    try:
        app()
    except T3DError as error:
        print(f"t3d: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
