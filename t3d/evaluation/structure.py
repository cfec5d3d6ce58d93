r"""An answer taken apart at its commas, brackets and relations, so that `(1,2)`, `[1,2]` and `\{1,2\}` differ.

Only the expressions between them are left to a parser (`values.py`), which makes one kind of object of all three.
"""

import re
from dataclasses import dataclass
from typing import TypeAlias

from t3d.evaluation.latex import TOKEN, without_unit

Node: TypeAlias = "Leaf | Group | Relation"


@dataclass(frozen=True)
class Leaf:
    """An expression, or words."""

    text: str


@dataclass(frozen=True)
class Group:
    r"""Elements between `brackets`: `()`, `[]`, `(]`, `[)`, `{}`, `<>`, none (a list), or `u`, between `\cup`."""

    brackets: str
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Relation:
    r"""`sides` with `operators` between them: `=`, `<`, `>`, `\le`, `\ge`, `\ne`; `\in` is taken for `=`."""

    operators: tuple[str, ...]
    sides: tuple[Node, ...]

    @property
    def is_equation(self) -> bool:
        """Whether it says that all its sides are equal."""
        return set(self.operators) == {"="}


_OPENING = {"(": "(", "[": "[", r"\{": "{", r"\langle": "<", "{": ""}
_CLOSING = {")": ")", "]": "]", r"\}": "}", r"\rangle": ">", "}": ""}
_OPERATORS = {op: op for op in ("=", "<", ">", r"\le", r"\ge", r"\ne")} | {r"\in": "=", r"\lt": "<", r"\gt": ">"}


def read(text: str) -> Node:
    """The structure of a cleaned answer."""
    items = _elements(text)
    return items[0] if len(items) == 1 else Group("", tuple(items))


def _elements(text: str) -> list[Node]:
    """What a list has, item by item; an item with plus or minus is two."""
    nodes: list[Node] = []
    for part in _items(text):
        node = _element(part)
        if part.count(r"\pm") == 1 and not isinstance(node, Group):
            nodes += [_element(part.replace(r"\pm", sign).removeprefix("+").strip()) for sign in "+-"]
        else:
            nodes.append(node)
    return nodes or [Leaf(text)]


def _items(text: str) -> list[str]:
    parts = (part.strip() for part in _split(text, {",": ",", ";": ";"})[0])
    return [part for part in parts if part]


def _element(text: str) -> Node:
    # Of a number and its approximation the number counts.
    exact, *approximate = _split(text, {r"\approx": "~"})[0]
    if approximate:
        text = approximate[-1] if re.fullmatch(r" *(?:\\?[a-zA-Z]+ *)?", exact) else exact
    sides, operators = _split(text, _OPERATORS)
    if operators and all(side.strip() for side in sides):
        return Relation(tuple(operators), tuple(read(side.strip()) for side in sides))
    parts, joined = _split(text, {r"\cup": "u"})
    if joined and all(part.strip() for part in parts):
        return Group("u", tuple(read(part.strip()) for part in parts))
    return _bracketed(text.strip())


def _bracketed(text: str) -> Node:
    """A text between one pair of brackets without them; of a single element only the element."""
    tokens = TOKEN.findall(without_unit(text))
    if len(tokens) < 3 or tokens[0] not in _OPENING or tokens[-1] not in _CLOSING:
        return Leaf(text)
    depth = 0
    for index, token in enumerate(tokens):
        depth += _step(token)
        if depth == 0 and index < len(tokens) - 1:
            return Leaf(text)
    brackets = _OPENING[tokens[0]] + _CLOSING[tokens[-1]]
    inner = "".join(tokens[1:-1]).strip()
    if not inner:
        return Leaf(text)
    if brackets == "":
        return read(inner)
    items = _elements(inner) if brackets == "{}" else [read(part) for part in _items(inner)]
    return items[0] if len(items) == 1 else Group(brackets, tuple(items))


def _split(text: str, separators: dict[str, str]) -> tuple[list[str], list[str]]:
    """A text's parts between separators that no bracket encloses, and the separators by their values."""
    parts, found, depth = [""], [], 0
    for token in TOKEN.findall(text):
        depth += _step(token)
        if depth <= 0 and token in separators:
            found.append(separators[token])
            parts.append("")
        else:
            parts[-1] += token
    return parts, found


def _step(token: str) -> int:
    r"""How much deeper in brackets the text is after a token; an environment is a bracket, too."""
    if token in _OPENING or token == r"\begin":
        return 1
    return -1 if token in _CLOSING or token == r"\end" else 0
