"""`t3d publish`, `t3d pull`: what the DAG made goes to a DVC remote and comes back, so that nothing is made again."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from t3d import lineage
from t3d.errors import MissingInputError, ParameterError, PublishError
from t3d.params import Experiment
from t3d.params.yaml_files import read_yaml
from t3d.receipts import MANIFEST
from t3d.versions import records, verify

WHAT = {
    "scores": ("scores",),
    "students": ("teachers", "prompts", "students", "scores"),
    "all": ("teachers", "prompts", "trajectories", "students", "answers", "scores"),
}
"""What `t3d pull` fetches -> folders below `data/<experiment>/`."""
# The DVC remote that lies in the repository.
_IN_GIT = (Path("data") / "published",)


def publish(experiment: Experiment, remote: str | None = None) -> list[Path]:
    """Verify everything an experiment made, pin it with DVC, and push it.

    Args:
        experiment: an experiment of `dvc.yaml` whose tables and figures are up to date.
        remote: DVC remote to push to; the ones the configuration names unless given.

    Returns:
        Files that git should keep.

    Raises:
        ParameterError: `dvc.yaml` does not list the experiment, or cannot version it.
        PublishError: something is not up to date, another publication is running, or DVC fails.
        T3DError: an artefact is damaged or does not belong to the parameters.
    """
    with _alone():
        _check_is_versioned(experiment)
        _check_up_to_date(experiment)
        strays = verify.strays(experiment)
        if strays:
            listed = "\n  ".join(str(path).removesuffix(MANIFEST) + "*" for path in strays)
            raise PublishError(
                f"experiment {experiment.name} no longer makes these, or makes them with other parameters; move or "
                f"delete them:\n  {listed}"
            )
        root = Path("data") / experiment.name
        made = [p.relative_to(root).as_posix().removesuffix(MANIFEST) for p in sorted(root.rglob(f"*{MANIFEST}"))]
        verify.check(experiment, made, "verify")
        verify.stage(experiment, "tables")
        own = (f"data/{experiment.name}/", f"results/{experiment.name}/")
        copies = {f"results/{name}.csv" for name in experiment.tables}
        noted = {o: r for o, r in records.collect().items() if o.startswith(own) or o in copies}
        _dvc("commit", "--force", *(f"{stage}@{experiment.name}" for stage in lineage.STAGES))
        _dvc("push", *(["--remote", remote] if remote else []), *(f"{s}@{experiment.name}" for s in lineage.STAGES))
        kept = records.save(experiment.name, noted)
    return [*(Path("dvc.lock"), kept), *(path for path in _IN_GIT if path.is_dir()), Path("results") / experiment.name]


def pull(experiment: Experiment, what: str, remote: str | None = None) -> int:
    """Fetch what an experiment published, with Snakemake's records of it.

    Args:
        experiment: one that was published.
        what: a key of `WHAT`.
        remote: DVC remote to fetch from; the ones the configuration names unless given.

    Returns:
        How many outputs Snakemake knows again.

    Raises:
        ParameterError: `what` is none of them.
        PublishError: DVC cannot fetch it.
        MissingInputError: the experiment has not been published.
    """
    if what not in WHAT:
        raise ParameterError(f"there is no {what!r} to pull: {', '.join(WHAT)}.")
    if not records.path_of(experiment.name).is_file() or not Path("dvc.lock").is_file():
        raise MissingInputError(f"experiment {experiment.name} has not been published in this clone (t3d publish).")
    folders = [f"data/{experiment.name}/{kind}" for kind in WHAT[what]]
    with _alone():
        # Not --force: DVC leaves a local file alone that it does not know.
        _dvc("pull", *(["--remote", remote] if remote else []), *folders)
        for name in experiment.tables:
            table = Path("results") / experiment.name / f"{name}.csv"
            if table.is_file():
                shutil.copyfile(table, Path("results") / table.name)
        fetched = tuple(f"{folder}/" for folder in folders)
        return records.restore(experiment.name, lambda output: output.startswith((*fetched, "results/")))


def _check_is_versioned(experiment: Experiment) -> None:
    lineage.check_versionable(experiment)
    stages = read_yaml(Path("dvc.yaml"))["stages"]
    without = [stage for stage in lineage.STAGES if experiment.name not in stages[stage]["foreach"]]
    if without:
        raise ParameterError(
            f"dvc.yaml: experiment {experiment.name} is not in `foreach` of {', '.join(without)}; add it there first."
        )


def _check_up_to_date(experiment: Experiment) -> None:
    """A dry run of everything made unasked, and of what was made on request."""
    results = Path("results") / experiment.name
    products = lineage.products_of(experiment, on_request=True)
    asked = [results / name for name, product in products.items() if product.on_request]
    targets = ["all", *(str(path) for path in asked if path.is_file())]
    command = [sys.executable, "-m", "snakemake", "--dry-run", *targets, "--config", f"experiment={experiment.name}"]
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode or "Nothing to be done" not in said:
        raise PublishError(
            f"not everything is up to date; run snakemake --cores all --config experiment={experiment.name} first. "
            f"A dry run says:\n{said[-2000:]}"
        )


@contextmanager
def _alone() -> Iterator[None]:
    """One publication or fetch at a time: DVC's calls fail on each other's locks."""
    folder = Path(".dvc")
    if not (folder / "config").is_file():
        raise MissingInputError(".dvc/config is missing: run this in the project's folder.")
    (folder / "tmp").mkdir(exist_ok=True)
    with (folder / "tmp" / "t3d.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise PublishError(
                f"another t3d publish or pull is running here (process {file.read().strip() or '?'}). Wait for it."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _dvc(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise PublishError(f"dvc {arguments[0]} failed:\n{done.stderr.strip()[-2000:]}")
