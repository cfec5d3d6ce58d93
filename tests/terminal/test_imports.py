"""Nobody who asks for help or status, scores or plots loads what that does not need."""

import json
import subprocess
import sys
from importlib.util import find_spec

from t3d.terminal import parent
from tests.conftest import ROOT

PROGRAM = """
import contextlib, importlib, io, json, sys
sys.argv, modules = ["t3d", *json.loads(sys.argv[1])], json.loads(sys.argv[2])
with contextlib.redirect_stdout(io.StringIO()):
    for module in modules:
        importlib.import_module(module)
    if sys.argv[1:]:
        from t3d import cli
        with contextlib.suppress(SystemExit):
            cli.main()
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


def loaded(line, modules=()):
    command = [sys.executable, "-c", PROGRAM, json.dumps(line), json.dumps(modules)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


HEAVY = {"torch", "transformers", "lm_eval", "pandas", "numpy", "pyarrow", "scipy", "matplotlib", "sympy"}


def test_help_needs_no_parameters_and_status_nothing_to_draw_with():
    assert not loaded(["--help"]) & (HEAVY | {"pydantic", "yaml"})
    assert not loaded(["status"]) & (HEAVY | {"rich"})


def test_importing_the_package_is_cheap():
    assert not loaded([], ["t3d"]) & (HEAVY | {"pydantic", "yaml"})


def test_who_scores_or_plots_needs_no_pytorch():
    """All of them in one process, which loads what they share once."""
    assert "torch" not in loaded(
        [], [module for verb in ("score", "table", "figure") for module in parent.LOADED[verb]]
    )


def test_every_module_that_is_loaded_for_a_verb_is_there():
    from t3d.cli import app

    verbs = {command.name for command in app.registered_commands}
    assert parent.LOADED.keys() <= verbs
    assert all(find_spec(name) for modules in parent.LOADED.values() for name in modules)


def test_what_a_program_loads_is_seen():
    assert "numpy" in loaded([], ["numpy"])
