"""Several processes decode what one process decodes, say it once when one of them fails, and end when they are told."""

import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from t3d import params
from t3d.decoding.decoder import decode
from t3d.decoding.request import DecodingOptions, Request
from t3d.distributed import collectives
from t3d.errors import MemoryTooSmallError
from t3d.evaluation import answers
from t3d.models.folder import load_tokenizer, mask_id
from t3d.models.sdar import load_model
from t3d.params import Budget, Sampling
from t3d.trajectories import rollout, shards
from t3d.trajectories.scoring import scores
from tests.artefacts import made
from tests.conftest import MASK, SHIPPED, tiny_model
from tests.started import Fork, running, set_up, t3d, typed, wait_for

EXPERIMENT = """
device: cpu
decoding_processes: 2
teachers: {pocket: {source: shipped, path: data/shipped/pocket-sdar}}
prompt_sets:
  gsm: {teacher: pocket, split: train, count: 5, difficulty: {max_steps: 3, max_number: 999}}
  asked: {teacher: pocket, split: test, count: 5, difficulty: {max_steps: 3, max_number: 999}}
  many: {teacher: pocket, split: train, count: 150, difficulty: {max_steps: 3, max_number: 999}}
trajectories:
  gsm: &gsm {prompts: gsm, budget: b8s8, batch_size: 1, max_new_tokens: 24, sampling: {temperature: 1.0}}
  scored: {<<: *gsm, scored: true}
  many: {prompts: many, budget: b8s8, batch_size: 1}
benchmarks: {gsm: {label: GSM, prompts: asked, task: gsm_boxed, batch_size: 2, max_new_tokens: 48}}
"""
TEACHER = "data/small/teachers/pocket.manifest.json"


def request_of(number):
    return Request([5 + number + i for i in range(3 + 5 * number % 9)], seed=number)


def decoded(count, sample, on_finished=None):
    """Responses of a small model to `count` requests, in the processes that there are."""
    model, options = tiny_model(), DecodingOptions(24, frozenset({7, 8, 9, 10}), MASK, sample, batch_size=1)
    return collectives.map_over_ranks(
        [request_of(number) for number in range(count)],
        lambda some, finished: decode(model, some, Budget.parse("b4s2"), options, finished),
        on_finished,
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("count", "several"), [(7, 2), (7, 3), (2, 3), (1, 2), (0, 2)])
def test_all_processes_have_the_responses_of_one(in_processes, temperature, count, several):
    """To the last bit where sequences are decoded alone; who shares a batch rounds confidences."""
    sample = Sampling(temperature=temperature)
    alone = decoded(count, sample)
    assert len(alone) == count
    assert in_processes(lambda _: decoded(count, sample), several) == [alone] * several


def test_progress_is_that_of_all_processes(in_processes):
    """Each takes the others to be as far as itself; one without a share says nothing."""

    def run(count):
        told = []
        decoded(count, Sampling(), on_finished=told.append)
        return told

    assert run(7) == [1] * 7
    assert in_processes(lambda _: run(7), 3) == [[3, 3, 1], [3, 3], [3, 3]]
    assert in_processes(lambda _: run(1)) == [[1], []]


def test_a_failure_in_one_process_ends_all_before_their_work_is_done(in_processes):
    """A launcher ends the others when one ends, as `in_processes` does."""

    def work(some, finished):
        for number, _ in enumerate(some):
            if collectives.rank() == 1 and number == 1:
                raise MemoryTooSmallError("choose a batch_size of 1.")
            time.sleep(0.1)
            finished(1)
        return [None for _ in some]

    started = time.monotonic()
    assert in_processes(lambda _: collectives.map_over_ranks(range(200), work), 3) == [None] * 3
    # 67 items take the others more than six seconds.
    assert time.monotonic() - started < 5


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A working directory with a small experiment, its prompts, and what one process decodes, in `one/`."""
    folder = set_up(tmp_path_factory.mktemp("project"), "small", EXPERIMENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small = params.find("small")
        made(small, folder / "data" / "small", *(f"prompts/{name}" for name in small.prompt_sets))
        given = folder / TEACHER, folder / prompts("gsm"), folder / "one" / "0-of-1.manifest.json"
        rollout.make(small, "gsm", "0-of-1", *given)
        given = folder / TEACHER, folder / prompts("asked"), folder / "one" / "b8s2.manifest.json"
        answers.make(small, "gsm", "b8s2", *given)
    return folder


def prompts(name):
    return f"data/small/prompts/{name}.manifest.json"


def rollout_line(folder, name="gsm", shard="0-of-1", asked=None):
    """The command that the workflow gives: the experiment says in how many processes."""
    line = ["rollout", "--experiment", "small", "--name", name, "--shard", shard, "--teacher", TEACHER]
    return [*line, "--prompts", prompts(asked or name), "--out", f"{folder}/0-of-1.manifest.json"]


def told(project, folder, name, kind):
    """The manifest or the receipt of what is in a folder."""
    return json.loads((project / folder / f"{name}.{kind}.json").read_text())


def test_a_shard_is_the_same_file(project, in_processes):
    in_processes(lambda _: typed(project, rollout_line("two")))
    files = [project / folder / "0-of-1.parquet" for folder in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(pq.read_table(files[1])) == 5
    assert told(project, "one", "0-of-1", "manifest") == told(project, "two", "0-of-1", "manifest")
    speeds = [told(project, folder, "0-of-1", "receipt")["speed"] for folder in ("one", "two")]
    assert [speed["processes"] for speed in speeds] == [1, 2]
    assert speeds[1]["tokens_per_second"] > 0


def test_scores_are_shared_too(project, in_processes):
    in_processes(lambda _: typed(project, rollout_line("scored", name="scored", asked="gsm")))
    found, plain = (shards.read(project / folder / "0-of-1.parquet")[0] for folder in ("scored", "one"))
    assert [replace(each, score=None) for each in found] == plain
    mask = mask_id(load_tokenizer(SHIPPED))
    expected = scores(load_model(SHIPPED), plain, block_size=8, steps=8, mask_id=mask)
    assert [each.score for each in found] == pytest.approx(expected, abs=1e-4)
    # Of its own rollouts the teacher was as certain when it decoded them; it gives the mask next to no probability.
    confidences = [np.log(each.confidence).mean() for each in found]
    assert [each.score for each in found] == pytest.approx(confidences, abs=1e-3)


def test_answers_are_the_same(project, in_processes, capfd):
    """In batches of other sequences, which round confidences."""
    line = ["generate-answers", "--experiment", "small", "--benchmark", "gsm", "--budget", "b8s2", "--model", TEACHER]
    line += ["--prompts", prompts("asked"), "--out", "three/b8s2.manifest.json", "--processes", "3"]
    assert in_processes(lambda _: typed(project, line), 3) == ["SystemExit: 0"] * 3
    # The main process alone says how far they all are.
    assert capfd.readouterr().err.count("answers pocket gsm b8s2: 5/5") == 1
    ours, theirs = (pq.read_table(project / folder / "b8s2.parquet").to_pylist() for folder in ("one", "three"))
    assert len(ours) == len(theirs) == 5
    for mine, other in zip(ours, theirs, strict=True):
        assert other.pop("confidence") == pytest.approx(mine.pop("confidence"), rel=1e-4, abs=1e-6)
        assert other == mine
    devices = [told(project, folder, "b8s2", "receipt")["decoding"]["device"] for folder in ("one", "three")]
    assert devices == ["cpu", "3 x cpu"]


def test_wrong_input_is_one_message(project, in_processes, capfd):
    assert in_processes(lambda _: typed(project, rollout_line("wrong", shard="1-of-2"))) == [
        "SystemExit: 1",
        "SystemExit: 0",
    ]
    errors = capfd.readouterr().err
    assert errors.count("t3d: no shard '1-of-2'; the experiment has 0-of-1.") == 1
    assert "Traceback" not in errors
    assert not (project / "wrong").exists()


@pytest.mark.parametrize("whom", ["launcher", "process"])
def test_the_end_of_one_is_the_end_of_all(project, whom):
    """A scheduler's SIGTERM goes to the launcher; the system's SIGKILL, for want of memory, to a process."""
    process = t3d(project, rollout_line(whom, name="many"), Fork)
    wait_for((project / whom / "0-of-1.partial").exists)
    time.sleep(1)
    if whom == "launcher":
        process.send_signal(signal.SIGTERM)
    else:
        os.kill(max(set(running(project)) - {process.pid}), signal.SIGKILL)
    said, errors = process.communicate(timeout=90)
    assert process.returncode == (143 if whom == "launcher" else 1), said + errors
    assert errors.count("was killed by SIGKILL") == (0 if whom == "launcher" else 1)
    assert "Traceback" not in errors
    wait_for(lambda: not running(project), seconds=60)
    assert not [path for path in (project / whom).iterdir() if path.is_file()]
