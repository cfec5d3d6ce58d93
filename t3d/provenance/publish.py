"""`t3d publish`, `t3d pull`: what the DAG made goes into git and to a DVC remote, and comes back as it was."""

import filecmp
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from t3d.errors import MissingInputError, ParameterError, PublishError
from t3d.params import Experiment
from t3d.provenance import archive, lineage, records, remote, store, verify
from t3d.provenance.files import exclusive
from t3d.provenance.store import MANIFEST

WHAT: dict[str, tuple[str, ...]] = {
    "scores": (),
    "students": ("teachers", "prompts", "students"),
    "all": ("",),
}
"""What `t3d pull` fetches besides the archive -> folders below `data/<experiment>/`."""


def publish(experiment: Experiment, to: str | None, checks: Iterable[Callable[[Experiment], object]]) -> list[Path]:
    """Verify everything an experiment made, write its archive, pin the rest with DVC, and push that.

    Args:
        experiment: an experiment of `dvc.yaml` whose tables and figures are up to date.
        to: DVC remote to push to; None for the configured one.
        checks: each raises a T3DError unless the experiment's prompt sets, or tables, are right.

    Returns:
        Files that git should keep.

    Raises:
        ParameterError: `dvc.yaml` does not list the experiment.
        PublishError: something is not up to date, or DVC fails.
        BusyError: another publication or fetch is running.
        T3DError: an artefact is damaged or does not belong to the parameters.
    """
    with _alone():
        remote.check_versioned(experiment.name)
        _check_up_to_date(experiment)
        strays = verify.strays(experiment)
        if strays:
            listed = "\n  ".join(str(path).removesuffix(MANIFEST) + "*" for path in strays)
            raise PublishError(
                f"experiment {experiment.name} no longer makes these, or makes them with other parameters; move or "
                f"delete them:\n  {listed}"
            )
        made = verify.made(experiment)
        verify.check_all(experiment, made.values())
        for check in checks:
            check(experiment)
        archive.write(experiment.name, made, records.to_lines(experiment))
        remote.push(experiment.name, to)
    return [Path("dvc.lock"), Path("results", experiment.name)]


def pull(experiment: Experiment, what: str, source: str | None = None) -> tuple[int, list[Path]]:
    """Get back what an experiment published, with Snakemake's records of it. No file that differs is replaced.

    Args:
        experiment: one that was published.
        what: a key of `WHAT`.
        source: DVC remote to fetch from; the configured one unless given.

    Returns:
        How many files are here as they were published: each was compared with its sha256; and those copies of tables
        in `results/` that are not this experiment's, and were left as they are.

    Raises:
        ParameterError: `what` is not one of these keys.
        MissingInputError: the experiment has not been published.
        CorruptArtefactError: what was published does not fit its index, its manifests or `dvc.lock`.
        PublishError: other files are in the way, or DVC cannot fetch it.
        BusyError: another publication or fetch is running.
    """
    if what not in WHAT:
        raise ParameterError(f"there is no {what!r} to pull: {', '.join(WHAT)}.")
    with _alone():
        here, noted = archive.restore(experiment)
        if folders := [Path("data", experiment.name, folder) for folder in WHAT[what]]:
            remote.fetch(experiment.name, folders, source)
            for path in (path for folder in folders for path in folder.rglob(f"*{MANIFEST}")):
                manifest = store.read(path)
                manifest.check(contents=True)
                here |= {str(path.parent / name) for name in manifest.files}
        left = _copy_tables(experiment, noted)
        records.restore({output: record for output, record in noted.items() if Path(output) not in left})
    return len(here), left


def _copy_tables(experiment: Experiment, noted: Collection[str]) -> list[Path]:
    """Copy tables to `results/`; Snakemake would make again what it has a record of and does not find.

    Returns:
        Copies that are another experiment's, or were changed: they stay.
    """
    left = []
    for name in experiment.tables:
        table, copy = Path("results", experiment.name, f"{name}.csv"), Path("results", f"{name}.csv")
        if copy.as_posix() not in noted:
            continue
        if not copy.exists() and table.is_file():
            shutil.copyfile(table, copy)
        elif copy.exists() and not (copy.is_file() and table.is_file() and filecmp.cmp(table, copy, shallow=False)):
            left.append(copy)
    return left


def remedy(experiment: Experiment, missing: dict[str, Path]) -> str | None:
    """The command that fetches what is missing for a table or figure, if there is one.

    Args:
        experiment: whose table or figure it is.
        missing: artefact -> file, as `verify.missing_of` says.
    """
    # The archive holds only the manifests of answers.
    if any(artefact.startswith("answers/") for artefact in missing):
        return remote.command(experiment.name)
    return _fetching(experiment, missing.values())


def _fetching(experiment: Experiment, paths: Collection[Path]) -> str | None:
    in_archive = len(store.archived(experiment.name, paths)) == len(paths)
    return store.pulling(experiment.name) if in_archive else remote.command(experiment.name)


def check_manifests(experiment: Experiment, artefacts: Iterable[str]) -> None:
    """Check that the manifests of artefacts are here.

    Args:
        experiment: whose artefacts they are.
        artefacts: their names, see `t3d.provenance`.

    Raises:
        MissingInputError: one is not here; the message has the command that fetches them, or else one that makes them.
    """
    paths = (store.manifest_path(experiment, artefact) for artefact in artefacts)
    if missing := [path for path in paths if not path.is_file()]:
        more = f" ({len(missing) - 1} more are missing)" if len(missing) > 1 else ""
        command = _fetching(experiment, missing)
        make = store.making(missing[0]) if len(missing) == 1 else store.making_all(experiment)
        remedy = f"fetch what was published ({command})" if command else f"make it first ({make})"
        raise MissingInputError(f"{missing[0]} is missing{more}: {remedy}.")


def _check_up_to_date(experiment: Experiment) -> None:
    """A dry run of the default targets, and of what was made on request."""
    results = Path("results") / experiment.name
    products = lineage.targets(experiment, on_request=True)
    asked = [results / name for name, product in products.items() if product.on_request]
    targets = ["all", *(str(path) for path in asked if path.is_file())]
    command = [sys.executable, "-P", "-m", "snakemake", "--dry-run", *targets]
    done = subprocess.run([*command, "--config", f"experiment={experiment.name}"], capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode or "Nothing to be done" not in said:
        raise PublishError(
            f"not everything is up to date; run {store.making_all(experiment)} first. A dry run says:\n{said[-2000:]}"
        )


@contextmanager
def _alone() -> Iterator[None]:
    """One publication or fetch at a time: DVC's calls fail on each other's locks."""
    folder = Path(".dvc")
    if not (folder / "config").is_file():
        raise MissingInputError(".dvc/config is missing: run this in the project's folder.")
    with exclusive(folder / "tmp" / "t3d", "the DVC cache"):
        yield
