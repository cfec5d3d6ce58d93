"""What Snakemake would take for finished although it is not.

Snakemake sees a changed parameter by its records alone, looks for the inputs of jobs that run, not for those of files
that exist, and knows manifests, not the files that they list. So it plans nothing in four cases:

- a fresh clone has tables and figures, from git, and neither their scores nor records;
- after `rm -rf .snakemake` a student exists whose learning rate was changed since;
- a manifest, or a file that one lists, is damaged (sizes are compared, no content is hashed);
- a job needs the weights of a student of which only the manifest is here.

The rules ask here before anything runs (`workflow/rules/common.smk`), and stop with what to type.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from t3d.errors import CorruptArtefactError, MissingInputError, ParameterError, T3DError
from t3d.params import Experiment, Product
from t3d.provenance import lineage, records, store, verify
from t3d.provenance.store import MANIFEST, manifest_path

_RESULTS = Path("results")


def check_targets(experiment: Experiment, targets: Iterable[str]) -> None:
    """Check that words of a command line that are files below `data/` and `results/` are made by an experiment.

    Raises:
        ParameterError: one is not; the message says what there is.
    """
    data, results = f"data/{experiment.name}/", f"{_RESULTS}/"
    kinds = {"table": (".csv", ".md", ".tex"), "figure": (".pdf", ".png")}
    others = (f"{results}report.html", str(lineage.metrics_of(experiment)))
    for target in map(str, targets):
        name, suffix = Path(target).stem, Path(target).suffix
        of = store.owner(Path(target)) if suffix else None
        if of not in (None, experiment.name) and Path("params", f"{of}.yaml").is_file():
            raise ParameterError(f"{target} is of experiment {of}, not {experiment.name}: add --config experiment={of}")
        if target.startswith(data) and target.endswith(MANIFEST):
            lineage.origins_of(experiment, [target.removeprefix(data).removesuffix(MANIFEST)])
        elif target.startswith(results) and suffix and target not in others:
            for kind, suffixes in kinds.items():
                known = list(experiment.tables if kind == "table" else experiment.figures)
                if suffix in suffixes and name not in known:
                    raise ParameterError(
                        f"{target}: params/{experiment.name}.yaml has no {kind} {name!r}; it has "
                        f"{', '.join(known) or 'none'}."
                    )
            if not any(suffix in suffixes for suffixes in kinds.values()):
                files = [f"{results}{name}" for name in lineage.targets(experiment, on_request=True)]
                raise ParameterError(f"{target} is made by no rule. There are {', '.join([*files, *others])}.")
        for file in (f"{target}.csv", f"figures/{target}.pdf"):
            if file in lineage.targets(experiment, on_request=True):
                raise ParameterError(f"{target} is no rule; type {results}{file}.")


def artefacts_behind(experiment: Experiment, targets: Iterable[str]) -> list[str]:
    """Every artefact behind targets, as `files_behind` takes them, inputs before what is made from them."""
    return lineage.origins_of(experiment, _asked(experiment, list(targets))[1])


def files_behind(experiment: Experiment, targets: Iterable[str], forced: Collection[str] = ()) -> dict[str, str]:
    """File behind targets that would not be made again -> a sentence that says why it should be.

    Args:
        experiment: that is run.
        targets: of Snakemake's command line, files or names of rules; the default ones if there are none.
        forced: files that Snakemake is told to make again.

    Returns:
        Manifests of artefacts, tables, figures and their copies. What follows from such an artefact is made again with
        it.
    """
    targets = list(targets)
    products, artefacts = _asked(experiment, targets)
    named = {path.as_posix() for path in _named(targets)}
    stale = _stale(experiment, artefacts, forced)
    return stale | {path: why for path, why in _taken(experiment, products, named) if path not in stale}


def made_again(
    edges: Mapping[str, list[str]],
    changed: Iterable[str],
    wanted: Collection[str],
    absent: Collection[str],
    hollow: Collection[str],
    loose: Collection[str] = (),
) -> set[str]:
    """What a run makes.

    Args:
        edges: artefact, table or figure -> what it is made from.
        changed: what does not fit.
        wanted: what the run's targets ask for.
        absent: artefacts without a manifest: made if a target or a job asks for them.
        hollow: artefacts with a manifest, and without a file that it lists: made if a job reads them.
        loose: of what has edges, what does not read those files.
    """
    made, read, needed = set(changed), set[str](), set(wanted)
    before = -1
    while before != len(made):
        before = len(made)
        needed.update(source for name in made for source in edges.get(name, ()))
        read.update(source for name in made if name not in loose for source in edges.get(name, ()))
        made |= needed.intersection(absent) | read.intersection(hollow)
        made |= {name for name, sources in edges.items() if not made.isdisjoint(sources)}
    return made


def _stale(experiment: Experiment, artefacts: Collection[str], forced: Collection[str]) -> dict[str, str]:
    """Artefacts that have to be made again, and of which Snakemake does not know it: the first of each chain."""
    behind = lineage.origins_of(experiment, artefacts)
    paths = {artefact: str(manifest_path(experiment, artefact)) for artefact in behind}
    unknown: dict[str, str] = {}
    known = {artefact for artefact, path in paths.items() if path in forced}
    absent: set[str] = set()
    hollow: dict[str, str] = {}
    for artefact, path in paths.items():
        try:
            manifest = verify.read(experiment, artefact)
            try:
                manifest.check(contents=False)
            except MissingInputError as error:
                hollow[artefact] = str(error)
        except MissingInputError:
            absent.add(artefact)
            continue
        except CorruptArtefactError as error:
            unknown[artefact] = str(error)
            continue
        try:
            verify.check(experiment, manifest)
        except MissingInputError:
            continue
        except T3DError as error:
            # Snakemake sees by its record that a parameter was changed.
            if records.has(path):
                known.add(artefact)
            else:
                unknown[artefact] = str(error)
    edges = {artefact: lineage.inputs_of(experiment, artefact) for artefact in behind}
    made = made_again(edges, known | unknown.keys(), artefacts, absent, hollow)
    unknown |= {artefact: why for artefact, why in hollow.items() if artefact in made}
    found: dict[str, str] = {}
    stale: set[str] = set()
    for artefact in behind:
        if artefact in unknown and stale.isdisjoint(lineage.origins_of(experiment, edges[artefact])):
            found[paths[artefact]] = unknown[artefact]
        if artefact in unknown or artefact in known:
            stale.add(artefact)
    return found


def _taken(experiment: Experiment, products: dict[str, Product], named: set[str]) -> Iterator[tuple[str, str]]:
    """Tables and figures that Snakemake takes as they are. It looks for what they show unless they are `named`."""
    for path, product in products.items():
        if not Path(path).is_file():
            continue
        missing = verify.missing_of(experiment, product)
        for artefact, file in missing.items():
            manifest = manifest_path(experiment, artefact)
            if manifest.is_file():
                yield (
                    str(manifest),
                    f"{file} is missing." if file != manifest else str(verify.fault(experiment, artefact)),
                )
        # What Snakemake noted no use of changes the set of inputs, which it sees: a new budget, a new row.
        noted = set(records.of(path).get("input", []))
        known = not noted or all(str(manifest_path(experiment, artefact)) in noted for artefact in missing)
        if missing and path in named and known:
            first = next(iter(missing.values()))
            yield path, f"{path} shows {first}, which is {'damaged' if first.is_file() else 'missing'}."
        elif not missing and not records.has(path) and not _is_older(path, _shows(experiment, path, product)):
            yield path, f"There is no record of how {path} was made."


def _named(targets: Iterable[str]) -> list[Path]:
    """Files among targets; of a table or figure its first output."""
    suffixes = {".md": ".csv", ".tex": ".csv", ".png": ".pdf"}
    paths = [Path(target) for target in targets if Path(target).parent.parts]
    return [path.with_suffix(suffixes.get(path.suffix, path.suffix)) for path in paths]


def _asked(experiment: Experiment, targets: list[str]) -> tuple[dict[str, Product], list[str]]:
    """What targets ask for: tables, figures and their copies by path; and the artefacts that are named or shown."""
    inside = _RESULTS / experiment.name
    every = lineage.targets(experiment, on_request=True)
    made = {inside / name: product for name, product in every.items()}
    copies = {_RESULTS / name: product for name, product in every.items()}
    named = _named(targets)
    default = {path for path, product in made.items() if not product.on_request}
    default |= {_RESULTS / path.name for path in default if path.suffix == ".csv"}
    # A rule, or the report of all that is made by default.
    asked = default if not targets or len(named) < len(targets) or _RESULTS / "report.html" in named else set()
    asked = asked | {*named, *(inside / path.relative_to(_RESULTS) for path in named if path in copies)}
    data = Path("data", experiment.name)
    manifests = [path for path in named if path.is_relative_to(data) and path.name.endswith(MANIFEST)]
    artefacts = [path.relative_to(data).as_posix().removesuffix(MANIFEST) for path in manifests]
    products = {path.as_posix(): product for path, product in (made | copies).items() if path in asked}
    artefacts += [a for product in products.values() for a in lineage.inputs_of_target(experiment, product)]
    return products, artefacts


def _shows(experiment: Experiment, path: str, product: Product) -> list[Path]:
    """Files whose times Snakemake compares with those of a table, a figure or a copy."""
    inside = _RESULTS / experiment.name
    if not Path(path).is_relative_to(inside):
        return [inside / Path(path).relative_to(_RESULTS)]
    return [manifest_path(experiment, artefact) for artefact in lineage.inputs_of_target(experiment, product)]


def _is_older(path: str, others: Iterable[Path]) -> bool:
    made = Path(path).stat().st_mtime
    return any(other.stat().st_mtime > made for other in others if other.is_file())
