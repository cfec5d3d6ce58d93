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


def shards_of(name):
    return [manifest(f"trajectories/{name}/{shard}") for shard in shard_names(E.trajectories[name].shards)]


def training_data(wildcards):
    student = student_of(wildcards.run)
    shards = [shard for name in student.trajectories for shard in shards_of(name)]
    gold = student.prompts or (E.prompts_of(student) if student.rows.prompt == "bare" else ())
    return shards + [manifest(f"prompts/{name}") for name in gold]


def model_manifest(wildcards):
    kind = "teachers" if wildcards.model in E.teachers else "students"
    return manifest(f"{kind}/{wildcards.model}")


def questions(wildcards):
    return manifest(f"prompts/{E.benchmarks[wildcards.benchmark].prompts}")


def scores_of(table):
    return [manifest(f"scores/{model}/{benchmark}/{budget}") for model, benchmark, budget in E.cells_of(table)]


def material_of(figure):
    """What a figure is drawn from, by its kind."""
    if figure.kind == "accuracy":
        return scores_of(figure)
    if figure.kind == "commits":
        return [manifest(f"answers/{model}/{benchmark}/{budget}") for model, benchmark, budget in E.cells_of(figure)]
    students = [run for key in figure.students for run in E.runs_of(key)]
    if figure.kind == "training":
        return [manifest(f"students/{run}") for run in students]
    return [
        manifest(f"factorisation/{model}/{name}")
        for model in [figure.teacher, *students]
        for name in figure.trajectories
    ]


def shown(product):
    """What decides a table's or figure's content besides its material."""
    labels = {key: model.label for models in (E.teachers, E.students, E.benchmarks) for key, model in models.items()}
    return recipes.canonical([product.model_dump(mode="json"), labels])
