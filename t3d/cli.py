"""`t3d <verb>`: one verb per rule of the workflow. Each rule's command line can be typed by hand.

Manifests (`<artefact>.manifest.json`) stand for artefacts: inputs are manifests, `--out` the one that is written last.
`terminal/verbs.py` has the other verbs.
"""

import atexit
import gc
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from t3d.distributed import launch
from t3d.errors import in_a_sentence
from t3d.terminal import client, verbs
from t3d.terminal.verbs import RULES, YOURS, ExperimentName, Verb, find

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Out = Annotated[Path, typer.Option(help="Manifest to write, <artefact>.manifest.json; the artefact lies beside it.")]
TeacherManifest = Annotated[Path, typer.Option(help="Manifest of the teacher.")]
GenerationsName = Annotated[str, typer.Option(help="Key of the generations in the experiment.")]
PromptsManifest = Annotated[Path, typer.Option(help="Manifest of the prompt set.")]
ModelManifest = Annotated[Path, typer.Option(help="Manifest of a teacher or a student.")]
Manifests = list[Path] | None
BenchmarkName = Annotated[str, typer.Option(help="Key of a benchmark, gsm8k.")]
Processes = Annotated[
    int | None,
    typer.Option(min=1, max=4096, help="Processes that do it together; the experiment's number if not given."),
]

# Imports are inside the verbs: PyTorch and lm-eval take seconds to load, and `--help` needs neither.


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        from t3d.provenance.environment import git_commit

        commit = git_commit()
        print(f"t3d {version('t3d')}" + (f", commit {commit}" if commit else ""))
        raise typer.Exit


@app.callback()
def t3d(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print version and commit.")
    ] = False,
) -> None:
    """Few-step diffusion language models by trajectory self-distillation.

    Snakemake runs the verbs of the first group, in this order; `snakemake -n results/table1.csv` shows which.
    Each can be run by hand. An option for manifests takes all of them up to the next option.
    """


@app.command("fetch", rich_help_panel=RULES)
def fetch_source(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the source in the experiment.")],
    work: Annotated[Path, typer.Option(help="Folder for downloads in progress.")],
    out: Out,
) -> None:
    """Fetch a repository's files from the hub and check them. One that is not pinned: its pin is printed."""
    from t3d.prompts import sources

    sources.make(find(experiment), name, work, out)


@app.command("teacher", cls=Verb, rich_help_panel=RULES)
def make_teacher(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the teacher in the experiment.")],
    out: Out,
    source: Annotated[Manifests, typer.Option(help="Manifest of the fetched folder, of a teacher of the hub.")] = None,
    teacher: Annotated[Manifests, typer.Option(help="Manifest of the model that its training begins with.")] = None,
    shards: Annotated[Manifests, typer.Option(help="Manifests of its answers and of verdicts, to convert.")] = None,
    processes: Processes = None,
) -> None:
    """Make a teacher: pretrain or convert it, or take the weights that are shipped or fetched.

    Training that was killed resumes from its last state, beside --out in <artefact>.states.
    """
    found = find(experiment)
    converts = name in found.teachers and found.teachers[name].source == "convert"
    if not converts or not launch.done_by_several(found, "training_processes", processes):
        from t3d.teachers import teacher as teachers

        teachers.make(found, name, out, *(source or ()), *(teacher or ()), *(shards or ()))


@app.command("prompts", cls=Verb, rich_help_panel=RULES)
def make_prompts(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the prompt set in the experiment.")],
    teacher: TeacherManifest,
    out: Out,
    shards: Annotated[Manifests, typer.Option(help="Manifests of what a model wrote, if they come from there.")] = None,
    source: Annotated[Manifests, typer.Option(help="Manifests of the fetched files that hold questions.")] = None,
    prompts: Annotated[Manifests, typer.Option(help="Manifest of the examples that stand before openings.")] = None,
) -> None:
    """Draw the questions of a prompt set and tokenise them for a teacher."""
    from t3d.prompts import sets

    sets.make(find(experiment), name, teacher, out, *(shards or ()), *(source or ()), *(prompts or ()))


@app.command("generate", rich_help_panel=RULES)
def make_generations(
    experiment: ExperimentName,
    name: GenerationsName,
    shard: Annotated[str, typer.Option(help="Which part of the prompts, 0-of-2 for example.")],
    teacher: Annotated[Path, typer.Option(help="Manifest of the autoregressive teacher.")],
    prompts: PromptsManifest,
    out: Out,
    processes: Processes = None,
) -> None:
    """Draw an autoregressive teacher's own answers to prompts: one shard of what its conversion learns from."""
    found = find(experiment)
    if not launch.done_by_several(found, "decoding_processes", processes):
        from t3d.trajectories import generations

        generations.make(found, name, shard, teacher, prompts, out)


@app.command("judge", rich_help_panel=RULES)
def make_verdicts(
    experiment: ExperimentName,
    name: GenerationsName,
    shard: Annotated[str, typer.Option(help="Which shard of their answers, 0-of-2 for example.")],
    teacher: Annotated[Path, typer.Option(help="Manifest of the autoregressive teacher, for its tokenizer.")],
    prompts: PromptsManifest,
    answers: Annotated[Path, typer.Option(help="Manifest of the shard of answers.")],
    out: Out,
) -> None:
    """Judge an autoregressive teacher's own answers, so that its conversion can learn from right ones only."""
    from t3d.evaluation import verdicts

    verdicts.make(find(experiment), name, shard, [teacher, prompts, answers], out)


@app.command("rollout", cls=Verb, rich_help_panel=RULES)
def make_trajectories(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the trajectories in the experiment.")],
    shard: Annotated[str, typer.Option(help="Which part of the prompts, 0-of-2 for example.")],
    teacher: TeacherManifest,
    prompts: PromptsManifest,
    out: Out,
    student: Annotated[
        Manifests, typer.Option(help="Manifest of the student that decodes in the teacher's place.")
    ] = None,
    processes: Processes = None,
) -> None:
    """Record a full-step decoding of prompts by a teacher or a student, or read an `imported` one: one shard."""
    found = find(experiment)
    if name in found.trajectories and found.trajectories[name].imported is not None:
        from t3d.trajectories import step_maps

        step_maps.make(found, name, shard, teacher, prompts, out)
    elif not launch.done_by_several(found, "decoding_processes", processes):
        from t3d.trajectories import rollout

        rollout.make(found, name, shard, teacher, prompts, out, *(student or ()))


@app.command("distill", cls=Verb, rich_help_panel=RULES)
def make_student(
    experiment: ExperimentName,
    run: Annotated[str, typer.Option(help="Student and seed, t3d-seed0 for example.")],
    teacher: TeacherManifest,
    work: Annotated[Path, typer.Option(help="Folder for resumable training states.")],
    out: Out,
    data: Annotated[list[Path], typer.Option(help="Manifests of trajectory shards or prompt sets.")],
    student: Annotated[Manifests, typer.Option(help="Manifest of the student that its training begins with.")] = None,
    processes: Processes = None,
) -> None:
    """Train a student. Killed or requeued, it resumes from its last state in --work."""
    from t3d.provenance import lineage

    found = find(experiment)
    lineage.check_processes(found, run, processes or found.training_processes)
    if not launch.done_by_several(found, "training_processes", processes):
        from t3d.distillation import trainer

        trainer.make(found, run, teacher, [*(student or ()), *data], work, out)


@app.command("generate-answers", rich_help_panel=RULES)
def make_answers(
    experiment: ExperimentName,
    benchmark: BenchmarkName,
    budget: Annotated[str, typer.Option(help="b8s2 (block 8, 2 steps) or b8t0.9 (block 8, threshold .9).")],
    model: ModelManifest,
    prompts: PromptsManifest,
    out: Out,
    processes: Processes = None,
) -> None:
    """Answer a benchmark with a model at a step budget; an autoregressive model (b1s1) through vLLM."""
    from t3d.params import AUTOREGRESSIVE

    found = find(experiment)
    # vLLM runs in a separate process.
    if budget == AUTOREGRESSIVE or not launch.done_by_several(found, "decoding_processes", processes):
        from t3d.evaluation import answers

        answers.make(found, benchmark, budget, model, prompts, out)


@app.command("score", rich_help_panel=RULES)
def make_score(
    experiment: ExperimentName,
    answers: Annotated[Path, typer.Option(help="Manifest of the answers.")],
    prompts: PromptsManifest,
    out: Out,
) -> None:
    """Score recorded answers: programs in a sandbox, others through lm-eval; needs no GPU and no model."""
    from t3d.evaluation import scores

    scores.make(find(experiment), answers, prompts, out)


@app.command("factorisation", cls=Verb, rich_help_panel=RULES)
def make_factorisation(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the trajectories in the experiment.")],
    model: ModelManifest,
    out: Out,
    shards: Annotated[list[Path], typer.Option(help="Manifests of the trajectory shards.")],
) -> None:
    """Score every state of recorded full-step rollouts, for the factorisation error."""
    from t3d.evaluation import factorisation

    factorisation.make(find(experiment), model, name, shards, out)


@app.command("table", cls=Verb, rich_help_panel=RULES)
def make_table(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the table in the experiment.")],
    out: Annotated[Path, typer.Option(help="CSV to write; Markdown and LaTeX lie beside it.")],
    scores: Annotated[list[Path], typer.Option(help="Manifests of the scores it shows.")],
) -> None:
    """Build a table. Scores made with other parameters than the experiment's are refused."""
    from t3d.reporting import tables

    tables.write(find(experiment), name, scores, out)


@app.command("figure", cls=Verb, rich_help_panel=RULES)
def make_figure(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the figure in the experiment.")],
    out: Annotated[Path, typer.Option(help="PDF to write; a PNG lies beside it.")],
    material: Annotated[list[Path], typer.Option(help="Manifests of what it is drawn from, by its kind.")],
) -> None:
    """Draw a figure. What was made with other parameters than the experiment's is refused."""
    from t3d.reporting import figures

    figures.write(find(experiment), name, material, out)


@app.command("report", rich_help_panel=RULES)
def make_report(
    experiment: ExperimentName,
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
) -> None:
    """Write one HTML page of the tables and figures that are there, with provenance, costs and trajectories."""
    from t3d.reporting import page

    page.write(find(experiment), out)
    print(f"The report is in {out}: open it in a browser, no network is needed.")


@app.command("evaluate", rich_help_panel=YOURS)
def evaluate_checkpoint(
    model: Annotated[str, typer.Argument(help="Folder of a model, or a fetched source of the experiment.")],
    benchmark: BenchmarkName,
    budget: Annotated[list[str], typer.Option(help="b4s2 (block 4, 2 steps) or b4t0.9 (threshold .9). Repeatable.")],
    like: Annotated[str, typer.Option(help="Experiment whose benchmark it is: paper has the paper's.")] = "demo",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Number format of decoding.")] = "bfloat16",
    mask_token: Annotated[str | None, typer.Option(help="Its mask token, if the folder does not name it.")] = None,
    spread: Annotated[bool, typer.Option("--spread", help="In both formats and batches of 1, 8 and 128.")] = False,
) -> None:
    """Score a checkpoint that belongs to no experiment: accuracy with its interval, and a receipt."""
    from t3d import params
    from t3d.evaluation import checkpoint
    from t3d.teachers import teacher
    from t3d.terminal import card

    budgets = [str(params.read_budget(text)) for text in budget]
    own = checkpoint.experiment_of(find(like), model, benchmark, mask_token)
    for text in budgets:
        if spread:
            print(card.spread(own, checkpoint.invariance(own, text, teacher.make, teacher.check_folder)))
        else:
            print(card.line(own, checkpoint.score(own, dtype, text, teacher.make, teacher.check_folder)))


@app.command(
    "lm-eval", rich_help_panel=YOURS, context_settings={"ignore_unknown_options": True, "help_option_names": []}
)
def run_lm_eval(
    words: Annotated[list[str] | None, typer.Argument(help="lm-eval's own words and options.", metavar="...")] = None,
) -> None:
    """Hand over to lm-eval's command line with our model: --model_args pretrained=FOLDER,budget=b4s2 --tasks gsm8k."""
    # The tasks of lm-eval fetch their questions; the workflow's own never do.
    os.environ.setdefault("HF_HUB_OFFLINE", "0")
    from t3d.evaluation import lm_eval_model

    lm_eval_model.main(words or [])


@app.command("step-maps", rich_help_panel=YOURS)
def convert_step_maps(
    source: Annotated[Path, typer.Argument(help="Trajectories: a shard (.parquet), or dLLM-RL's JSON.")],
    out: Annotated[Path, typer.Argument(help="The other of the two, to write.")],
    model: Annotated[Path, typer.Option(help="Folder of the model that decoded, for its tokenizer.")],
    budget: Annotated[str | None, typer.Option(help="b4s4; of JSON that t3d did not write.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=100, help="Of such JSON.")] = 1.0,
) -> None:
    """Write trajectories for dLLM-RL, or read its: rows of prompt, response and step_map."""
    from t3d.trajectories import step_maps

    print(step_maps.convert(source, out, model, budget, temperature))


app.add_typer(verbs.app)


def main() -> None:
    """Run the command line; an expected error is one message and exit status 1."""
    # Looking for garbage as modules load, and once more at exit, took a third of a short job.
    client.collect_seldom()
    atexit.register(gc.freeze)
    # No process that is started from here takes a file of the working directory for a module.
    os.environ["PYTHONSAFEPATH"] = "1"
    with in_a_sentence():
        app()


if __name__ == "__main__":
    main()
