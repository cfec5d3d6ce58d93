"""A small twin of the demo, and the commands that make, publish and plan it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from tests.conftest import ROOT
from tests.started import Fork

STUDENTS = ("sft", "t3d")
BENCHMARKS = ("gsm", "code")
MODELS = ("pocket-sdar", "sft-seed0", "t3d-seed0")
EVALUATIONS = {f"{kind}/t3d-seed0/{name}/b8s2" for kind in ("answers", "scores") for name in BENCHMARKS}
REPORT = {"demo/table1.csv", "table1.csv", "demo/figures/accuracy.pdf", "demo/metrics.json"}
MODULE = {name: [sys.executable, "-m", name] for name in ("snakemake", "dvc", "t3d.cli")}


def twin() -> dict:
    """The demo with a few questions, two students, two optimizer steps and one budget."""
    # Through JSON, since YAML's anchors make several students share one optimizer object.
    content = json.loads(json.dumps(yaml.safe_load((ROOT / "params" / "demo.yaml").read_text())))
    for prompts in content["prompt_sets"].values():
        prompts["count"] = 6
    content["students"] = {key: content["students"][key] for key in STUDENTS}
    for student in content["students"].values():
        student["optimizer"] |= {"steps": 2, "batch_size": 4, "micro_batch_size": 2, "warmup_steps": 1}
    for kind, keys in (("trajectories", BENCHMARKS), ("benchmarks", BENCHMARKS), ("tables", ("table1", "table2"))):
        content[kind] = {key: content[kind][key] for key in keys}
    for decoded in (*content["trajectories"].values(), *content["benchmarks"].values()):
        decoded["max_new_tokens"] = 64
    for figure in ("speed", "thresholds", "factorisation"):
        del content["figures"][figure]
    for product in (*content["tables"].values(), *content["figures"].values()):
        product["students"] = list(STUDENTS)
    for product in (content["tables"]["table1"], content["figures"]["accuracy"]):
        product["budgets"] = ["b8s2"]
    return content


def environment(project: Path) -> dict[str, str]:
    """Commands find the project's code, and rules the scripts beside the interpreter."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PYTHONPATH": str(project), "PATH": path, "DVC_NO_ANALYTICS": "1"}


def begin(project: Path, command: list[str], real: bool = False) -> subprocess.Popen:
    """Start a command in a project; `real`: in a process of its own, and of the project's own code."""
    start = subprocess.Popen if real else Fork
    return start(command, cwd=project, stdout=-1, stderr=-1, text=True, env=environment(project))


def run(project: Path, command: list[str], check: bool = True, real: bool = False) -> str:
    """What a command says in a project."""
    with begin(project, command, real) as process:
        said = "".join(process.communicate(timeout=900))
    if check:
        assert process.returncode == 0, said[-4000:]
    return said


def snakemake(project: Path, *arguments: str, rules: str = "Snakefile", check: bool = True, real=False) -> str:
    """What Snakemake says, with rules of the project, or of this repository if it has none."""
    file = next(folder / rules for folder in (project, ROOT) if (folder / rules).is_file())
    return run(project, [*MODULE["snakemake"], "-s", str(file), "--cores", "2", *arguments], check, real)


def t3d(project: Path, *arguments: str, check: bool = True) -> str:
    return run(project, [*MODULE["t3d.cli"], *arguments], check)


def dvc(project: Path, *arguments: str, check: bool = True) -> str:
    return run(project, [*MODULE["dvc"], *arguments], check)


def git(project: Path, *arguments: str) -> str:
    return run(project, ["git", "-c", "user.name=t3d", "-c", "user.email=t3d@localhost", *arguments])


def write(project: Path, content: dict) -> None:
    (project / "params" / "demo.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def planned(project: Path, *arguments: str, real: bool = False) -> set[str]:
    """Outputs a dry run would make, below the experiment."""
    said = snakemake(project, "-n", *arguments, real=real)
    paths = re.findall(r"^\s+output: (\S+?)(?:,|$)", said, flags=re.MULTILINE)
    return {re.sub(r"^(data/demo|results)/", "", path).removesuffix(".manifest.json") for path in paths}
