# Which experiment, which file an artefact is, and what each rule needs (`t3d/lineage.py` knows).

import hashlib

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from t3d import cost, lineage, params, receipts, recipes
from t3d.errors import T3DError
from t3d.versions import code

min_version("9.27")

try:
    E = params.find(config.get("experiment", "demo"))
except T3DError as error:
    raise WorkflowError(str(error)) from error

LOGS = f"logs/{E.name}"
# The rules run in the environment that calls Snakemake; their `conda:` line says which file describes it.
# A CPU job is one thread: two small jobs side by side do more than one job on two cores.
CORES = 8 if E.gpus else 1
# Time and memory that jobs ask a scheduler for; twice as much at the second attempt.
ASKED = cost.asked(E)


wildcard_constraints:
    name="[^/]+",
    shard=r"(?:seed-?\d+-)?\d+-of-\d+",
    budget=r"b\d+[st][\d.]+",


def manifest(artefact):
    """Path of an artefact's manifest: the edge between two stages."""
    return str(receipts.manifest_path(E, artefact))


def recipe(artefact):
    """Digest of what decides an artefact's content; a change of it plans the artefact again."""
    return recipes.digest(E, artefact)


def inputs(artefact):
    """Manifests of what an artefact is made from, its model first."""
    return [manifest(source) for source in lineage.inputs_of(E, artefact)]


def material(product):
    """Manifests of what a table or figure is made from."""
    return [manifest(artefact) for artefact in lineage.material_of(E, product)]


def results():
    """The tables and figures that are made unasked, and the tables' copies under the name everybody asks for."""
    copies = [f"results/{name}.csv" for name, table in E.tables.items() if not table.on_request]
    return [*copies, *(f"results/{E.name}/{name}" for name in lineage.products_of(E))]


def stage(name):
    """Manifests of a stage of `dvc.yaml`: what the tables and figures that are made unasked need of it."""
    try:
        lineage.check_versionable(E)
    except T3DError as error:
        raise WorkflowError(str(error)) from error
    products = lineage.products_of(E).values()
    return [manifest(a) for a in lineage.artefacts_of(E, products) if lineage.stage_of(a) == name]


def shown(product, kind):
    """What decides a table's or figure's content besides its material: parameters, labels and code."""
    labels = {key: model.label for models in (E.teachers, E.students, E.benchmarks) for key, model in models.items()}
    return recipes.canonical([product.model_dump(mode="json"), labels, code.digest(kind)])


def on_the_page():
    """What decides the report's content besides its inputs: parameters, code, and what was made on request before."""
    extra = lineage.products_of(E, on_request=True).keys() - lineage.products_of(E).keys()
    paths = [Path("results", E.name, name) for name in sorted(extra)]
    there = {path.as_posix(): receipts.sha256(path) for path in paths if path.is_file()}
    content = recipes.canonical([E.model_dump(mode="json"), there, code.digest("page")])
    return hashlib.sha256(content.encode()).hexdigest()
