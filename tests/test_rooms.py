"""The structure that docs/architecture.md describes: rooms, imports between them, floors."""

import ast
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "t3d"
FILES = [*PACKAGE.rglob("*.py"), *PACKAGE.with_name("benchmarks").rglob("*.py")]


def room_of(module: str) -> str:
    top, *inner = module.split(".")
    return inner[0] if top == "t3d" and inner else top


def arrows() -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second, also inside functions."""
    found = set()
    for path in FILES:
        own = room_of(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            rooms = {room_of(name) for name in names if name.split(".")[0] in ("t3d", "benchmarks")}
            found |= {(own, room) for room in rooms - {own}}
    return found


def test_the_house_stays_small():
    found = arrows()
    rooms = {room for pair in found for room in pair}

    @cache
    def floor(room: str) -> int:
        return 1 + max((floor(below) for above, below in found if above == room), default=0)

    # A circle would have no floor: RecursionError.
    assert max(map(floor, rooms)) <= 8
    assert len(rooms) + len(["workflow", ".ci"]) <= 21
    assert len(found) <= 98


def test_no_file_is_long():
    long = {str(path): n for path in FILES if (n := len(path.read_text().splitlines())) > 350}
    assert not long


def test_pools_of_processes_are_made_in_one_place():
    """Ctrl-C would end another with a traceback of each process."""
    makers = re.compile(r"ProcessPoolExecutor\(|\bPool\(")
    assert [path.name for path in FILES if makers.search(path.read_text())] == ["errors.py"]


def test_every_room_is_in_the_docs():
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([a-z]+)(?:/|\.py)`", text.partition("## Rooms")[2].partition("## Where")[0]))
    assert {room for pair in arrows() for room in pair} <= named
