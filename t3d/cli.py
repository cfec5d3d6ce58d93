"""`t3d <verb>`: one verb per rule of the workflow, each line of which can be typed by hand."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from t3d import params
from t3d.errors import T3DError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

ExperimentName = Annotated[str, typer.Option("--experiment", help="Name of a file in params/, without .yaml.")]
Out = Annotated[Path, typer.Option(help="The manifest to write, <artefact>.manifest.json; the artefact lies beside it.")]


@app.callback()
def verbs() -> None:
    """Few-step diffusion language models by trajectory self-distillation."""


@app.command("teacher")
def make_teacher(
    experiment: ExperimentName,
    name: Annotated[str, typer.Option(help="Key of the teacher in the experiment.")],
    out: Out,
) -> None:
    """Make a teacher: pretrain it, or take the weights that are shipped."""
    from t3d.models import teacher

    teacher.make(params.find(experiment), name, out)


def main() -> None:
    """Run the command line; an expected error is one message and exit status 1."""
    try:
        app()
    except T3DError as error:
        print(f"t3d: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
