"""Has the code behind a stage changed? A digest of its syntax trees beside each number of `workflow/recipes.yaml`.

An artefact's recipe digest covers parameters and the stage's number, never the code: a renamed variable must not train
a student again. So somebody has to say, whenever code changed, whether results change with it. `t3d recipe keep
<stage>` says they do not, `t3d recipe bump <stage>` that they do, and a test fails until one of them is said.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from t3d import recipes
from t3d.errors import ParameterError
from t3d.params.yaml_files import read_yaml

PACKAGE = Path(__file__).parents[1]
ENTRIES = {
    "sources": "t3d.sources",
    "teachers": "t3d.models.teacher",
    "prompts": "t3d.prompts.sets",
    "generations": "t3d.trajectories.generations",
    "trajectories": "t3d.trajectories.rollout",
    "students": "t3d.distillation.trainer",
    "answers": "t3d.evaluation.answers",
    "scores": "t3d.evaluation.scores",
    "factorisation": "t3d.evaluation.factorisation",
}
"""Stage -> the module whose `make` runs it; what this imports belongs to the stage as well."""
REPORTS = {"tables": "t3d.reporting.tables", "figures": "t3d.reporting.figures", "page": "t3d.reporting.page"}
"""Tables, figures and the report cost seconds: they are made again whenever their code changes, without a number."""
_WITHOUT = {"t3d", "t3d.circumstances", "t3d.errors", "t3d.lineage", "t3d.progress", "t3d.receipts", "t3d.recipes"}
# Parameters are in the digest by value; the code that reads them is not.
_WITHOUT_PACKAGES = ("t3d.params",)


def modules_of(stage: str) -> list[str]:
    """Modules whose code decides what a stage makes, sorted."""
    entry = (ENTRIES | REPORTS)[stage]
    found: set[str] = set()
    pending = [entry]
    while pending:
        module = pending.pop()
        if module in found or module in _WITHOUT or module.startswith(_WITHOUT_PACKAGES):
            continue
        found.add(module)
        # Of another stage only the module itself is used, to read what that stage made.
        if module == entry or module not in ENTRIES.values():
            pending.extend(_imports(ast.parse(_path(module).read_text(encoding="utf-8"))))
    return sorted(found)


@lru_cache
def digest(stage: str) -> str:
    """sha256 over the syntax trees of a stage's modules and over its lm-eval tasks or templates, 16 hex digits.

    Comments and docstrings are left out.
    """
    content = hashlib.sha256()
    for module in modules_of(stage):
        tree = ast.parse(_path(module).read_text(encoding="utf-8"))
        content.update(f"{module} {_canonical(tree)}\n".encode())
    if ENTRIES.get(stage, "").startswith("t3d.evaluation"):
        for task in sorted((PACKAGE / "evaluation" / "tasks").glob("*.yaml")):
            content.update(f"{task.name} {recipes.canonical(read_yaml(task))}\n".encode())
    if stage == "page":
        for path in sorted((PACKAGE / "reporting" / "page").glob("report.*")):
            content.update(path.read_bytes())
    return content.hexdigest()[:16]


def changed(numbers: Path = recipes.RECIPES) -> list[str]:
    """Stages whose code is not the one that was recorded."""
    recorded = read_yaml(numbers)
    return [stage for stage in ENTRIES if recorded[stage].get("code") != digest(stage)]


def record(stage: str, *, bump: bool, numbers: Path = recipes.RECIPES) -> None:
    """Record the code of a stage as it is now.

    Args:
        stage: its name; `all` for every stage whose code changed.
        bump: results change with it: the stage's number grows, and every artefact of it is made again.
        numbers: the file that is edited; its comments stay.

    Raises:
        ParameterError: there is no such stage.
    """
    if stage != "all" and stage not in ENTRIES:
        raise ParameterError(f"there is no stage {stage!r}: {', '.join(ENTRIES)}, or all.")
    stages = changed(numbers) if stage == "all" else [stage]
    recorded = read_yaml(numbers)
    for name in stages:
        recorded[name] = {"recipe": recorded[name]["recipe"] + bump, "code": digest(name)}
    comments = [line for line in numbers.read_text().splitlines() if line.startswith("#")]
    lines = [f'{name}: {{recipe: {entry["recipe"]}, code: "{entry["code"]}"}}' for name, entry in recorded.items()]
    numbers.write_text("\n".join([*comments, *lines]) + "\n")


def _path(module: str) -> Path:
    base = PACKAGE.parent / Path(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _imports(tree: ast.AST) -> Iterator[str]:
    """Modules of this package that are imported anywhere in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "t3d")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "t3d":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if _path(inner).is_file() else node.module


def _canonical(node: Any) -> str:
    """Text of a syntax tree that is the same for every Python version: fields that say nothing are left out."""
    if isinstance(node, list):
        return "[" + ",".join(_canonical(item) for item in node) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        fields["body"] = [statement for statement in node.body if not _is_text(statement)]
    # Of a string, `kind` is its spelling; `type_params` is empty where Python does not know them.
    said = {key: value for key, value in fields.items() if value not in (None, [], "") and key not in ("kind", "ctx")}
    said |= {key: value for key, value in fields.items() if key == "value" and isinstance(node, ast.Constant)}
    return type(node).__name__ + "(" + ",".join(f"{key}={_canonical(value)}" for key, value in said.items()) + ")"


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
