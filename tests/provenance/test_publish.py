"""`t3d pull`: what was published comes back, and nothing that is here is replaced."""

import json
import shutil
from pathlib import Path

import pytest

from t3d import params
from t3d.errors import MissingInputError
from t3d.provenance import archive, publish, records, writer
from tests.conftest import ROOT
from tests.started import forked
from tests.workflow.small import git

TABLE, COPY = Path("results/demo/table1.csv"), Path("results/table1.csv")
SCORE = "data/demo/scores/t3d-seed0/gsm/b8s2"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A clone of a project in which `demo` was published: a score, and records of a table and of its copy."""
    for name in (".dvc/config", "results/demo/table1.csv"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("params", "workflow"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    with writer.writing(params.find("demo"), SCORE.removeprefix("data/demo/"), f"{SCORE}.manifest.json") as job:
        job.file(".json").write_text("{}")
    lines = [json.dumps({"output": path.as_posix(), "shellcmd": "demo's"}) + "\n" for path in (TABLE, COPY)]
    archive.write("demo", [Path(f"{SCORE}.manifest.json")], "".join(lines))
    shutil.rmtree("data")
    git(tmp_path, "init", "--quiet", ".")
    git(tmp_path, "add", "--force", "results")
    return tmp_path


def test_a_copy_of_another_experiments_table_stays_and_is_named(project):
    records.restore({TABLE.as_posix(): {"shellcmd": "before"}})
    COPY.write_text("of pocket\n")
    records.restore({COPY.as_posix(): {"shellcmd": "pocket's"}})
    done = forked(project, ["pull", "scores", "--experiment", "demo"])
    assert done.returncode == 0, done.stderr
    assert COPY.read_text() == "of pocket\n"
    assert (
        "results/table1.csv differs from this experiment's and stayed as before; its own are in results/demo/."
        in done.stdout
    )
    # Snakemake must not take it for the table of `demo` either.
    assert records.of(COPY.as_posix()) == {"shellcmd": "pocket's"}
    assert records.of(TABLE.as_posix()) == {"shellcmd": "demo's"}


def test_a_copy_that_is_not_here_is_made_and_is_no_news_the_second_time(project):
    for _ in range(2):
        assert publish.pull(params.find("demo"), "scores") == (3, [])
        assert COPY.read_bytes() == TABLE.read_bytes()
        assert records.of(COPY.as_posix()) == {"shellcmd": "demo's"}


def test_what_was_not_published_is_said_with_what_was(project):
    with pytest.raises(MissingInputError) as caught:
        publish.pull(params.find("convert"), "scores")
    assert str(caught.value) == (
        "experiment convert was not published: there is no results/convert/published.tar.xz. Published are: demo. To "
        "pull convert, make and publish the experiment (t3d publish --experiment convert)."
    )


@pytest.mark.parametrize("name", ["published.tar.xz", "published.sha256"])
def test_an_archive_that_git_keeps_is_restored_from_it(project, name):
    path = Path("results", "demo", name)
    path.unlink()
    with pytest.raises(MissingInputError, match=rf"{name} is missing: restore it \(git checkout {path}\)\.$"):
        publish.pull(params.find("demo"), "scores")
    git(project, "checkout", str(path))
    assert publish.pull(params.find("demo"), "scores")[0] == 3
