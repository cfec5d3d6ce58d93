# Which file an artefact is, and what each rule needs. `E` is the experiment, from the Snakefile.

from t3d import recipes
from t3d.receipts import MANIFEST
from t3d.trajectories.names import shard_names


def manifest(artefact):
    """Path of an artefact's manifest: the edge between two stages."""
    return f"{DATA}/{artefact}{MANIFEST}"


def recipe(artefact):
    """Digest of what decides an artefact's content; a change of it plans the artefact again."""
    return recipes.digest(E, artefact)


def student_of(run):
    return E.students[E.runs[run][0]]


def training_data(wildcards):
    student = student_of(wildcards.run)
    if student.prompts:
        return [manifest(f"prompts/{student.prompts}")]
    trajectories = E.trajectories[student.trajectories]
    shards = [f"trajectories/{student.trajectories}/{shard}" for shard in shard_names(trajectories.shards)]
    prompts = [f"prompts/{trajectories.prompts}"] if student.rows.prompt == "bare" else []
    return [manifest(artefact) for artefact in shards + prompts]


def model_manifest(wildcards):
    kind = "teachers" if wildcards.model in E.teachers else "students"
    return manifest(f"{kind}/{wildcards.model}")


def questions(wildcards):
    return manifest(f"prompts/{E.benchmarks[wildcards.benchmark].prompts}")


def scores_of(product):
    return [
        manifest(f"scores/{model}/{benchmark}/{budget}")
        for model in E.models_of(product)
        for benchmark in product.benchmarks
        for budget in product.budgets
    ]


def shown(product):
    """What decides a table's or figure's content besides its scores."""
    labels = [E.teachers[product.teacher].label, *(E.students[key].label for key in product.students)]
    return recipes.canonical([product.model_dump(mode="json"), labels])
