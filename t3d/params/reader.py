"""The reader of experiment files: YAML to parameters, and what is said of a key or value that is not allowed."""

import ast
import inspect
import json
import reprlib
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from t3d.errors import ParameterError, short
from t3d.params.base import NAME, Strict
from t3d.params.experiment import Experiment
from t3d.params.yaml_files import read_yaml

_MOST = 20
"""Faults that a message lists."""
_LONGEST_NAME = 150
_IN_WORDS = {
    f"^{NAME}$": "a name has small letters, digits, `.`, `_` and `-`, and begins with a letter or a digit",
    r"^[0-9a-f]{64}$": "a sha256 is 64 hex digits (0-9, a-f), as `sha256sum FILE` prints it",
    r"^[0-9a-f]{40}$": "a revision is a commit, 40 hex digits (0-9, a-f); write it in quotes",
    r"^[\w.-]+/[\w.-]+$": "a repository is written owner/name",
}
"""Pattern of a text -> what it asks for."""


def load(path: str | Path) -> Experiment:
    """Read an experiment file.

    Raises:
        ParameterError: the file is missing, is not YAML, or holds a key or value that is not allowed, or a key twice;
            the message gives file, field path or line, what was found and what is allowed.
    """
    path = Path(path)
    if len(path.name) > _LONGEST_NAME or not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        name, file = short(repr(path.stem)), short(path)
        raise ParameterError(f"unknown experiment {name}: no file {file}. Experiments there: {short(there)}.")
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ParameterError(f"{path}: expected a mapping of parameters, found {type(raw).__name__}.")
    if "name" in raw:
        raise ParameterError(f"{path}: `name` follows from the file's name; remove the key.")
    try:
        experiment = Experiment.model_validate({"name": path.stem, **raw})
    except ValidationError as error:
        told = _told(error.errors())
        more = [f"  and {len(told) - _MOST} more"] if told[_MOST:] else []
        raise ParameterError("\n".join([f"{path}:", *told[:_MOST], *more])) from error
    if place := next(_truths(raw, experiment), None):
        raise ParameterError(f"{path}:\n  {place} is true or false (yes, no, on, off); a number is expected.")
    return experiment


def _truths(raw: Any, read: Any, place: str = "") -> Iterator[str]:
    """Places where a file has a truth value and a number was read: pydantic takes true for 1."""
    if isinstance(raw, bool) and not isinstance(read, bool):
        yield place
    elif isinstance(raw, dict):
        for key, value in raw.items():
            below = read.get(key) if isinstance(read, dict) else getattr(read, key, None)
            yield from _truths(value, below, f"{place}.{key}".lstrip("."))
    elif isinstance(raw, list):
        for number, (value, below) in enumerate(zip(raw, read, strict=False)):
            yield from _truths(value, below, f"{place}.{number}")


def find(experiment: Any) -> Experiment:
    """Read `params/<experiment>.yaml` of the working directory; Snakemake's `--config` may give any value."""
    if not Path("params").is_dir():
        raise ParameterError(
            f"{Path.cwd()} has no folder params: change to the folder of the project, which has params and Snakefile."
        )
    if not isinstance(experiment, str) or not experiment or "/" in experiment:
        raise ParameterError(
            f"experiment {short(repr(experiment))}: it is the name of a file in params/, without .yaml."
        )
    return load(Path("params") / f"{experiment}.yaml")


def _told(errors: Iterable[Any]) -> list[str]:
    """A line for each fault. One that several places have, as those that share a YAML anchor do, is said once."""
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    errors = list(errors)
    # Pydantic counts the items of a list without those that have a fault of their own.
    faulty = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
    for error in errors:
        if error["type"] == "too_short" and error["loc"] in faulty:
            continue
        place, fault = _explain(error)
        key = next((part for part in reversed(error["loc"]) if isinstance(part, str)), "")
        if place not in places[key, fault]:
            places[key, fault].append(place)
    told = []
    for (_, fault), (place, *others) in places.items():
        # What is checked of the whole file names its place itself.
        said = f"  {place}: {fault}" if place else f"  {fault}"
        if others:
            have = f"and {len(others) - 1} more have" if others[1:] else "has"
            said += f" {others[0]} {have} the same fault."
        told.append(said)
    return told


def _explain(error: Any) -> tuple[str, str]:
    """Where a fault is, and what it is."""
    groups: list[type[BaseModel]] = [Experiment]
    where = []
    for depth, part in enumerate(error["loc"]):
        if depth == 2 and error["loc"][0] in ("tables", "figures"):
            # Pydantic puts the chosen kind of table or figure into the path; the file has no such key.
            groups = [group for group in groups if _has_kind(group, part)]
            continue
        where.append(short(part))
        last, groups = groups, _children(groups, part)
    place = ".".join(where)
    if error["type"] == "extra_forbidden":
        return place, f"unknown key. Allowed here: {', '.join(last[0].model_fields)}."
    # An alias of an alias may stand for more than memory holds; this shows the beginning.
    found = "" if error["type"] in ("missing", "value_error") else f" Found: {short(reprlib.repr(error['input']))}."
    return place.removesuffix(".[key]"), f"{_in_words(error)}.{found}"


def _in_words(error: Any) -> str:
    """What pydantic says, without its own names of types and without regular expressions."""
    limits = error.get("ctx", {})
    if error["type"] == "too_short":
        return f"it has {limits['actual_length']} entries, at least {limits['min_length']} is needed"
    if error["type"] == "string_type" and isinstance(error["input"], int | float):
        return "a text is expected; write it in quotes"
    return _IN_WORDS.get(limits.get("pattern", ""), error["msg"].removeprefix("Value error, "))


def _has_kind(group: type[BaseModel], kind: str | int) -> bool:
    field = group.model_fields.get("kind")
    return field is not None and kind in getattr(field.annotation, "__args__", ())


def _children(groups: list[type[BaseModel]], part: str | int) -> list[type[BaseModel]]:
    """The parameter groups that field `part` holds; a dict's key leads to the same groups."""
    fields = [group.model_fields[str(part)].annotation for group in groups if part in group.model_fields]
    if not fields:
        return groups
    found: list[type[BaseModel]] = []
    pending: list[Any] = fields[:1]
    while pending:
        annotation = pending.pop(0)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
        pending.extend(getattr(annotation, "__args__", ()))
    return found or groups


def schema() -> str:
    """The JSON schema of an experiment file, as text; the docstrings of attributes describe them."""
    groups = _groups(Strict)
    said = {group: _docstrings(group) for group in groups}
    for group in groups:
        for name, field in group.model_fields.items():
            if field.description is None:
                texts = (said[base][name] for base in group.__mro__ if name in said.get(base, {}))
                field.description = next(texts, None)
    for group in groups:
        group.model_rebuild(force=True)
    return json.dumps(Experiment.model_json_schema(), indent=2) + "\n"


def _groups(group: type[BaseModel]) -> list[type[BaseModel]]:
    return [group, *(inner for derived in group.__subclasses__() for inner in _groups(derived))]


def _docstrings(group: type[BaseModel]) -> dict[str, str]:
    """Attribute -> the string below it, in the source of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(group))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for line, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(line.target)] = inspect.cleandoc(str(below.value.value))
    return found
