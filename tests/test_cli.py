"""Wrong input at the command line: one message that names file and field, exit status 1, nothing half-written."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import pydantic
import pytest
import typer
from pydantic_core import SchemaError, SchemaValidator, core_schema
from typer.testing import CliRunner

from t3d import cli, params
from t3d.cli import app
from t3d.errors import ParameterError, in_a_sentence, of_system, reading
from t3d.provenance import lineage
from t3d.terminal import client
from tests.conftest import ROOT
from tests.started import clone, forked


@pytest.fixture
def project(tmp_path):
    return clone(tmp_path)


def files(project):
    return sorted(p.relative_to(project).as_posix() for p in (project / "data").rglob("*") if p.is_file())


def refused(project, message, *arguments):
    before = files(project)
    done = forked(project, arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert files(project) == before
    return done.stderr


TEACHER = "data/demo/teachers/pocket-sdar.manifest.json"
TRAIN = "data/demo/prompts/gsm-train.manifest.json"


def test_unknown_experiment(project):
    message = refused(
        project,
        "unknown experiment 'dmeo'",
        *("prompts", "--experiment", "dmeo", "--name", "x", "--teacher", TEACHER, "--out", TRAIN),
    )
    assert "Experiments there: convert, demo, paper, pocket" in message


def test_unknown_key(project):
    path = project / "params" / "demo.yaml"
    path.write_text(path.read_text().replace("learning_rate:", "learning_rat:"))
    message = refused(
        project,
        "students.sft.optimizer.learning_rat: unknown key",
        *("prompts", "--experiment", "demo", "--name", "gsm-train", "--teacher", TEACHER, "--out", TRAIN),
    )
    assert "params/demo.yaml" in message


def test_missing_and_damaged_inputs(project):
    arguments = ("rollout", "--experiment", "demo", "--name", "gsm", "--shard", "0-of-2", "--teacher", TEACHER)
    out = ("--prompts", TRAIN, "--out", "data/demo/trajectories/gsm/0-of-2.manifest.json")
    refused(project, f"{TEACHER} is missing: make it first", *arguments, *out)
    made = forked(project, ["teacher", "--experiment", "demo", "--name", "pocket-sdar", "--out", TEACHER])
    assert made.returncode == 0, made.stderr
    refused(project, f"{TRAIN} is missing: make it first", *arguments, *out)
    weights = project / "data" / "demo" / "teachers" / "pocket-sdar" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    prompts = ("prompts", "--experiment", "demo", "--name", "gsm-train", "--teacher", TEACHER, "--out", TRAIN)
    refused(project, "model.safetensors: the content does not match", *prompts)


def test_an_out_that_is_no_manifest(project):
    refused(
        project,
        "--out must end in .manifest.json",
        *("teacher", "--experiment", "demo", "--name", "pocket-sdar", "--out", "data/demo/teacher"),
    )


def test_help_explains_every_verb_and_option():
    verbs = typer.main.get_command(app).commands
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    for name, verb in verbs.items():
        assert name in done.stdout
        assert verb.help
        assert all(option.help for option in verb.params)
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0


def test_every_verb_means_the_experiment_that_snakemake_means():
    rules = (ROOT / "workflow" / "rules" / "common.smk").read_text()
    (default,) = re.findall(r'config.get\("experiment", "(\w+)"\)', rules)
    options = [o for verb in typer.main.get_command(app).commands.values() for o in verb.params]
    defaults = {o.default for o in options if o.name in ("experiment", "like") and not o.required}
    assert defaults == {default, None}  # None: of `trace`, which takes it from the path


STAGES = {"sources": "fetch", "teachers": "teacher", "generations": "generate", "trajectories": "rollout"}
STAGES |= {"verdicts": "judge", "students": "distill", "answers": "generate-answers", "scores": "score"}


@pytest.mark.parametrize("name", ["demo", "pocket", "paper", "convert"])
def test_every_input_of_an_artefact_is_an_option_of_its_verb(name):
    verbs = typer.main.get_command(app).commands
    experiment = params.load(ROOT / "params" / f"{name}.yaml")
    for artefact in lineage.artefacts_of(experiment, lineage.targets(experiment, on_request=True).values()):
        kind = artefact.partition("/")[0]
        options = {option.name: option for option in verbs[STAGES.get(kind, kind)].params}
        for role, sources in lineage.named_inputs_of(experiment, artefact).items():
            assert len(sources) == 1 or options[role].multiple


def test_an_option_takes_all_manifests_up_to_the_next_one():
    def taken(*words):
        context = typer.main.get_command(app).commands["distill"].make_context("distill", [*given, *words])
        return context.params["student"], context.params["data"]

    given = [f"--{name}=x" for name in ("experiment", "run", "teacher", "work", "out")]
    a, b, c = map(Path, "abc")
    assert taken("--data", "a", "b", "--student", "c") == ([c], [a, b])
    assert taken("--student", "--data", "a", "--data=b") == ((), [a, b])
    with pytest.raises(typer.BadParameter, match="data"):
        taken("--student", "c", "--data")


def test_an_unreachable_server_is_no_unwritable_file():
    assert of_system(ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub.")) == (
        "Couldn't reach 'openai/gsm8k' on the Hub."
    )
    assert of_system(OSError(errno.EIO, "")).startswith("a file, or what this prints: ")


def test_without_a_project_the_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match=f"{tmp_path} has no folder params: change to the folder of the project"):
        params.find("demo")


def test_a_closed_output_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", None)
    with in_a_sentence():
        print(sys.stdout.isatty())
    with pytest.raises(SystemExit, match="1"), in_a_sentence():
        raise ParameterError("it says so.")
    assert capsys.readouterr().err == "t3d: it says so.\n"


def test_ctrl_c_before_a_verb_begins_is_no_traceback(capsys):
    with pytest.raises(SystemExit, match="130"), in_a_sentence():
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "t3d: interrupted.\n"


def pressed_at_first(method, value):
    """An object with this method, which returns `value`; when it is first called, Ctrl-C comes."""
    presses = iter([signal.SIGINT])

    def called(_):
        for number in presses:
            signal.raise_signal(number)
        return value

    return type("Pressed", (), {method: called})()


def schema_of_asked():
    """A schema of which a validator asks, while it is built, how a value is written."""
    return core_schema.literal_schema([pressed_at_first("__repr__", "asked")])


def rebuild():
    """Pydantic builds a validator, and does without a value's hash, which Ctrl-C comes in."""
    schema = core_schema.literal_schema([pressed_at_first("__hash__", 0)])
    pydantic.TypeAdapter(Annotated[int, pydantic.GetPydanticSchema(lambda *_: schema)])


class Gone:
    """Ctrl-C comes as it goes."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ctrl_c():
    """Ctrl-C does what Python does without us: tests that run in a shell's background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_that_a_library_takes_for_an_error_of_its_own_is_ctrl_c(capsys):
    with pytest.raises(SchemaError, match="KeyboardInterrupt"):
        SchemaValidator(schema_of_asked())
    for reads in (nullcontext(), reading("results.csv")):
        with pytest.raises(SystemExit, match="130"), in_a_sentence(), reads:
            SchemaValidator(schema_of_asked())
        assert capsys.readouterr().err == "t3d: interrupted.\n"


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("lose", [rebuild, Gone])
def test_ctrl_c_where_it_would_be_lost_is_raised_a_moment_later(lose, capsys):
    def lasts():
        lose()
        time.sleep(60)

    with pytest.raises(SystemExit, match="130"), in_a_sentence():
        lasts()
    assert capsys.readouterr().err == "t3d: interrupted.\n"


def test_a_program_that_ignores_ctrl_c_still_does():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with in_a_sentence():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_modules_load_is_no_traceback():
    program = """if True:
        import signal, sys

        class Finder:
            def find_spec(self, name, *_):
                if name == "typer":
                    signal.raise_signal(signal.SIGINT)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.meta_path.insert(0, Finder())
        from t3d.terminal.client import main
        main()
    """
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (130, "t3d: interrupted.\n")


POOL = """
import os, signal, sys, time
from t3d.errors import in_a_sentence, process_pool
signal.signal(signal.SIGINT, getattr(signal, sys.argv[2]))
with in_a_sentence(), process_pool(2, sys.argv[1]) as pool:
    there = set()
    while len(there) < 2:
        there |= {job.result() for job in [pool.submit(os.getpid) for _ in range(10)]}
    # One of them waits for work, the other has some, when Ctrl-C comes to all.
    job = pool.submit(time.sleep, 1)
    os.killpg(0, signal.SIGINT)
    print(job.result())
"""


@pytest.mark.parametrize(("handler", "ends"), [("default_int_handler", (130, "")), ("SIG_IGN", (0, "None\n"))])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_ctrl_c_ends_a_pool_of_processes_without_a_word(start, handler, ends):
    """Unless the program ignores it."""
    command = [sys.executable, "-c", POOL, start, handler]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, timeout=60)
    assert (done.returncode, done.stdout) == ends
    assert done.stderr == ("t3d: interrupted.\n" if done.returncode else "")


def test_ctrl_c_while_the_processes_of_a_pool_start_is_no_traceback(tmp_path):
    """Each loads modules first; here that takes a second."""
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.sleep(1)\n")
    program = """if True:
        import os, signal, time
        from t3d.errors import in_a_sentence, process_pool
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with in_a_sentence(), process_pool(2, "spawn") as pool:
            job = pool.submit(os.getpid)
            time.sleep(0.3)
            os.killpg(0, signal.SIGINT)
    """
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=60,
        env=environment,
    )
    assert (done.returncode, done.stderr) == (130, "t3d: interrupted.\n")


@pytest.mark.usefixtures("ctrl_c")
def test_the_command_takes_no_ctrl_c_for_a_damaged_file(monkeypatch, capsys):
    def app():
        with reading("results.csv"):
            SchemaValidator(schema_of_asked())

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(client, "collect_seldom", lambda: None)
    monkeypatch.delenv(client.ADDRESS, raising=False)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # set by the command, and taken back here
    with pytest.raises(SystemExit, match="130"):
        client.main()
    assert capsys.readouterr().err == "t3d: interrupted.\n"
