# Which experiment, which file an artefact is, and what each rule needs (`t3d/provenance/lineage.py` knows).

import hashlib
import json
import sys
from functools import cache

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from t3d import params
from t3d.errors import T3DError
from t3d.provenance import lineage, recipes, store, texts, unseen
from t3d.terminal import cost, doctor, parent

min_version("9.27")

if unknown := config.keys() - {"experiment"}:
    raise WorkflowError(f"--config {', '.join(sorted(unknown))}: unknown; the only key is `experiment`.")
try:
    E = params.find(config.get("experiment", "demo"))
    # Here, since an error of an input function comes with a traceback; Snakemake itself knows its targets later.
    unseen.check_targets(E, sys.argv[1:])
except T3DError as error:
    raise WorkflowError(str(error)) from error

# Jobs are children of one process that has loaded what they need.
parent.offer()

LOGS = f"logs/{E.name}"
METRICS = str(lineage.metrics_of(E))
# The rules run in the environment that calls Snakemake; their `conda:` line says which file describes it.
# A CPU job is one thread: two small jobs side by side do more than one job on two cores.
CORES = 8 if E.gpus else 1
# Time and memory that jobs ask a scheduler for; twice as much at the second attempt.
JOB_RESOURCES = cost.job_resources(E)


wildcard_constraints:
    name="[^/]+",
    shard=r"(?:seed-?\d+-)?\d+-of-\d+",
    budget=r"b\d+[st][\d.]+",


def manifest(artefact):
    """Path of an artefact's manifest: the edge between two stages."""
    return str(store.manifest_path(E, artefact))


def recipe(artefact):
    """Digest of what decides the content of `artefact`, a name with wildcards; a change of it plans it again."""
    return lambda wildcards: recipes.digest(E, artefact.format(**wildcards))


def check_machine(settings):
    """Say in a dry run, and before a run stop for, what would stop one of its jobs hours later."""
    if not workflow.is_rule("answers"):
        return
    # A dry run counts as local, whatever the profile.
    here = workflow.local_exec and not any("slurm" in word for word in sys.argv)
    if found := doctor.stops(E, unseen.artefacts_behind(E, settings.targets), here):
        said = "\n".join([*found, f"All that is needed: t3d doctor --experiment {E.name}"])
        # Who runs a part may score what it answers on another machine.
        if not workflow.dryrun and not settings.until and not settings.omit_from:
            raise WorkflowError(f"A job would fail for this:\n{said}")
        print(f"Before the first job:\n{said}", file=sys.stderr)


@cache
def check_unseen():
    """Stop if Snakemake would take for finished what is not (`t3d/provenance/unseen.py`)."""
    settings = workflow.dag_settings
    forces_rules = any("/" not in forced for forced in settings.forcerun)
    # The processes that run single jobs read this file as well. Whoever forces rules knows what has to be made again.
    if not workflow.is_main_process or settings.forceall or settings.forcetargets or forces_rules:
        return
    check_machine(settings)
    made_here = [folder for folder, rule in (("data/", "answers"), ("results/", "table")) if workflow.is_rule(rule)]
    found = {
        path: why
        for path, why in unseen.files_behind(E, settings.targets, settings.forcerun).items()
        if path.startswith(tuple(made_here)) and path not in settings.forcerun
    }
    if found:
        path, why = next(iter(found.items()))
        raise WorkflowError(
            f"{why} Snakemake would take {path} for finished. To make it again, end the command line with\n"
            f"--forcerun {' '.join([*settings.forcerun, *found])}"
        )


def inputs(artefact):
    """For `unpack`: option of the rule's verb -> manifests of what `artefact`, a name with wildcards, is made from."""

    def given(wildcards):
        check_unseen()
        named = lineage.named_inputs_of(E, artefact.format(**wildcards))
        return {option: [manifest(source) for source in sources] for option, sources in named.items()}

    return given


def material(product):
    """Manifests of what a table or figure is made from."""
    check_unseen()
    return [manifest(artefact) for artefact in lineage.inputs_of_target(E, product)]


def can_be_made():
    """The default tables and figures."""
    return list(lineage.targets(E))


def results():
    """Those of the default tables and figures that can be made, and the tables' copies in `results/`."""
    names = can_be_made()
    return [
        *(f"results/{name}" for name in names if name.endswith(".csv")),
        *(f"results/{E.name}/{name}" for name in names),
    ]


def on_the_page():
    """What decides the report's content besides its inputs: parameters, code, what was made on request before,
    published texts of answers, and the questions' files."""
    # Here, since a start of Snakemake need not load it.
    from t3d.prompts import asked

    extra = lineage.targets(E, on_request=True).keys() - lineage.targets(E).keys()
    paths = [Path("results", E.name, name) for name in sorted(extra)]
    if (published := texts.path_of(E)).is_file():
        paths += [published, *(path for asks in E.benchmarks.values() for path in asked.places(E, asks.prompts))]
    there = {path.as_posix(): store.sha256(path) for path in paths if path.is_file()}
    # Keys are not sorted, since rows follow the order of students.
    content = json.dumps([E.model_dump(mode="json"), there, recipes.code_of("reporting")])
    return hashlib.sha256(content.encode()).hexdigest()
