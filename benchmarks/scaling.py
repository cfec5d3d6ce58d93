"""How does T3D scale over the GPUs of one host? Training and decoding in 1, 2, 4 and 8 processes, as rules start them.

    python -m benchmarks.scaling --size 4b --processes 1 2 4 8 --out scaling.json    # --size tiny runs on a CPU

Random weights of the true shape go through the real verbs: `t3d fetch`, `teacher`, `prompts`, then for each number of
processes N `t3d rollout --processes N` and `t3d distill --processes N`, all on the same prompts and the same batches.
Efficiency is (tokens/s with N) / (N x tokens/s with the fewest). The rest of a step is spent waiting: for other
processes, for what is sent, for work too small to fill a GPU. The losses of every N are compared with those of the
fewest. A number of processes that fails is named with its error, and the others are still measured; its whole output is
in `failed-N.log`.

At last one student is trained with the most processes, killed (SIGKILL of one process), resumed with half of them,
ended by SIGTERM, and resumed with the most again. Its losses must be those of the run that nothing stopped.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from benchmarks import published
from benchmarks.json_file import json_file
from t3d.distillation.trainer import LOG
from t3d.provenance import store

RUN, SHARD = "t3d-seed0", "0-of-1"
STUDENT, ROLLOUTS = Path(f"data/scaling/students/{RUN}"), Path(f"data/scaling/trajectories/train/{SHARD}")
TEACHER = "data/scaling/teachers/random.manifest.json"
TIMES = {"train": 1, "more": 3}
"""Prompt sets and their trajectories, and how many times as many prompts as there are rollouts to learn from."""
WORK = Path("work")
_ERROR = re.compile(r"^(\[rank\d+\]: *)?[\w.]*(Error|Exception)\b")
_STATE = re.compile(r"state of step (\d+) saved in ([\d.]+) s|\(state read in ([\d.]+) s\)")


@dataclass
class Ran:
    """What a verb did: its exit status, seconds, output, and the seconds that its states took."""

    status: int
    seconds: float
    text: str
    saved: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)


def experiment_of(given: argparse.Namespace, folder: Path, device: str) -> dict[str, Any]:
    """The experiment's content: one teacher, its rollouts, and T3D as in `params/paper.yaml`.

    Args:
        given: the command line.
        folder: a model's folder as the hub has it.
        device: `cuda` or `cpu`.
    """
    files = {path.name: store.sha256(path) for path in sorted(folder.iterdir())}
    source = {"repository": "random/sdar", "kind": "model", "revision": "0" * 40, "files": files, "local": str(folder)}
    optimizer = {
        "steps": given.steps,
        "batch_size": given.batch,
        "micro_batch_size": given.micro,
        "learning_rate": 1e-5,
        "warmup_steps": 1,
        "recompute_activations": given.recompute,
    }
    rollouts = {"budget": "b8s8", "max_new_tokens": given.response, "batch_size": given.batch}
    student = {
        "label": "T3D",
        "trajectories": ["train"],
        "objective": {"name": "t3d", "refresh_every": given.steps},
        "states": {"kind": "trajectory", "random_tokens": 0.1},
        "checkpoint_every": max(1, given.steps // 3),
        "optimizer": optimizer,
    }
    return {
        "device": device,
        "sources": {"sdar": source},
        "teachers": {"random": {"source": "hub", "hub": "sdar", "dtype": "bfloat16"}},
        "prompt_sets": {
            name: {"teacher": "random", "split": "train", "count": times * given.rollouts}
            for name, times in TIMES.items()
        },
        "trajectories": {name: rollouts | {"prompts": name} for name in TIMES},
        "students": {"t3d": student},
    }


def t3d(*words: str, watch: Callable[[str, int], None] | None = None) -> Ran:
    """Run a verb of `t3d`.

    Args:
        words: the verb and its options; the experiment is added.
        watch: called with every line that it prints, and the id of its process.
    """
    started = time.perf_counter()
    line = [sys.executable, "-P", "-m", "t3d.cli", words[0], "--experiment", "scaling", *words[1:]]
    lines = []
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            lines.append(text)
            if watch is not None:
                watch(text, process.pid)
    ran = Ran(process.returncode, time.perf_counter() - started, "".join(lines))
    for _, saved, read in _STATE.findall(ran.text):
        (ran.saved if saved else ran.read).append(float(saved or read))
    return ran


class FailedError(Exception):
    """A verb ended with another status than 0. The message begins with the error; `text` is all that it printed."""

    def __init__(self, what: str, ran: Ran) -> None:
        """Of `what` was run, and what became of it."""
        super().__init__(f"{what} ended with status {ran.status}: {error_of(ran.text)}")
        self.text = ran.text


def error_of(text: str) -> str:
    """The first error that a program printed, with the lines that follow it; the last lines where there is none."""
    lines = text.strip().splitlines()
    first = next((number for number, line in enumerate(lines) if _ERROR.match(line)), max(0, len(lines) - 30))
    return "\n".join(lines[first : first + 30])


def wanted(ran: Ran, what: str) -> Ran:
    """The same, if the verb did not fail."""
    if ran.status:
        raise FailedError(what, ran)
    return ran


def rollout(processes: int) -> dict[str, Any]:
    """Decode prompts with so many processes; returns tokens/s and the sha256 of the responses to learn from."""
    # What is compiled is kept on the disk. Each job captures its graphs, so the start of one is taken off another.
    _decode("train", processes)
    (few, few_seconds), (more, more_seconds) = (_decode(name, processes) for name in TIMES)
    return {
        "decoded_tokens_per_second": (more - few) / (more_seconds - few_seconds),
        "decoding_seconds": [few_seconds, more_seconds],
        "rollouts": store.sha256(store.read(Path(f"{ROLLOUTS}.manifest.json")).file(".parquet")),
    }


def _decode(name: str, processes: int) -> tuple[int, float]:
    """Tokens of trajectories `name`, and the seconds that decoding them took."""
    out = ROLLOUTS.parent.parent / name / SHARD
    _forget(out)
    options = ["--name", name, "--shard", SHARD, "--teacher", TEACHER, "--processes", str(processes)]
    files = ["--prompts", f"data/scaling/prompts/{name}.manifest.json", "--out", f"{out}.manifest.json"]
    wanted(t3d("rollout", *options, *files), f"rollout {name}")
    manifest = store.read(Path(f"{out}.manifest.json"))
    tokens = manifest.facts["response_tokens"]
    return tokens, tokens / store.read_receipt(manifest)["speed"]["tokens_per_second"]


def distill(processes: int, watch: Callable[[str, int], None] | None = None) -> Ran:
    """Train the student with so many processes, or go on with it."""
    options = ["--run", RUN, "--teacher", TEACHER, "--work", str(WORK), "--data", f"{ROLLOUTS}.manifest.json"]
    return t3d("distill", *options, "--out", f"{STUDENT}.manifest.json", "--processes", str(processes), watch=watch)


def losses() -> list[float]:
    """The student's loss after each step."""
    return [json.loads(line)["loss"] for line in (STUDENT / LOG).read_text().splitlines()]


def train(processes: int) -> dict[str, Any]:
    """Train the student from its beginning; returns what its receipt and its log say."""
    _forget(STUDENT)
    shutil.rmtree(WORK, ignore_errors=True)
    ran = wanted(distill(processes), "distill")
    receipt = store.read_receipt(store.read(Path(f"{STUDENT}.manifest.json")))
    return {
        "trained_tokens_per_second": receipt["tokens_per_second"],
        "seconds_per_step": receipt["seconds_per_step"],
        "peak_gpu_memory_mb": receipt.get("peak_gpu_memory_mb"),
        "seconds": ran.seconds,
        "save_seconds": max(ran.saved, default=None),
        "losses": losses(),
    }


def interrupted(most: int) -> dict[str, Any]:
    """Train with `most` processes, half of them and `most` again, after SIGKILL and SIGTERM; what became of it."""
    _forget(STUDENT)
    shutil.rmtree(WORK, ignore_errors=True)

    def kill(text: str, pid: int) -> None:
        if "saved in" in text:
            children = psutil.Process(pid).children()
            (children[-1] if children else psutil.Process(pid)).kill()

    def terminate(text: str, pid: int) -> None:
        if "saved in" in text:
            os.kill(pid, signal.SIGTERM)

    half = max(1, most // 2)
    runs = [distill(most, kill), distill(half, terminate), wanted(distill(most), "distill")]
    return {
        "processes": [most, half, most],
        "statuses": [ran.status for ran in runs],
        "said": [ran.text.strip().splitlines()[-1] for ran in runs[:2]],
        "read_seconds": [max(ran.read, default=None) for ran in runs],
        "losses": losses(),
    }


def table(rows: list[dict[str, Any]], failed: list[dict[str, Any]]) -> str:
    """The measured rows as a Markdown table, and under it which numbers of processes failed, with their errors.

    Args:
        rows: of `rollout` and `train` together, with `processes`; the first has the fewest.
        failed: `processes` and `error` of the others.
    """
    lines = [
        "| processes | training, tokens/s | efficiency | s a step | GB a GPU | save, s | largest difference of a loss "
        "| decoding, tokens/s | efficiency |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        first = rows[0]
        share = {
            name: row[name] / first[name] * first["processes"] / row["processes"]
            for name in ("trained_tokens_per_second", "decoded_tokens_per_second")
        }
        gap = difference(row["losses"], first["losses"])
        memory = row["peak_gpu_memory_mb"]
        cells = [
            str(row["processes"]),
            f"{row['trained_tokens_per_second']:,.0f}",
            f"{share['trained_tokens_per_second']:.0%}",
            f"{row['seconds_per_step']:.2f}",
            "" if memory is None else f"{memory / 953.7:.0f}",
            "" if row["save_seconds"] is None else f"{row['save_seconds']:.1f}",
            f"{gap:.1e}",
            f"{row['decoded_tokens_per_second']:,.0f}",
            f"{share['decoded_tokens_per_second']:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for row in failed:
        one_line = row["error"].splitlines()[0]
        lines += ["", f"{row['processes']} processes failed (failed-{row['processes']}.log): {one_line}"]
    return "\n".join(lines)


def difference(found: list[float], expected: list[float]) -> float:
    """The largest relative difference of two runs' losses, step by step; inf if they have not as many steps."""
    if len(found) != len(expected):
        return float("inf")
    return max(abs(one - other) / abs(other) for one, other in zip(found, expected, strict=True))


def _forget(artefact: Path) -> None:
    for path in artefact.parent.glob(f"{artefact.name}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def main() -> None:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=published.SIZES, default="4b", help="whose shape")
    parser.add_argument(
        "--processes", nargs="+", type=int, default=[1, 2, 4, 8], help="numbers to compare, fewest first"
    )
    parser.add_argument("--batch", type=int, default=64, help="rollouts per optimizer step, over all processes")
    parser.add_argument("--micro", type=int, default=4, help="rollouts per forward")
    parser.add_argument("--rollouts", type=int, default=128, help="prompts that are decoded")
    parser.add_argument("--response", type=int, default=512, help="tokens of a response")
    parser.add_argument("--steps", type=int, default=9, help="optimizer steps")
    parser.add_argument("--recompute", action="store_true", help="recompute activations")
    parser.add_argument("--folder", type=Path, default=Path("scaling"), help="folder to work in; it is emptied first")
    parser.add_argument("--only-speed", action="store_true", help="leave the interrupted run out")
    parser.add_argument("--out", type=json_file, help="JSON file to write")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out_file = given.out and given.out.resolve()
    if given.folder.exists() and not (given.folder / "params" / "scaling.yaml").is_file():
        parser.error(f"--folder {given.folder} is there and was not made by this benchmark: name another, or remove it")
    shutil.rmtree(given.folder, ignore_errors=True)
    (given.folder / "params").mkdir(parents=True)
    os.chdir(given.folder)
    model = Path("random").resolve()
    # In a process of its own: what this one had put on a GPU would stay there beside what is measured.
    line = [sys.executable, "-P", "-m", "benchmarks.published", "--size", given.size, "--out", str(model)]
    subprocess.run(line, check=True)
    Path("params/scaling.yaml").write_text(yaml.safe_dump(experiment_of(given, model, device)))
    source = "data/scaling/sources/sdar.manifest.json"
    wanted(t3d("fetch", "--name", "sdar", "--work", "fetching", "--out", source), "fetch")
    wanted(t3d("teacher", "--name", "random", "--source", source, "--out", TEACHER), "teacher")
    for name in TIMES:
        out = f"data/scaling/prompts/{name}.manifest.json"
        wanted(t3d("prompts", "--name", name, "--teacher", TEACHER, "--out", out), "prompts")
    content: dict[str, Any] = {"size": given.size, "device": device, "torch": torch.__version__}
    content |= {"rows": [], "failed": []}
    if device == "cuda":
        content["device"] = torch.cuda.get_device_name()

    def keep() -> None:
        if out_file:
            out_file.write_text(json.dumps(content, indent=1) + "\n")

    def attempt(processes: int, measure: Callable[[], None]) -> None:
        try:
            measure()
        except FailedError as error:
            Path(f"failed-{processes}.log").write_text(error.text)
            content["failed"].append({"processes": processes, "error": str(error)})
        keep()

    def scale(processes: int) -> None:
        content["rows"].append({"processes": processes} | rollout(processes) | train(processes))
        print(f"{processes} processes are measured.", flush=True)

    def interrupt(most: int) -> None:
        found = interrupted(most)
        found["difference"] = difference(found["losses"], content["rows"][-1]["losses"])
        content["interrupted"] = found
        print(json.dumps({key: value for key, value in found.items() if key != "losses"}, indent=1))

    most = max(given.processes)
    for processes in sorted(given.processes):
        attempt(processes, partial(scale, processes))
    if len({row["rollouts"] for row in content["rows"]}) > 1:
        print("The rollouts differ: bf16 rounds by the number of rows.")
    if not given.only_speed and [row for row in content["rows"] if row["processes"] == most]:
        attempt(most, partial(interrupt, most))
    print(table(content["rows"], content["failed"]))
    sys.exit(bool(content["failed"]))


if __name__ == "__main__":
    main()
