r"""Whether an answer equals the gold one: words with words, groups by their brackets, expressions by their values.

An answer is cleaned (`latex.py`), taken apart (`structure.py`), and compared here part by part; `values.py` compares
expressions. docs/benchmarks.md lists what is equal. `equality.py` runs this where it can be ended.
"""

import re
from typing import Any

from t3d.evaluation import latex, structure, values
from t3d.evaluation.structure import Group, Leaf, Node, Relation

_SYMBOL = re.compile(r" *(?:\\[a-zA-Z]+|\\text\{[^{}]*\}|[a-zA-Z]+(?:\([a-zA-Z]\))?)(?:_(?:\{\w+\}|\w))? *")


def equal(gold: str, answer: str) -> tuple[bool, str]:
    """Whether two answers in LaTeX are equal, and in a few words why; the first one is the gold one.

    The order counts: `x = 5` is answered by `5`, and `1 < x < 2` by `(1,2)`, but not the other way round.
    """
    one, other = latex.clean(gold), latex.clean(answer)
    if not other:
        return False, "the answer cannot be read"
    if latex.same_words(one, other):
        return True, "equal"
    passed = _same(_read(one), _read(other))
    return passed, "equal" if passed else "not equal"


def _read(text: str) -> Node:
    r"""The structure of an answer; `\text{..}` around all of it goes if there are numbers or commas in it."""
    whole = re.fullmatch(r"\\text\{([^{}]*[\d,][^{}]*)\}", text)
    return structure.read(latex.clean(whole.group(1)) if whole else text)


def _same(gold: Node, answer: Node) -> bool:
    # `x = 5` and `5` are one answer, whichever of them is gold; `x = 5` and `y = 5` are not.
    if isinstance(answer, Relation) and answer.is_equation and not _is_equation(gold):
        answer = answer.sides[-1]
    elif isinstance(gold, Relation) and _is_assignment(gold) and not _is_equation(answer):
        gold = gold.sides[-1]
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _same_relations(gold, answer)
    if isinstance(gold, Group) and isinstance(answer, Group) and _same_groups(gold, answer):
        return True
    if isinstance(gold, Leaf) and isinstance(answer, Leaf) and _same_leaves(gold.text, answer.text):
        return True
    return _same_sets(gold, answer)


def _is_equation(node: Node) -> bool:
    return isinstance(node, Relation) and node.is_equation


def _is_assignment(relation: Relation) -> bool:
    """Whether it says what a symbol, or a few, are equal to."""
    left = relation.sides[0]
    symbols = left.items if isinstance(left, Group) else (left,)
    return relation.is_equation and all(isinstance(s, Leaf) and _SYMBOL.fullmatch(s.text) for s in symbols)


def _same_groups(gold: Group, answer: Group) -> bool:
    kinds = {gold.brackets, answer.brackets}
    if kinds == {"{}"}:
        # Elements of a set count once.
        return all(any(_same(a, b) for b in answer.items) for a in gold.items) and all(
            any(_same(a, b) for a in gold.items) for b in answer.items
        )
    if len(gold.items) != len(answer.items):
        return False
    if kinds == {"u"} or kinds <= {"", "{}"}:
        left = list(answer.items)
        for item in gold.items:
            match = next((index for index, other in enumerate(left) if _same(item, other)), None)
            if match is None:
                return False
            left.pop(match)
        return True
    # A pair looks like an open interval. A list without brackets may be a pair: then its order counts.
    return (len(kinds) == 1 or kinds == {"", "()"}) and all(map(_same, gold.items, answer.items))


def _same_leaves(gold: str, answer: str) -> bool:
    if latex.same_words(gold, answer):
        return True
    if latex.has_date(gold):
        return False
    one, other = latex.without_unit(gold), latex.without_unit(answer)
    # 5m is a product where the gold answer is one, and 5 metres where it is 5.
    readings = [(one, other), (latex.without_letter(one, blank=True), latex.without_letter(other, blank=False))]
    for pair in dict.fromkeys(readings):
        first, second = map(values.read, pair)
        if first is not None and second is not None and values.same(first, second):
            return True
    return False


_TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne", "=": "="}


def _same_relations(gold: Relation, answer: Relation) -> bool:
    """Side by side, from either end, or as two sides whose differences are multiples of each other."""
    if gold.is_equation and answer.is_equation and _is_assignment(gold) and _is_assignment(answer):
        gold, answer = (Relation(("=",), (r.sides[0], r.sides[-1])) for r in (gold, answer))
    turned = Relation(tuple(_TURNED[op] for op in reversed(answer.operators)), tuple(reversed(answer.sides)))
    for other in (answer, turned):
        if gold.operators == other.operators and all(map(_same, gold.sides, other.sides)):
            return True
    if len(gold.operators) != 1 or len(answer.operators) != 1:
        return False
    read = [values.read(side.text) if isinstance(side, Leaf) else None for side in gold.sides + answer.sides]
    sides = [value for value in read if value is not None]
    ratio = values.ratio_of_differences(sides) if len(sides) == 4 else None
    if ratio is None:
        return False
    operator = answer.operators[0] if ratio > 0 else _TURNED[answer.operators[0]]
    return gold.operators[0] == operator


def _same_sets(gold: Node, answer: Node) -> bool:
    """Unions, sets with a name, and what a gold inequality allows, compared as sets of numbers."""
    if isinstance(answer, Relation):
        return False
    try:
        other = _as_set(answer)
        one = None if other is None else _as_set(gold)
        return one is not None and (one == other or bool(one.symmetric_difference(other).is_empty))
    except values.UNDECIDED:
        return False


def _as_set(node: Node) -> Any:
    """A node as a set of sympy's; None if it is not a set, or is an empty interval, which counts as a pair."""
    from sympy import And, FiniteSet, Interval, Rel, Set, Union

    if isinstance(node, Leaf):
        value = values.read(node.text)
        return value.exact if value and isinstance(value.exact, Set) else None
    if isinstance(node, Group) and node.brackets == "u":
        parts = [_as_set(item) for item in node.items]
        return None if None in parts else Union(*parts)
    leaves = node.sides if isinstance(node, Relation) else node.items
    read = [values.read(leaf.text) if isinstance(leaf, Leaf) else None for leaf in leaves]
    exact = [value.exact for value in read if value is not None]
    if len(exact) < len(leaves):
        return None
    if isinstance(node, Relation):
        signs = {"=": "==", r"\le": "<=", r"\ge": ">=", r"\ne": "!="}
        pairs = zip(exact, node.operators, exact[1:], strict=False)
        condition = And(*(Rel(left, right, signs.get(sign, sign)) for left, sign, right in pairs))
        return condition.as_set() if len(condition.free_symbols) == 1 else None
    if node.brackets == "{}":
        return FiniteSet(*exact)
    if len(exact) != 2 or node.brackets not in ("()", "(]", "[)", "[]") or exact[0] >= exact[1]:
        return None
    return Interval(*exact, node.brackets[0] == "(", node.brackets[1] == ")")
