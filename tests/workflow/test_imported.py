"""Rollouts that were made elsewhere, through the real Snakemake: a student learns from a file of dLLM-RL."""

import json

import pytest
import yaml

from t3d import params
from t3d.errors import CorruptArtefactError, DataError, MissingInputError
from t3d.prompts.reader import read_prompts
from t3d.provenance import store
from t3d.trajectories import shards, step_maps
from tests.conftest import SHIPPED
from tests.started import set_up
from tests.workflow.small import snakemake
from tests.workflow.test_rounds import EXPERIMENT

STUDENT = "data/demo/students/t3d-seed0.manifest.json"
SHARD = "data/demo/trajectories/theirs/0-of-1.manifest.json"


def content(**theirs):
    """Another experiment of rounds, in which the student learns from `theirs` alone."""
    found = yaml.safe_load(EXPERIMENT)
    found["trajectories"] = {"first": found["trajectories"]["first"]}
    if theirs:
        found["trajectories"]["theirs"] = found["trajectories"]["first"] | theirs
        found["students"]["t3d"]["trajectories"] = "theirs"
    del found["students"]["next"]
    found["figures"]["training"]["students"] = ["t3d"]
    return yaml.safe_dump(found, sort_keys=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with rollouts as dLLM-RL writes them, of prompts that its teacher asked, and one of another prompt."""
    folder = set_up(tmp_path_factory.mktemp("project"), "demo", content())
    snakemake(folder, "data/demo/trajectories/first/0-of-1.manifest.json")
    decoded = folder / "data" / "demo" / "trajectories" / "first" / "0-of-1.parquet"
    step_maps.convert(decoded, folder / "own.json", SHIPPED, None, 1.0)
    rows = [{k: v for k, v in row.items() if k != "t3d"} for row in json.loads((folder / "own.json").read_text())]
    rows += [rows[0], rows[0] | {"prompt": "What is asked nowhere?"}]
    (folder / "theirs.json").write_text(json.dumps(rows))
    sha256 = store.sha256(folder / "theirs.json")
    (folder / "params" / "demo.yaml").write_text(content(imported="theirs.json", sha256=sha256))
    return folder


def test_a_student_learns_from_imported_rollouts(project):
    snakemake(project, STUDENT)
    manifest = store.read(project / SHARD)
    imported, _ = shards.read(manifest.file(".parquet"))
    decoded, _ = shards.read(project / "data/demo/trajectories/first/0-of-1.parquet")
    assert [(t.prompt_id, t.response_ids) for t in imported] == [(t.prompt_id, t.response_ids) for t in decoded]
    assert [t.step_map for t in imported] == [t.step_map for t in decoded]
    assert (
        f"theirs: {len(decoded)} of {len(decoded) + 2} rows"
        in (project / "logs/demo/trajectories/theirs/0-of-1.log").read_text()
    )
    receipt = store.read_receipt(manifest)["imported"]
    assert receipt == {
        "file": "theirs.json",
        "sha256": store.sha256(project / "theirs.json"),
        "rows": len(decoded) + 2,
    }
    assert store.read(project / STUDENT).facts["examples"] == len(decoded)
    assert "Nothing to be done" in snakemake(project, STUDENT)


@pytest.mark.parametrize(
    ("file", "changes", "error", "message"),
    [
        ("gone.json", {}, MissingInputError, "gone.json, which params/demo.yaml: trajectories.theirs.imported names"),
        ("theirs.json", {"sha256": "0" * 64}, CorruptArtefactError, "trajectories.theirs.sha256 is 0000"),
        ("own.json", {"budget": "b4s4"}, DataError, "blocks of 8 and 8 steps; .*budget is b4s4"),
        ("other.json", {}, DataError, "none of its 1 rows has the tokens of a prompt of gsm"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(project, monkeypatch, tmp_path, file, changes, error, message):
    monkeypatch.chdir(project)
    rows = json.loads((project / "theirs.json").read_text())
    (project / "other.json").write_text(json.dumps(rows[-1:]))
    sha256 = store.sha256(project / file) if (project / file).is_file() else "0" * 64
    experiment = params.find("demo")
    spec = experiment.trajectories["theirs"].model_copy(update={"imported": file, "sha256": sha256} | changes)
    experiment = experiment.model_copy(update={"trajectories": experiment.trajectories | {"theirs": spec}})
    teacher, prompts = (project / f"data/demo/{name}.manifest.json" for name in ("teachers/pocket", "prompts/gsm"))
    assert read_prompts(store.read(prompts))
    with pytest.raises(error, match=message):
        step_maps.make(experiment, "theirs", "0-of-1", teacher, prompts, tmp_path / "out.manifest.json")
    assert not list(tmp_path.iterdir())
