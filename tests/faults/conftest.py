"""The scoreboard of `make test-faults`: what was tried and what held, by section."""

import os
from collections import Counter

SECTIONS = {
    "faults/test_faults.py::test_it_holds[attacks": "attacks: archive, parameters, models, manifests, command line",
    "faults/test_faults.py::test_it_holds[inputs": "bad input, disks",
    "faults/test_faults.py": "the same command lines on good input",
    "faults/test_dvc.py": "DVC remote: attacks on a real one",
    "sandbox/": "sandbox: what a program gets, and leaves behind",
    "provenance/test_archive.py": "archive: names, kinds, modes, sizes",
    "provenance/test_remote.py": "DVC remote: lists, contents, local work",
    "provenance/test_two_writers.py": "two writers",
    "workflow/": "kills of jobs, and of Snakemake with all its jobs",
}


def pytest_terminal_summary(terminalreporter):
    """Print the table; a test of the kills counts as many times as it kills."""
    tried: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            name = next((title for part, title in SECTIONS.items() if part in report.nodeid), None)
            if name is not None and (report.when == "call" or outcome == "error"):
                count = int(os.environ.get("KILLS", "6")) if "through_kills" in report.nodeid else 1
                tried[name] += count
                held[name] += count * (outcome == "passed")
    if not tried:
        return
    terminalreporter.section("faults")
    for name in filter(tried.get, SECTIONS.values()):
        terminalreporter.write_line(f"{name:<70} tried {tried[name]:>4}, held {held[name]:>4}")
    everything = "everything held" if tried == held else "NOT everything held"
    terminalreporter.write_line(f"{'together':<70} tried {tried.total():>4}, held {held.total():>4}: {everything}")
