"""Artefacts: whole or absent, checked by digest, and tied to the parameters that made them."""

import dataclasses
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from t3d.distillation import trainer
from t3d.errors import CorruptArtefactError, DataError, MissingInputError, ParameterError
from t3d.evaluation import answers, factorisation, scores
from t3d.params import Experiment, find
from t3d.prompts import sets
from t3d.provenance import archive, environment, lineage, recipes, store, verify, writer
from t3d.teachers import teacher
from t3d.trajectories import rollout
from tests.artefacts import inputs_of
from tests.conftest import ROOT
from tests.reporting.helpers import unpack


def make(experiment, tmp_path, text="content"):
    out = tmp_path / "p.manifest.json"
    inputs = inputs_of(experiment, tmp_path, "prompts/p")
    with writer.writing(experiment, "prompts/p", out, inputs=inputs) as job:
        job.file(".jsonl").write_text(text)
        job.facts["prompts"] = 3
    return store.read(out, kind="prompts")


def test_equal_runs_make_equal_manifests_and_receipts_tell_them_apart(experiment, tmp_path):
    first = make(experiment, tmp_path).path.read_bytes()
    again = make(experiment, tmp_path)
    assert again.path.read_bytes() == first
    assert again.file(".jsonl").read_text() == "content"
    receipt = json.loads((tmp_path / "p.receipt.json").read_text())
    assert receipt["versions"]["torch"]
    assert receipt["seconds"] >= 0
    assert not list(tmp_path.glob("*.partial"))


def test_files_can_be_read_by_whoever_can_read_the_manifest(experiment, tmp_path):
    """safetensors makes files of mode 0600; a colleague could not load a student."""
    with writer.writing(
        experiment, "prompts/p", tmp_path / "p.manifest.json", inputs_of(experiment, tmp_path, "prompts/p")
    ) as job:
        job.file(".jsonl").touch(mode=0o600)
    assert (tmp_path / "p.jsonl").stat().st_mode == (tmp_path / "p.manifest.json").stat().st_mode


def test_a_failed_job_leaves_the_finished_artefact_alone(experiment, tmp_path):
    before = make(experiment, tmp_path).path.read_bytes()

    def fails():
        with writer.writing(experiment, "prompts/p", tmp_path / "p.manifest.json") as job:
            job.file(".jsonl").write_text("half")
            raise KeyError("died")

    with pytest.raises(KeyError, match="died"):
        fails()
    assert (tmp_path / "p.jsonl").read_text() == "content"
    assert (tmp_path / "p.manifest.json").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_damage_is_named(experiment, tmp_path):
    manifest = make(experiment, tmp_path)
    with pytest.raises(MissingInputError, match=r"lists no p\.parquet: it holds p\.jsonl"):
        manifest.file(".parquet")
    (tmp_path / "p.jsonl").write_text("cOntent")
    with pytest.raises(CorruptArtefactError, match=r"p\.jsonl: the content does not match"):
        manifest.file(".jsonl")
    (tmp_path / "p.jsonl").write_text("longer content")
    with pytest.raises(CorruptArtefactError, match=r"p\.jsonl: 14 bytes"):
        manifest.file(".jsonl")
    (tmp_path / "p.jsonl").unlink()
    with pytest.raises(MissingInputError, match=r"p\.jsonl is missing"):
        manifest.file(".jsonl")
    with pytest.raises(MissingInputError, match="make it first"):
        store.read(tmp_path / "other.manifest.json")
    manifest.path.write_text("{}")
    with pytest.raises(CorruptArtefactError, match="is missing"):
        store.read(manifest.path)


def test_a_published_score_is_fetched_again(tmp_path, monkeypatch):
    unpack(tmp_path, "demo")
    monkeypatch.chdir(tmp_path)
    demo = find("demo")
    score = store.read(store.manifest_path(demo, "scores/pocket-sdar/gsm/b8s2"))
    path = Path("data/demo/scores/pocket-sdar/gsm/b8s2.json")
    whole = path.read_bytes()
    pull = r"t3d pull scores --experiment demo"
    for damaged, fault in ((whole.swapcase(), "the content does not match"), (whole + b" ", "bytes")):
        path.write_bytes(damaged)
        with pytest.raises(CorruptArtefactError, match=rf"{fault}.* Delete {path}, then fetch it again \({pull}\)\.$"):
            score.check(contents=True)
    path.unlink()
    with pytest.raises(MissingInputError, match=rf"Fetch it \({pull}\)"):
        score.check(contents=True)
    # This is what the messages say to do.
    archive.restore(demo)
    score.check(contents=True)
    # Another file than the published one does not come back so.
    other = dataclasses.replace(score, files=score.files | {path.name: {"size": len(whole), "sha256": "0" * 64}})
    with pytest.raises(CorruptArtefactError, match=r"Delete .*manifest\.json and run its stage again"):
        other.check(contents=True)


def test_a_file_is_hashed_once_and_again_when_it_changed(tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(store, "_hash", lambda path: hashed.append(path.read_text()) or hashed[-1])
    path = tmp_path / "x"

    def written(text, at):
        path.write_text(text)
        os.utime(path, ns=(at, at))
        return [store.sha256(path) for _ in range(3)]

    old = 10**18
    assert written("a", old) == ["a"] * 3
    assert written("b", old + 1) == ["b"] * 3
    assert written("longer", old + 1) == ["longer"] * 3
    (tmp_path / "y").write_text("moved!")
    os.utime(tmp_path / "y", ns=(old + 1, old + 1))
    (tmp_path / "y").rename(path)
    assert store.sha256(path) == "moved!"
    assert hashed == ["a", "b", "longer", "moved!"]
    # A file of this moment may change within one tick of the clock.
    assert written("c", time.time_ns()) == ["c"] * 3
    assert hashed[4:] == ["c"] * 3


def test_lineage_and_edited_parameters(experiment, tmp_path):
    prompts = make(experiment, tmp_path)
    verify.check(experiment, prompts)
    spec = experiment.prompt_sets["p"].model_copy(update={"count": 4})
    edited = experiment.model_copy(update={"prompt_sets": {"p": spec}})
    with pytest.raises(ParameterError, match="prompts/p was made with other parameters"):
        verify.check(edited, prompts)


def test_the_command_that_makes_a_file():
    assert store.making(Path("data/pocket/students/s.manifest.json")) == (
        "snakemake data/pocket/students/s.manifest.json --cores all --config experiment=pocket"
    )
    assert "snakemake" not in store.making(Path("nowhere.manifest.json"))


@pytest.fixture
def whole(tmp_path):
    """An experiment of two of everything, and a function that gives an artefact's manifest, of stubs."""
    optimizer = {"steps": 2, "batch_size": 2, "learning_rate": 1e-3}
    student = {"label": "S", "trajectories": ["t"], "states": {"kind": "trajectory"}, "optimizer": optimizer}
    sets_of = {"p": {"teacher": "m", "split": "train", "count": 3}, "q": {"teacher": "m", "split": "test", "count": 3}}
    benchmark = {"label": "B", "prompts": "q", "task": "gsm_boxed"}
    made = Experiment(
        name="x",
        device="cpu",
        teachers={"m": {"source": "pretrain", "pretraining": {}}, "n": {"source": "pretrain", "pretraining": {}}},
        prompt_sets=sets_of | {"p2": sets_of["p"], "q2": sets_of["q"]},
        trajectories={"t": {"prompts": "p", "shards": 2}, "t2": {"prompts": "p2"}},
        students={"s": student | {"objective": {"name": "t3d"}}, "s2": student | {"objective": {"name": "ddo"}}},
        benchmarks={"b": benchmark, "b2": benchmark | {"prompts": "q2"}},
    )

    def at(artefact):
        path = tmp_path / f"{artefact}.manifest.json"
        if not path.exists():
            with writer.writing(made, artefact, path, inputs_of(made, tmp_path, artefact)) as job:
                job.file(".txt").write_text(artefact)
        return path

    return made, at


SHARDS = ("trajectories/t/0-of-2", "trajectories/t/1-of-2")
WRONG = {
    "teacher": (
        lambda made, at, out: teacher.make(made, "m", out, at("teachers/n")),
        "teachers/n.manifest.json is teachers/n; teachers/m is made from nothing",
    ),
    "prompts of another teacher": (
        lambda made, at, out: sets.make(made, "q", at("teachers/n"), out),
        "teachers/n.manifest.json is teachers/n; prompts/q is made from teachers/m",
    ),
    "prompts with a source": (
        lambda made, at, out: sets.make(made, "q", at("teachers/m"), out, at("prompts/p")),
        "prompts/p.manifest.json is prompts/p; prompts/q is made from teachers/m",
    ),
    "rollout of other prompts": (
        lambda made, at, out: rollout.make(made, "t", "0-of-2", at("teachers/m"), at("prompts/p2"), out),
        "prompts/p2.manifest.json is prompts/p2; trajectories/t/0-of-2 is made from teachers/m, prompts/p",
    ),
    "rollout by a student": (
        lambda made, at, out: rollout.make(
            made, "t", "0-of-2", at("teachers/m"), at("prompts/p"), out, at("students/s-seed0")
        ),
        "s-seed0.manifest.json is students/s-seed0; trajectories/t/0-of-2 is made from teachers/m, prompts/p",
    ),
    "student without a shard": (
        lambda made, at, out: trainer.make(made, "s-seed0", at("teachers/m"), [at(SHARDS[0])], out.parent, out),
        "students/s-seed0 is made from teachers/m, trajectories/t/0-of-2, trajectories/t/1-of-2: give data/x/",
    ),
    "student of a shard given twice": (
        lambda made, at, out: trainer.make(made, "s-seed0", at("teachers/m"), [at(SHARDS[0])] * 2, out.parent, out),
        "0-of-2.manifest.json and .*0-of-2.manifest.json both are trajectories/t/0-of-2",
    ),
    "answers to another benchmark": (
        lambda made, at, out: answers.make(made, "b", "b8s2", at("students/s-seed0"), at("prompts/q2"), out),
        "prompts/q2.manifest.json is prompts/q2; answers/s-seed0/b/b8s2 is made from students/s-seed0, prompts/q",
    ),
    "answers of what is no model": (
        lambda made, at, out: answers.make(made, "b", "b8s2", at("prompts/p"), at("prompts/q"), out),
        "experiment x makes no 'answers/p/b/b8s2'|prompts/p; answers/p/b/b8s2 is made from students/p, prompts/q",
    ),
    "scores by other prompts": (
        lambda made, at, out: scores.make(made, at("answers/m/b/b8s2"), at("prompts/q2"), out),
        "prompts/q2.manifest.json is prompts/q2; scores/m/b/b8s2 is made from answers/m/b/b8s2, prompts/q",
    ),
    "factorisation of other rollouts": (
        lambda made, at, out: factorisation.make(made, at("teachers/m"), "t", [at("trajectories/t2/0-of-1")], out),
        "trajectories/t2/0-of-1; factorisation/m/t is made from teachers/m, trajectories/t/0-of-2",
    ),
}


@pytest.mark.parametrize("verb", WRONG)
def test_every_verb_refuses_what_its_artefact_is_not_made_from(whole, tmp_path, verb):
    made, at = whole
    call, message = WRONG[verb]
    out = tmp_path / "out" / "new.manifest.json"
    with pytest.raises((DataError, ParameterError), match=message):
        call(made, at, out)
    assert not out.exists()


def test_inputs_come_in_the_order_of_the_lineage_whatever_order_they_are_given_in(whole):
    made, at = whole
    given = [at(SHARDS[1]), at("teachers/m"), at(SHARDS[0])]
    found = store.read_inputs(made, "students/s-seed0", given)
    assert [manifest.artefact for manifest in found] == ["teachers/m", *SHARDS]


def test_inputs_that_were_made_from_another_version_of_each_other_are_refused(whole, tmp_path):
    made, at = whole
    paths = at("answers/m/b/b8s2"), at("prompts/q")
    store.read_inputs(made, "scores/m/b/b8s2", paths)
    with writer.writing(made, "prompts/q", paths[1], inputs_of(made, tmp_path, "prompts/q")) as job:
        job.file(".txt").write_text("made again, otherwise")
    message = r"b8s2.manifest.json: inputs.prompts/q is not the file at .*q.manifest.json, which was made again"
    with pytest.raises(CorruptArtefactError, match=message):
        store.read_inputs(made, "scores/m/b/b8s2", paths)


def test_an_artefact_is_not_written_where_another_belongs(whole, tmp_path, monkeypatch):
    made, at = whole
    inputs = store.read_inputs(made, "answers/s-seed0/b/b8s2", [at("students/s-seed0"), at("prompts/q")])
    monkeypatch.chdir(tmp_path)
    place = Path("data", "x", "answers", "s2-seed0", "b", "b8s2.manifest.json")
    # Another experiment's folder is no place for it either.
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "other.yaml").touch()
    other = Path("data", "other", "answers", "s-seed0", "b", "b8s2.manifest.json")
    for out in (place, place.absolute(), other):
        with (
            pytest.raises(ParameterError, match="where another artefact belongs; answers/s-seed0/b/b8s2 belongs in"),
            writer.writing(made, "answers/s-seed0/b/b8s2", out, inputs),
        ):
            pass
    assert not (tmp_path / "data").exists()
    with writer.writing(made, "answers/s-seed0/b/b8s2", Path("data/x/answers/s-seed0/b/b8s2.manifest.json"), inputs):
        pass


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(recipes={}), "recipes lacks that of scores/m/b/b8s2 itself"),
        (lambda c: c["recipes"].pop("scores/m/b/b8s2"), "recipes lacks that of scores/m/b/b8s2 itself"),
        (lambda c: c["recipes"].update({"scores/m/b/b8s2": "0" * 64}), "recipes lacks that of scores/m/b/b8s2 itself"),
        (lambda c: c["recipes"].pop("teachers/m"), "recipes lacks teachers/m, which scores/m/b/b8s2 is made from"),
        (lambda c: c["recipes"].pop("prompts/q"), "recipes lacks prompts/q, which scores/m/b/b8s2 is made from"),
        (
            lambda c: c["recipes"].update({"teachers/n": c["recipes"]["teachers/m"]}),
            "recipes names teachers/n, which is nothing that scores/m/b/b8s2 is made from",
        ),
        (lambda c: c["recipes"].update({"prompts/z": "0" * 64}), "makes no artefact 'prompts/z'"),
        (lambda c: c.update(recipes=None), "is missing|should be an object"),
        (lambda c: c.update(recipes=[1]), "is missing|should be an object"),
        (lambda c: c.update(colour="red"), "colour: unknown key"),
    ],
)
def test_a_manifest_that_leaves_out_a_recipe_is_refused(whole, edit, message):
    made, at = whole
    path = at("scores/m/b/b8s2")
    verify.check(made, store.read(path))
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises((CorruptArtefactError, ParameterError), match=message):
        verify.check(made, store.read(path))


def test_everything_an_artefact_comes_from_is_listed_before_it(whole):
    made, _ = whole
    found = lineage.origins_of(made, ["scores/s-seed0/b/b8s2"])
    assert found[-1] == "scores/s-seed0/b/b8s2"
    assert set(found) == {*SHARDS, "teachers/m", "prompts/p", "prompts/q"} | {
        f"{kind}/s-seed0{more}" for kind, more in (("students", ""), ("answers", "/b/b8s2"), ("scores", "/b/b8s2"))
    }
    for artefact in found:
        assert set(lineage.inputs_of(made, artefact)) <= set(found[: found.index(artefact)])


@pytest.mark.parametrize("budget", ["b08s2", "b8t0.90", "b8s9", "8s2"])
def test_there_is_no_artefact_of_a_budget_that_is_spelled_otherwise(whole, budget):
    made, _ = whole
    with pytest.raises(ParameterError, match=f"makes no artefact 'answers/m/b/{budget}': budget '{budget}'"):
        recipes.digest(made, f"answers/m/b/{budget}")


def test_the_commit_is_that_of_the_code_wherever_it_runs(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-c", "user.name=t3d", "-c", "user.email=t3d@localhost", *arguments]
        return subprocess.run(command, cwd=tmp_path / "code", capture_output=True, text=True, check=True).stdout.strip()

    code = tmp_path / "code" / "t3d" / "module.py"
    code.parent.mkdir(parents=True)
    code.write_text("1\n")
    git("init", "--quiet")
    assert environment.git_commit(code) is None  # not yet a file of the repository
    git("add", ".")
    git("commit", "--quiet", "-m", "code")
    monkeypatch.chdir(ROOT)
    assert environment.git_commit(code) == git("rev-parse", "HEAD")
    code.write_text("2\n")
    assert environment.git_commit(code) == git("rev-parse", "HEAD") + "-dirty"
    # Installed into another project's folder, it is no file of that project.
    installed = tmp_path / "code" / ".venv" / "module.py"
    installed.parent.mkdir()
    shutil.copy(code, installed)
    assert environment.git_commit(installed) is None
