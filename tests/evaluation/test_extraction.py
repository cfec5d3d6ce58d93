"""Which program stands in an answer: fences wherever they are, damaged ones, and several blocks to choose from."""

import pytest

from t3d.evaluation.extraction import defines, program_in

F = "def f(n):\n    return 2 * n"
LISTED = "   def f(n):\n       return 2 * n"
QUOTED = "> def f(n):\n>     return 2 * n"
SAME = {
    "a block": f"```python\n{F}\n```",
    "a block without a language": f"Here:\n```\n{F}\n```\nDone.",
    "the whole answer": F,
    "Windows lines": f"```python\n{F}\n```\nDone.".replace("\n", "\r\n"),
    "tildes": f"~~~python\n{F}\n~~~",
    "four backticks": f"````python\n{F}\n````",
    "a longer closing fence": f"```python\n{F}\n`````\nDone.",
    "attributes": f"``` {{.python .numberLines}}\n{F}\n```",
    "a fence at the end of a sentence": f"Use `f`: ```python\n{F}\n```",
    "all of the answer in a longer fence": f"````\nHere:\n```python\n{F}\n```\n````",
    # Indentation and quotation marks.
    "a list item": f"1. The function:\n\n   ```python\n{LISTED}\n   ```\n\n2. It doubles n.",
    "a list item that begins with the fence": "- ```python\n  def f(n):\n      return 2 * n\n  ```\n- It doubles n.",
    "a tab": "\t```python\n\tdef f(n):\n\t    return 2 * n\n\t```",
    "indented fences only": f" ```python\n{F}\n ```",
    "an indented closing fence only": f"```python\n{F}\n   ```\nDone.",
    "an indented block between fences that are not": f"```python\n{LISTED}\n```",
    "a quotation": f"> ```python\n{QUOTED}\n> ```\n",
    "a quotation of a quotation": "> > ```python\n> > def f(n):\n> >     return 2 * n\n> > ```\n",
    "a quotation in a list": f"1. x\n   > ```python\n{QUOTED.replace('>', '   >')}\n   > ```\n",
    "a quotation whose opening fence is missing": f"{QUOTED}\n> ```\n",
    # Fences that are missing or not on a line of their own.
    "no opening fence": f"{F}\n```\nThis doubles n.",
    "no opening fence, and nothing after it": f"{F}\n```",
    "no opening fence after a sentence": f"Here it is:\n\n{F}\n```\nThis doubles n.",
    "no opening fence before a use": f"{F}\n```\nUse:\n```python\nprint(f(2))\n```",
    "no opening fence before a use in bare fences": f"{F}\n```\nUse:\n```\nprint(f(2))\n```",
    "no closing fence": f"```python\n{F}",
    "no closing fence before a sentence": f"```python\n{F}\n\nThis doubles n.",
    "no closing fence before a use": f"```python\n{F}\n\nUse it like this:\n```python\nprint(f(2))\n```",
    "another opening fence at the end": f"```python\n{F}\n```python\nDone.",
    "no fence around a function in a text": f"Here it is:\n\n{F}\n\nThis doubles n.",
    "a closing fence after the code": f"```python\n{F}```\nDone.",
    "an opening fence before the code": f"```python {F}\n```",
    "an opening fence before the code, without a language": f"```{F}\n```",
    # Other marks.
    "HTML": f"<pre><code>\n{F}\n</code></pre>",
    "begin and done": f"[BEGIN]\n{F}\n[DONE]",
    # Several blocks.
    "a block of imports": f"```python\nimport re\n```\n```python\n{F}\n```",
    "a shell block": f"```bash\npip install x\n```\n```python\n{F}\n```",
    "a method of that name": f"```python\nclass A:\n    def f(self): return 1\n```\n```python\n{F}\n```",
    "an empty block": f"```python\n```\n```python\n{F}\n```",
    "a second version": f"```python\n{F}\n```\nShorter:\n```python\nf = str\n\ndef f(s): return 5\n```",
    "a stub": f"```python\ndef f(n): ...\n```\n```python\n{F}\n```",
    "a stub with pass": f"```python\ndef f(n):\n    pass\n```\n```python\n{F}\n```",
    "the quoted signature": f"```python\nimport re\n\ndef f(n):\n    '''Twice n.'''\n```\n```python\n{F}\n```",
    "a stub that raises": f"```\ndef f(n):\n    '''?'''\n    raise NotImplementedError('f')\n```\n```\n{F}\n```",
    "a stub with a comment": f"```python\ndef f(n):\n    # here\n```\n```python\n{F}\n```",
    "a block that is no Python": f"```python\ndef f(n:\n    retrun\n```\nAgain:\n```python\n{F}\n```",
    "a use of an import": f"```python\nfrom solution import f\nprint(f(2))\n```\n```python\n{F}\n```",
    "a program outside and a block without it": f"{F}\n\n```text\n4\n```",
}
"""What is special -> an answer whose program is `F`."""

OTHERS = {
    "a fence in a docstring": (
        'def f(n):\n    """Twice.\n```\nf(1)\n```\n    """\n    return 2 * n',
        'Here:\n```python\ndef f(n):\n    """Twice.\n```\nf(1)\n```\n    """\n    return 2 * n\n```\nDone.',
    ),
    "an indented fence in a docstring": (
        'def f(n):\n    """Twice.\n    ```python\n    f(1)\n    ```\n    """\n    return 2 * n',
        '```python\ndef f(n):\n    """Twice.\n    ```python\n    f(1)\n    ```\n    """\n    return 2 * n\n```',
    ),
    "a fence in a string": (
        "def f(s):\n    return s.split('```')",
        "```\ndef f(s):\n    return s.split('```')\n```",
    ),
    "a docstring that does not end": ('def f(n):\n    """Twice', '```python\ndef f(n):\n    """Twice\n```\nDone.'),
    "one line": ("def f(n): return n", "```def f(n): return n```"),
    "one line with a language": ("def f(n): return n", "It is ```python def f(n): return n``` then."),
    "two blanks": ("def  f(n): return n", "```\nimport re\n```\n```\ndef  f(n): return n\n```"),
    "a coroutine": ("async def f(n): return n", "```\nimport re\n```\n```\nasync def f(n): return n\n```"),
    "a decorator": ("@cache\ndef f(n): return n", "```\nimport re\n```\nHere:\n@cache\ndef f(n): return n\n```\nDone."),
    "a lambda": ("f = lambda n: n", "```\nimport re\n```\n```\nf = lambda n: n\n```"),
    "an import": ("from math import gcd as f", "```\nx = 1\n```\n```\nfrom math import gcd as f\n```"),
    "a branch": ("if True:\n    def f(n): return n", "```\nimport re\n```\n```\nif True:\n    def f(n): return n\n```"),
    "imports and constants outside": (
        "import re\nN = 7\n\ndef f(n): return N",
        "Of course:\nimport re\nN = 7\n\ndef f(n): return N\n```\nDone.",
    ),
    "a second definition after a stub": (
        "def f(n): ...\n\ndef f(n): return n",
        "```\ndef f(n): ...\n\ndef f(n): return n\n```\n```\ndef f(n): return 0\n```",
    ),
    "stubs alone": ("def f(n): ...", "```\ndef f(n): ...\n```\n```\ndef f(n): pass\n```"),
    "a cut block": ("def f(n):\n    return n[", "```python\ndef f(n):\n    return n["),
    "a block cut in the middle": (
        "def f(n):\n    if n:\n        return 1\n\n    return n[",
        "```python\ndef f(n):\n    if n:\n        return 1\n\n    return n[",
    ),
    "a block cut after the function": ("def f(n):\n    return n", "```python\ndef f(n):\n    return n\n\nprint(f("),
    "a broken end": ("def f(n):\n    return n\n]", "```python\ndef f(n):\n    return n\n]"),
    "blocks of other functions": ("def g(n): return 1", "```\ndef g(n): return 1\n```\n```\ndef h(n): return 2\n```"),
    "the body alone": ("    return 2 * n", "```python\n    return 2 * n\n```"),
    "the body alone in a list": ("    return 2 * n", "1.\n   ```python\n       return 2 * n\n   ```"),
    "the body alone, no opening fence": ("    return 2 * n", "    return 2 * n\n```\nThis doubles n."),
    "no code": ("I cannot.", "I cannot."),
    "nothing": ("", ""),
}
"""What is special -> program, answer."""


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_the_program_is_found_whatever_stands_around_it(text):
    assert program_in(text, "f").strip() == F


@pytest.mark.parametrize(("program", "text"), OTHERS.values(), ids=OTHERS)
def test_the_program_is_found_as_it_was_written(program, text):
    assert program_in(text, "f") == program


def test_what_python_cannot_read_ends_in_no_error():
    for text in ("-" * 20_000 + "1", "```\ndef f(n): return '\0'\n```", "def f(n): return '\ud800'", "(" * 5000):
        assert isinstance(program_in(text, "f"), str)


def test_many_fences_take_no_time():
    for part in ("```\n", '```python\n"""\n', "~~~\n```python\n", "> ```\ndef f(n):\n", "from f\n"):
        assert isinstance(program_in(part * 300, "f"), str)


def test_a_broken_program_defines_a_function_as_well():
    assert defines("def f(n:\n", "f")
    assert defines("x = (\nasync  def f(n):\n", "f")
    assert not defines("def f2(n:\n", "f")
    assert not defines("class A:\n    def f(n:\n", "f")
