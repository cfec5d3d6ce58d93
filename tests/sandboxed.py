"""Programs for the sandbox, honest and hostile, and the limits that they get."""

from pathlib import Path

import pytest

from t3d.sandbox.sandbox import Limits, Verdict, check_cases
from t3d.sandbox.zygote import find_bwrap

bubblewrap = pytest.mark.skipif(
    find_bwrap() is None, reason="bubblewrap is not installed: the code benchmark cannot be scored here"
)
KINDS = ["process", pytest.param("bubblewrap", marks=bubblewrap)]
LIMITS = Limits(seconds=0.5, memory_mb=256, output_kb=64)
"""With a second every hostile program is ended for the same reason; one that returns a flood takes 0.25 to 0.5 s."""
CASES = check_cases([(2, 4), (10, 100), ([1, 2], [1, 4])])
PASSED = Verdict(True, "passed")
HONEST = "def f(x):\n    return [y * y for y in x] if isinstance(x, list) else x * x"
HOSTILE = dict(
    part.split("\n", 1)
    for part in (Path(__file__).parent / "sandbox" / "hostile_programs.txt").read_text().split("### ")[1:]
)
"""What it does -> the program."""
