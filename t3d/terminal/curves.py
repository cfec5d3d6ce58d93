"""`t3d log`: the training curves that are here, for TensorBoard, or for trackio and Weights & Biases.

A run's `training.jsonl` stays the source; what is sent is a copy of it.
"""

from importlib import import_module
from pathlib import Path

from t3d.errors import MissingInputError, ParameterError
from t3d.params import Experiment
from t3d.provenance import lineage, recipes, store
from t3d.reporting.figures.training import read_log


def send(experiment: Experiment, to: str, out: Path) -> list[str]:
    """Send every number of every training that is here, by optimizer step; return their artefacts.

    Args:
        experiment: whose trainings they are.
        to: `tensorboard`; or a module with `init`, `log` and `finish`: `trackio`, `wandb`.
        out: folder of TensorBoard's files; each run has its own in it.

    Raises:
        MissingInputError: no training is here, or the package is not installed.
        ParameterError: `out` has files of such a run.
        T3DError: a log cannot be read.
    """
    names = [f"students/{run}" for run in lineage.runs(experiment)]
    names += [f"teachers/{key}" for key, teacher in experiment.teachers.items() if teacher.source == "convert"]
    paths = {name: path for name in names if (path := store.manifest_path(experiment, name)).is_file()}
    if not paths:
        raise MissingInputError(f"experiment {experiment.name} has trained nothing here.")
    logs = {name: read_log(store.read(path)) for name, path in paths.items()}
    try:
        sink = import_module("torch.utils.tensorboard" if to == "tensorboard" else to)
    except ImportError as error:
        raise MissingInputError(f"{to} is not installed: pip install {to}.") from error
    for name, log in logs.items():
        run, rows = name.partition("/")[2], log.set_index("step").to_dict("index")
        numbers = {step: {key: value for key, value in row.items() if value == value} for step, row in rows.items()}
        if to == "tensorboard":
            folder = out / experiment.name / run
            if folder.exists():
                raise ParameterError(f"{folder} is there: remove it, or give another folder (--out).")
            with sink.SummaryWriter(str(folder)) as writer:
                for step, row in numbers.items():
                    for key, value in row.items():
                        writer.add_scalar(key, value, step)
        else:
            sink.init(project=f"t3d-{experiment.name}", name=run, config=recipes.artefact_params(experiment, name))
            for step, row in numbers.items():
                sink.log(row, step=step)
            sink.finish()
    return list(paths)
