r"""Answers as text: the many spellings of one LaTeX expression become one, before anything is parsed.

`clean` keeps what an answer says and changes how it is written; `plain` is what is left of words; `without_unit` drops
the unit of a number. `structure.py` takes cleaned text apart.
"""

import re
from collections.abc import Callable
from fractions import Fraction

TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|.", re.DOTALL)
"""A command, an escaped character, or a character."""
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
# Letters that are read as a word, whose case says nothing; shorter ones and those without a vowel are variables.
_WORD = re.compile(r"(?i)no|(?=[a-z]*[aeiou])[a-z]{3,}")
_UNICODE = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": r"\times ",
        "·": r"\cdot ",
        "÷": r"\div ",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "±": r"\pm ",
        "∪": r"\cup ",
        "∈": r"\in ",
        "∅": r"\emptyset ",
        "\u00a0": " ",
    }
)


def _repeating(match: re.Match) -> str:
    r"""`0.1\overline{6}` as a fraction."""
    whole, once, again = match.group(1) or "0", match.group(2), match.group(3) or match.group(4)
    value = Fraction(int(whole + once + again) - int(whole + once), (10 ** len(again) - 1) * 10 ** len(once))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _mixed(match: re.Match) -> str:
    whole, numerator, denominator = match.groups()
    if int(numerator) >= int(denominator):
        return match.group()
    return rf"{whole}\frac{{{numerator}}}{{{denominator}}}"


def _joined(match: re.Match) -> str:
    return re.sub(r"\D", "", match.group())


_DEGREE = r"(?:\\circ|\\degree|°)"
_RULES: tuple[tuple[str, str | Callable[[re.Match], str]], ...] = (
    # Dollars and brackets around mathematics are no part of it; dollars of money are dropped below.
    (r"(?<!\\)\\[()\[\]]", ""),
    # How a fraction or a bracket is set says nothing.
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\displaystyle(?![a-zA-Z])", ""),
    (r"\\m?(?:left|right)(?![a-zA-Z])\s*\.?|\\[bB]igg?[lrm]?(?![a-zA-Z])", ""),
    (r"\\lbrace(?![a-zA-Z])", r"\\{"),
    (r"\\rbrace(?![a-zA-Z])", r"\\}"),
    (r"\\lbrack(?![a-zA-Z])", "["),
    (r"\\rbrack(?![a-zA-Z])", "]"),
    # Every font of upright text is \text; i and e are numbers in any font.
    (r"\\math(?:rm|it|bf)\s*\{\s*([ie])\s*\}", r"\1"),
    (r"\\(?:text(?:bf|it|rm|sf|tt|normal)?|math(?:rm|it|bf|sf|tt)|[mh]box)\s*\{", r"\\text{"),
    (r"_ *\{ *\\text\{([^{}]*)\} *\}|_ *\\text\{([^{}]*)\}", lambda match: f"_{{{match[1] or match[2]}}}"),
    (r"_ *\{ *(?:\\text\{)? *base *\}?", "_{"),
    # 10,\!080 and 1{,}450: a comma that separates thousands, and a negative blank that only moves things.
    (r",\s*\\!\s*", "{,}"),
    (r"\\!", ""),
    (r"\s*\{\s*,\s*\}\s*", "{,}"),
    # Blanks. An escaped one goes as a whole: its backslash alone would escape what follows.
    (r"(?<!\\)\\(?:[,;:>]|\s|(?:thin|med|thick)space(?![a-zA-Z]))|~|\s", " "),
    (r"(?<=\d)\{,\}(?=\d{3}(?!\d))", ""),
    (r" +", " "),
    (r"(?<![\d./_^])(?<![\da-zA-Z.] )\d{1,3}(?: \d{3})+(?![\d/])", _joined),
    (r"\\q?quad(?![a-zA-Z])", " "),
    # What stands for a unit whatever the question.
    (rf" *(?:\^ *(?:\{{ *{_DEGREE} *\}}|{_DEGREE})|\\degree(?![a-zA-Z])|°)(?: *(?:\\text\{{ *[CF] *\}}|[CF]\b))?", ""),
    (r"\\?%|\\text\{ *percent(?:age)? *\}", ""),
    (r"\\\$|\$|[€£¥¢]|\\(?:pounds|euro|cent)(?![a-zA-Z])", ""),
    (r" *\^ *(?:\{ *\\text\{ *(?:st|nd|rd|th) *\} *\}|\\text\{ *(?:st|nd|rd|th) *\})", ""),
    # Lists in words.
    (r" *,? *\\text\{ *,? *(?:and|or) *\} *", ", "),
    (r",? +(?:and|or) +", ", "),
    # Numbers.
    (r"(?<![\d}])\.(?=\d)", "0."),
    (r"(\d*)\.(\d*)\\(?:overline|bar|dot) *(?:\{ *(\d+) *\}|(\d))", _repeating),
    (r"(?<![\d.}_^])(\d+) +(\d+) */ *(\d+)(?!\d)", _mixed),
    # 6.63e-34, but not 2e-3, which may be a difference.
    (r"(?<![\w.])(\d+\.\d+)[eE]([+-]?\d+)", r"\1\\cdot 10^{\2}"),
    # Arguments in parentheses, and a base beside its argument.
    (r"(?<![\\a-zA-Z])sqrt(?= *[\d({\[])", r"\\sqrt"),
    (r"(\^|\\sqrt) *\(([^()]*)\)", r"\1{\2}"),
    (r"\\log *_ *(\d) ?(\d+)", r"\\log_{\1}{\2}"),
    # latex2sympy reads an integer beside a number as a mixed number: 2(3) as 5, (2)\frac{1}{2} as 5/2.
    (r"(?<![_^\d])(\d+) *(?=\()", r"\1\\cdot "),
    (r"\) *(?=\(|\\frac|\d)", r")\\cdot "),
    (r"\\varnothing(?![a-zA-Z])|Ø|\\\{ *\\\}", r"\\emptyset "),
    (r"\\leq(?:slant)?(?![a-zA-Z])|<=", r"\\le "),
    (r"\\geq(?:slant)?(?![a-zA-Z])|>=", r"\\ge "),
    (r"\\neq(?![a-zA-Z])", r"\\ne "),
    (r" +", " "),
)
_COMPILED = [(re.compile(pattern), replacement) for pattern, replacement in _RULES]


def trim(text: str) -> str:
    r"""Text without blanks around it; an escaped blank at its end, `5\ `, is one of them."""
    tokens = re.findall(r"\\.|.", text.lstrip(), re.DOTALL)
    while tokens and not tokens[-1].removeprefix("\\").strip():
        tokens.pop()
    return "".join(tokens)


def clean(text: str) -> str:
    """An answer in one spelling: of blanks, fonts, brackets, thousands, decimals, signs of units."""
    text = text.translate(_UNICODE)
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    return _braced(_joined_thousands(re.sub(r"[ .,;]+\Z", "", text).strip()))


_ARGUMENTS = {r"\frac": 2, r"\binom": 2, r"\sqrt": 1}


def _braced(text: str) -> str:
    r"""With braces around every argument: `\frac12` and `\frac1{2}` as `\frac{1}{2}`."""
    tokens, units, at = TOKEN.findall(text), [], 0
    while at < len(tokens):
        unit, at = _unit(tokens, at)
        units.append(unit)
    return "".join(units)


def _unit(tokens: list[str], at: int) -> tuple[str, int]:
    """The text in braces, the command with its arguments or else the token at a place, and the place behind it."""
    unit, at = tokens[at], at + 1
    if unit == "{":
        while at < len(tokens) and tokens[at] != "}":
            inner, at = _unit(tokens, at)
            unit += inner
        return (unit + "}", at + 1) if at < len(tokens) else (unit, at)
    if unit == r"\sqrt" and "[" in tokens[at : at + 2] and "]" in tokens[at:]:
        end = tokens.index("]", at) + 1
        unit, at = unit + "".join(tokens[at:end]).strip(), end
    for _ in range(_ARGUMENTS.get(unit.partition("[")[0], 0)):
        while at < len(tokens) and tokens[at] == " ":
            at += 1
        if at == len(tokens) or tokens[at] == "}":
            break
        argument, at = _unit(tokens, at)
        unit += argument if argument.startswith("{") else f"{{{argument}}}"
    return unit, at


_ZEROS = re.compile(r"(?<![\d.,_^])\d{1,3}(?:,0\d{2})+(?!\d|,\d{3})")
_THOUSANDS = re.compile(r"(?<![\d.,_^])\d{1,3}(?:,\d{3})+(?!\d|,\d)")


def _joined_thousands(text: str) -> str:
    r"""Without the commas in `20,000\pi`; `(1,200)` keeps its comma.

    A comma between three digits and at most three separates thousands unless it can separate elements. Outside of
    brackets it can if another comma beside it does so, as in `3,125,x`; inside of them, `(1,200)`, it always can
    unless commas with a blank do that, `(1,200, 5)`. No element is written with leading zeros: `(1,000)` is a number.
    """
    text = _ZEROS.sub(_joined, text)
    groups = list(_THOUSANDS.finditer(text))
    around = _innermost_brackets(text)
    within = {at for match in groups for at in range(match.start(), match.end())}
    # Brackets, each with a comma that separates elements, by whether a blank follows it.
    with_blank = {around[match.start()] for match in re.finditer(",(?= )", text)}
    without_blank = {around[m.start()] for m in re.finditer(",(?! )", text) if m.start() not in within}
    for match in reversed(groups):
        place = around[match.start()]
        if place not in without_blank and (place[0] in "{^" or place in with_blank):
            text = text[: match.start()] + match.group().replace(",", "") + text[match.end() :]
    return text


def _innermost_brackets(text: str) -> list[tuple[str, int]]:
    r"""For each character the brackets around it: the opening one, `^` for none, `s` for `\{`, and where it is."""
    places, stack = [], [("^", -1)]
    for match in TOKEN.finditer(text):
        token = match.group()
        if token in ("(", "[", "{", r"\{"):
            stack.append(("s" if token == r"\{" else token, match.start()))
        places += [stack[-1]] * len(token)
        if token in (")", "]", "}", r"\}") and len(stack) > 1:
            stack.pop()
    return places


def unwrapped(text: str) -> str:
    r"""Text without `\text{..}` around parts of it."""
    while True:
        text, count = _TEXT.subn(r"\1", text)
        if not count:
            return text


def plain(text: str) -> str:
    """Words without their markup: blanks, full stops, quotation marks and the parentheses of a choice are gone.

    A blank between two digits stays.
    """
    text = re.sub(r"[\"`]|\.(?!\d)", "", unwrapped(text))
    text = re.sub(r"(?<!\d) +| +(?!\d)", "", text)
    choice = re.fullmatch(r"[(\[]?([A-Za-z]+)[)\]]?:?", text)
    return choice.group(1) if choice else text


def is_words(text: str) -> bool:
    r"""Whether all letters of a text are in `\text{..}` or in words, so that their case says nothing."""
    outside = re.sub(r"\\[a-zA-Z]+", " ", _TEXT.sub(" ", text))
    runs = re.findall(r"[A-Za-z]+", outside)
    return bool(runs or _TEXT.search(text)) and all(_WORD.fullmatch(run) for run in runs)


def same_words(gold: str, answer: str) -> bool:
    """Whether two texts say the same, in upper or lower case if one of them is words."""
    one, other = plain(gold), plain(answer)
    if not one or not other:
        return False
    return one == other or (
        one.casefold() == other.casefold() and any(is_words(text) or has_date(text) for text in (gold, answer))
    )


_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_DAYS = "monday|tuesday|wednesday|thursday|friday|saturday|sunday"
# Words that belong to a number as its digits do: 4:30 p.m. is not 4:30 a.m.
_NO_UNIT = re.compile(
    rf"(?i)(?:(?<=[ {{])|(?<=:\d\d))(?:[ap]\.? ?m|b\.?c|a\.?d)\b|(?<![a-z])(?:noon|midnight|{_MONTHS}|{_DAYS})(?![a-z])"
)


def has_date(text: str) -> bool:
    """Whether words of a text are part of a time or a date, and not a unit."""
    return bool(re.search(r"\d", text) and _NO_UNIT.search(text))


_EXPONENT = r"(?: *\^ *(?:\d|\{ *-?\d *\})|[²³])?"
_MARKED = rf"\\text\{{[^{{}}]*\}}{_EXPONENT}"
_SHORT = "mm|cm|dm|km|ft|in|yd|mi|mg|kg|gm|lbs?|oz|ml|gal|sq|cc|cu|hrs?|mins?|secs?|yr|mph|kmp?h|am|pm|st|nd|rd|th"
_UNIT = re.compile(
    rf" *(?:{_MARKED}(?: *(?:/|\\cdot)? *{_MARKED})*|\\frac *\{{{_MARKED}\}} *\{{{_MARKED}\}})\Z"
    # Bare units need a number before them; words of four letters a blank, too.
    rf"|(?<=[\d}})]) *(?:{_SHORT})\.?{_EXPONENT}(?: */ *(?:{_SHORT}|[smh])\.?{_EXPONENT})?\Z"
    rf"|(?<=[\d}})]) +(?:(?:[a-zA-Z]+\.? )*[a-zA-Z]{{4,}}|men)\.?{_EXPONENT}\Z"
)
# Units of one letter, which a variable can be as well.
_LETTER = re.compile(r"(?<=[\d})])( *)[mgshltdc]\.?\Z")


def without_unit(text: str) -> str:
    r"""A number without its unit, marked as `\text{ cm}^2` or bare, of more than one letter."""
    while True:
        match = _UNIT.search(text)
        rest = text[: match.start()].rstrip() if match else ""
        # Only numbers and expressions have units.
        if not re.search(r"\w", _TEXT.sub("", rest)) or rest[-1] in "=+-*/^_(<>":
            return text
        text = rest


def without_letter(text: str, *, blank: bool) -> str:
    """A number without a unit of one letter, `5 m`; with `blank`, only if a blank separates them."""
    match = _LETTER.search(text)
    if match is None or (blank and not match.group(1)):
        return text
    return text[: match.start()]
