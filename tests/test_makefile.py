"""What `make` alone says, and what `make clean` removes."""

import shutil
import subprocess

import pytest

from tests.conftest import ROOT


def make(folder, *targets):
    return subprocess.run(["make", *targets], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def project(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    return tmp_path


def test_without_a_target_it_lists_them(project):
    said = make(project)
    assert said == make(project, "help")
    for target in ("demo", "test", "clean"):
        assert f"\n{target} " in f"\n{said}"
    assert [path.name for path in project.iterdir()] == ["Makefile"]


def test_clean_removes_what_the_demo_made_and_nothing_of_other_experiments(project):
    kept = [
        "data/shipped/pocket-sdar.manifest.json",
        "data/qwen-right/scores/coder/gsm8k/b4s1.manifest.json",
        "data/evaluate-mine/scores/mine/gsm8k/b4s2.json",
        "work/qwen/t3d-seed0/step-0000100.pt",
        "logs/qwen/students/t3d-seed0.log",
        ".snakemake/metadata/ZGF0YQ==",
        "results/demo/table1.csv",
        "results/demo/figures/accuracy.pdf",
        "results/demo/published.tar.xz",
        "results/qwen/table1.csv",
        "results/gains.csv",
        "results/figures/teacher.pdf",
        "local/gsm8k/test.jsonl",
    ]
    removed = [
        ".venv/installed",
        "workflow/envs/vllm/.venv/installed",
        "data/demo/students/t3d-seed0/model.safetensors",
        "work/demo/t3d-seed0/step-0000100.pt",
        "logs/demo/students/t3d-seed0.log",
        "build/x",
        "t3d.egg-info/PKG-INFO",
        ".pytest_cache/x",
        "results/table1.csv",
        "results/figures/accuracy.pdf",
    ]
    for name in (*kept, *removed):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        # Copies of the demo's results, and others of the same names.
        (project / name).write_text(name.replace("results/demo/", "results/"))
    report = project / "results" / "report.html"
    report.write_text("<title>T3D report: qwen</title>")
    make(project, "clean")
    assert {name: (project / name).is_file() for name in kept} == dict.fromkeys(kept, True)
    assert {name: (project / name).is_file() for name in removed} == dict.fromkeys(removed, False)
    assert report.is_file()
    # A copy of the same name that shows another experiment.
    (project / "results" / "table1.csv").write_text("of qwen")
    report.write_text("<title>T3D report: demo</title>")
    make(project, "clean")
    assert (project / "results" / "table1.csv").is_file()
    assert not report.is_file()


def test_the_demo_prints_its_table_without_the_escapes_of_markdown(project):
    """By the command of the Makefile, read from what `make` would do."""
    (project / ".venv").mkdir()
    for name in ("requirements.lock", "pyproject.toml", ".venv/installed"):
        (project / name).touch()
    planned = make(project, "--dry-run", "demo").splitlines()
    (command,) = (line for line in planned if "results/demo/table1.md" in line)
    (project / "results" / "demo").mkdir(parents=True)
    (project / "results" / "demo" / "table1.md").write_text("p \\< 0.05 \\| 1 \\* 2\n")
    shown = subprocess.run(command, shell=True, cwd=project, capture_output=True, text=True, check=True).stdout
    assert shown == "p < 0.05 | 1 * 2\n"
