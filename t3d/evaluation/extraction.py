"""Finds the program in an answer.

An answer is Markdown, but few-step decoding damages it: fences are missing, doubled, indented or glued to the code. A
CommonMark parser reads such text as the standard says, and the standard opens a block at a lone closing fence, keeps
the rest of the answer in a block that is not closed, and ends a block at a fence inside a docstring. So this module
finds fences line by line and asks Python which piece of the text is a program that defines the function.

1. An answer that is Python as a whole is the program.
2. Otherwise it is the first *block* that Python can read and that defines the function, unless the function is a stub:
   a docstring, `pass`, `...` or `raise NotImplementedError` and nothing else. Stubs quote the question; they come
   last, after blocks that assign or import the function.
3. Where there is no such block, a piece of text outside the blocks is one, from a line where code begins up to the
   last paragraph that Python can read: one fence or both are missing. A block that is not closed ends like this, too.
4. Otherwise no piece can be right, except as the rest of a HumanEval prompt: the first block with the function's
   `def`, or the first block that Python can read, or what stands before a lone fence, or the first block, or all.

A fence is three or more backticks or tildes, at any indentation, in a list item or a quotation, or backticks at the end
of a line. A fence with an info string (```` ```python ````) opens a block and ends the one before it; a fence without
one closes an open block if it is at least as long. A fence inside a triple-quoted string closes nothing. Quotation
marks and indentation that the lines of a block share are not part of it.
"""

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

# What may stand before a fence that has a line of its own: indentation, quotation marks, the mark of a list item.
_MARGIN = r"(?:[ \t>]|[-*+][ \t]|\d+[.)][ \t])*"
_BACKTICKS = re.compile(r"(?P<before>(?:(?!```).)*)(?P<fence>`{3,})(?P<info>[^`]*)")
_TILDES = re.compile(rf"(?P<before>{_MARGIN})(?P<fence>~{{3,}})(?P<info>.*)")
_ONE_LINE = re.compile(r"`{3,}(?:python3?|py)?[ \t]*([^`\n]+?)[ \t]*`{3,}", re.IGNORECASE)
_BEGINS_CODE = re.compile(r"[ \t]*(?:(?:def|async[ \t]+def|class|from|import)[ \t]|@\w|\w+[ \t]*=[^=])")
# The line break after the language is missing.
_CODE_AFTER_LANGUAGE = re.compile(r"(?i:python3?|py)?[ \t]*((?:(?:def|async[ \t]+def|class|from|import)[ \t]|@\w).*)")
_MOST_FENCES_IN_STRING = 20
# Marks of other formats; they are read where there is no fence.
_TAGS = re.compile(r"^[ \t]*(?:<(?:pre|code)[^>]*>|\[BEGIN\])+|(?:</(?:pre|code)>|\[DONE\])+[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class _Piece:
    """Lines of an answer between two fences."""

    content: str
    is_block: bool
    """Whether an opening fence stands before it."""
    is_closed: bool
    """Whether it is a block and a closing fence stands after it."""


@dataclass(frozen=True)
class _Fence:
    character: str
    length: int
    before: str
    info: str

    @property
    def has_own_line(self) -> bool:
        return re.fullmatch(_MARGIN, self.before) is not None


def program_in(text: str, function: str) -> str:
    """The program of an answer, by the rule above.

    Args:
        text: the answer.
        function: name of the function that the question asks for.

    Returns:
        Python source; part of `text` but for indentation, quotation marks and the kind of line ends.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "```" not in text and "~~~" not in text:
        text = _TAGS.sub("\n```\n", text)
    if _defines(_parse(text), function):
        return text
    pieces = list(_pieces(text, function))
    blocks = [piece for piece in pieces if piece.is_block]
    others = [piece for piece in pieces if not piece.is_block]
    programs = [program for piece in [*blocks, *others] if (program := _program(piece, function)) is not None]
    contents = [piece.content for piece in blocks]
    choices = [
        *sorted(programs, key=lambda program: _rank(program, function)),
        *(content for content in contents if defines(content, function)),
        *(content for content in contents if _is_code(content)),
        *(piece.content for piece in others[:1] if _is_code(piece.content)),
        *contents,
        text,
    ]
    return choices[0]


def defines(program: str, function: str) -> bool:
    """Whether a program, perhaps a broken one, defines a function at its top level."""
    tree = _parse(program)
    if tree is None:
        return re.search(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(function)}\b", program, re.MULTILINE) is not None
    return _defines(tree, function)


def _pieces(text: str, function: str) -> Iterator[_Piece]:
    """Blocks and what is between them, in order; the first piece stands before the first fence."""
    lines = text.split("\n")
    outside: list[str] = []
    number = 0
    while number < len(lines):
        fence = _fence(lines[number])
        if fence is None:
            outside.append(lines[number])
            number += 1
            continue
        if not fence.has_own_line:
            outside.append(fence.before)
        # If this fence closes a block that nothing opens, the block has the fence's margin.
        yield _Piece(_unmarked(outside, fence), is_block=False, is_closed=False)
        outside = []
        end, closing = _end_of_block(lines, number, fence, function)
        content = lines[number + 1 : end]
        if code := _CODE_AFTER_LANGUAGE.fullmatch(fence.info):
            content.insert(0, code.group(1))
        if closing is not None and not closing.has_own_line:
            content.append(closing.before)
        is_closed = closing is not None and not closing.info
        block = _Piece(_unmarked(content, fence), is_block=True, is_closed=is_closed)
        yield block
        if "```" in block.content and _parse(block.content) is None:
            # A longer fence around all of an answer.
            yield from _pieces(block.content, function)
        number = end + is_closed
    yield _Piece("\n".join(outside), is_block=False, is_closed=False)
    for match in _ONE_LINE.finditer(text):
        yield _Piece(match.group(1), is_block=True, is_closed=True)


def _fence(line: str) -> _Fence | None:
    match = _TILDES.fullmatch(line) or _BACKTICKS.fullmatch(line)
    if match is None:
        return None
    fence = match["fence"]
    return _Fence(fence[0], len(fence), match["before"], match["info"].strip())


def _end_of_block(lines: list[str], opening: int, fence: _Fence, function: str) -> tuple[int, _Fence | None]:
    """The line after the last one of a block, and the fence there; none if the answer ends first."""
    ends: list[tuple[int, _Fence | None]] = []
    for number in range(opening + 1, len(lines)):
        found = _fence(lines[number])
        if found is None or found.character != fence.character or found.length < fence.length:
            continue
        # Backticks with something on either side are part of a line of code.
        if found.has_own_line or not found.info:
            ends.append((number, found))
    ends.append((len(lines), None))
    first = _unmarked(lines[opening + 1 : ends[0][0]], fence)
    if len(ends) > 1 and _ends_in_string(first):
        # More would take seconds where decoding repeats itself.
        for end in ends[1:_MOST_FENCES_IN_STRING]:
            if _defines(_parse(_unmarked(lines[opening + 1 : end[0]], fence)), function):
                return end
    return ends[0]


def _unmarked(lines: list[str], fence: _Fence) -> str:
    """Lines without the quotation marks and the indentation that they share with the fence before or after them."""
    margin = fence.before if fence.has_own_line else ""
    for _ in range(margin.count(">")):
        lines = [re.sub(r"^[ \t]{0,3}> ?", "", line) for line in lines]
    inner = margin.rpartition(">")[2]
    # What follows the mark of a list item is indented by as much.
    indentation = " " * len(inner) if inner.strip() else inner
    if all(line.startswith(indentation) or not line.strip() for line in lines):
        lines = [line.removeprefix(indentation) for line in lines]
    return "\n".join(lines)


def _program(piece: _Piece, function: str) -> str | None:
    """What Python can read of a piece, if it defines the function."""
    if piece.is_block:
        for content in (piece.content, textwrap.dedent(piece.content)):
            if (tree := _parse(content)) is not None:
                return content if _defines(tree, function) else None
        if piece.is_closed:
            return None
    lines = piece.content.split("\n")
    named = re.compile(rf"\b{re.escape(function)}\b")
    # Where no line is left that names the function, none defines it.
    last = max((number for number, line in enumerate(lines) if named.search(line)), default=-1)
    for start in range(last + 1):
        if _BEGINS_CODE.match(lines[start]):
            program = _readable(lines[start:])
            if _defines(_parse(program), function):
                return program
    return None


def _readable(lines: list[str]) -> str:
    """The first paragraphs that Python can read: without a fence, a blank line separates code from text."""
    indentation = re.match(r"[ \t]*", lines[0])
    lines = [line.removeprefix(indentation[0] if indentation else "") for line in lines]
    while lines:
        source = "\n".join(lines)
        tree, error = _read(source)
        if tree is not None:
            return source.rstrip("\n")
        if error is None:
            break
        # A program that keeps the line of the error cannot be parsed; a function that is cut in the middle does not
        # count.
        last = min(error.lineno or 1, len(lines)) - 1
        ends = (end for end in range(last, 0, -1) if not lines[end - 1].strip() and lines[end][:1].strip())
        lines = lines[: next(ends, 0)]
    return ""


def _read(source: str) -> tuple[ast.Module | None, SyntaxError | None]:
    """The syntax tree of a program, or where Python cannot read it, or neither."""
    try:
        with warnings.catch_warnings():
            # Of escapes such as "\d", which are the program's affair.
            warnings.simplefilter("ignore")
            return ast.parse(source), None
    except SyntaxError as error:
        return None, error
    # Expressions nested 6000 deep end in a MemoryError, a NUL or half a surrogate pair in a ValueError.
    except (ValueError, RecursionError, MemoryError):
        return None, None


def _parse(source: str) -> ast.Module | None:
    tree, _ = _read(source)
    return tree


def _ends_in_string(source: str) -> bool:
    _, error = _read(source)
    return error is not None and (error.msg or "").startswith("unterminated triple-quoted")


def _is_code(source: str) -> bool:
    """Whether this is some Python, perhaps the body of a function."""
    tree = _parse(textwrap.dedent(source))
    return tree is not None and bool(tree.body)


def _definitions(body: list[ast.stmt], function: str) -> Iterator[ast.stmt]:
    """Statements, but for classes, that bind a name at a module's top level, branches of `if` and `try` included."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            if statement.name == function:
                yield statement
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            if function in {alias.asname or alias.name for alias in statement.names}:
                yield statement
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(target, ast.Name) and target.id == function for target in targets):
                yield statement
        elif isinstance(statement, ast.If | ast.Try | ast.With):
            inner = [child for child in ast.iter_child_nodes(statement) if isinstance(child, ast.stmt)]
            inner += [child for handler in getattr(statement, "handlers", []) for child in handler.body]
            yield from _definitions(inner, function)


def _defines(tree: ast.Module | None, function: str) -> bool:
    return tree is not None and any(_definitions(tree.body, function))


def _rank(program: str, function: str) -> int:
    """0 if the program has the function with a body, 1 if it assigns or imports it, 2 if it is a stub."""
    tree = _parse(program)
    definitions = list(_definitions(tree.body, function)) if tree else []
    functions = [node for node in definitions if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    if not all(_does_nothing(statement) for node in functions for statement in node.body):
        return 0
    return 1 if len(functions) < len(definitions) else 2


def _does_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Expr(ast.Constant()):
            return True
        case ast.Raise(ast.Name("NotImplementedError") | ast.Call(ast.Name("NotImplementedError"))):
            return True
    return False
