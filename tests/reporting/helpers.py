"""A tiny experiment, and its scores on disk as the score stage leaves them, answers and models in their lineage."""

import json
from pathlib import Path

import pandas as pd
import pytest

from t3d.params import AUTOREGRESSIVE, Budget, Experiment, find
from t3d.provenance import archive, writer
from tests.artefacts import inputs_of
from tests.conftest import ROOT

BUDGETS = ("b4s2", "b8s4", "b8s1")
ANSWERS = {
    ("teacher", "b4s2"): "11100000",
    ("teacher", "b8s4"): "10000000",
    ("teacher", "b8s1"): "10000000",
    ("t3d-seed0", "b4s2"): "11110000",
    ("t3d-seed0", "b8s4"): "11111100",
    ("t3d-seed0", "b8s1"): "00000000",
    ("t3d-seed1", "b4s2"): "01111100",
    ("t3d-seed1", "b8s4"): "11111111",
    ("t3d-seed1", "b8s1"): "10000000",
}
"""Model, budget -> whether each of eight questions was answered correctly."""


def experiment(**changes: object) -> Experiment:
    """One teacher, one student of two seeds, one benchmark, a table and a figure; `changes` replace top-level keys."""
    optimizer = {"steps": 2, "batch_size": 2, "learning_rate": 1e-4}
    student = {
        "label": "T3D",
        "trajectories": "rollouts",
        "objective": {"name": "t3d"},
        "states": {"kind": "trajectory"},
        "optimizer": optimizer,
        "seeds": [0, 1],
    }
    shown = {"teacher": "teacher", "students": ["t3d"], "benchmarks": ["gsm"], "budgets": BUDGETS}
    content: dict[str, object] = {
        "name": "tiny",
        "teachers": {"teacher": {"source": "pretrain", "pretraining": {}}},
        "prompt_sets": {
            "learn": {"teacher": "teacher", "split": "train", "count": 4},
            "ask": {"teacher": "teacher", "split": "test", "count": 8},
        },
        "trajectories": {"rollouts": {"prompts": "learn"}},
        "students": {"t3d": student},
        "benchmarks": {"gsm": {"label": "GSM_100%", "prompts": "ask", "task": "gsm_boxed"}},
        "tables": {"accuracy": {"caption": "Accuracy & speed", **shown}},
        "figures": {"accuracy": {"caption": "Accuracy", **shown}},
    }
    return Experiment.model_validate(content | changes)


def write_score(
    made_by: Experiment,
    root: Path,
    model: str,
    benchmark: str,
    budget: str,
    correct: str,
    ids: list[str] | None = None,
    speed: dict[str, object] | None = None,
) -> Path:
    """Write one score and what it was made from below `root`; returns its manifest. `speed` adds to its receipt."""
    artefact = f"scores/{model}/{benchmark}/{budget}"
    out = root / f"{artefact}.manifest.json"
    right = [answer == "1" for answer in correct]
    with writer.writing(made_by, artefact, out, inputs_of(made_by, root, artefact)) as job:
        rows = {
            "id": ids or [f"{benchmark}-{i}" for i in range(len(right))],
            "extracted": [None if not answer else "42" for answer in right],
            "correct": pd.Series(right, dtype=bool),
            "response_tokens": 16,
            "denoising_steps": 8,
        }
        pd.DataFrame(rows).to_parquet(job.file(".parquet"))
        summary = {
            "model": model,
            "benchmark": benchmark,
            "budget": budget,
            "n": len(right),
            "correct": sum(right),
            "accuracy": sum(right) / len(right) if right else None,
            "denoising_steps": 8 * len(right),
            "commit_passes": 4 * len(right),
            "response_tokens": 16 * len(right),
            "tokens_per_step": Budget.parse(budget).tokens_per_step,
            "tokens_per_forward": 1.0,
            "finish_reasons": {"stop": len(right), "length": 0},
        }
        job.file(".json").write_text(json.dumps(summary))
        job.receipt["decoding"] = {"tokens_per_second": 100.0, "batch_size": 4, "device": "cpu"} | (speed or {})
    return out


def write_scores(made_by: Experiment, root: Path) -> list[Path]:
    """Write the scores of `ANSWERS`; returns their manifests."""
    return [write_score(made_by, root, model, "gsm", budget, right) for (model, budget), right in ANSWERS.items()]


def with_autoregressive() -> Experiment:
    """The tiny experiment with an autoregressive model, `ar`, in its table, one of decoding, `cost`, and a figure,
    `level`."""
    plain = experiment().model_dump(mode="json", exclude_unset=True)
    plain["teachers"]["ar"] = {"source": "pretrain", "attention": "causal", "label": "AR (vLLM)", "pretraining": {}}
    plain["tables"]["accuracy"]["autoregressive"] = "ar"
    plain["tables"]["cost"] = plain["tables"]["accuracy"] | {"kind": "decoding"}
    plain["figures"]["level"] = plain["figures"]["accuracy"] | {"autoregressive": "ar"}
    return Experiment.model_validate(plain)


def write_served(made_by: Experiment, root: Path, correct: str = "11111110") -> Path:
    """Write the score of the autoregressive model, which vLLM answered 100 tokens a second and, alone, 20."""
    alone = {"questions": 4, "tokens_per_second": 20.0, "latency_seconds": 0.8}
    return write_score(made_by, root, "ar", "gsm", AUTOREGRESSIVE, correct, speed={"one_at_a_time": alone})


def write_answers(made_by: Experiment, root: Path, model: str, benchmark: str, budget: str, rows: list[dict]) -> Path:
    """Write recorded answers (response_ids, step_map, response_tokens) below `root`; returns their manifest."""
    artefact = f"answers/{model}/{benchmark}/{budget}"
    out = root / f"{artefact}.manifest.json"
    with writer.writing(made_by, artefact, out, inputs_of(made_by, root, artefact)) as job:
        pd.DataFrame(rows).to_parquet(job.file(".parquet"))
    return out


def write_student(made_by: Experiment, root: Path, run: str, log: list[dict]) -> Path:
    """Write a student that holds its training log alone; returns its manifest."""
    out = root / "students" / f"{run}.manifest.json"
    with writer.writing(made_by, f"students/{run}", out, inputs_of(made_by, root, f"students/{run}")) as job:
        (job.folder() / "training.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    return out


def write_gaps(made_by: Experiment, root: Path, model: str, trajectories: str, gaps: pd.DataFrame) -> Path:
    """Write the factorisation gaps of a model (id, interval, gap, terms); returns their manifest."""
    artefact = f"factorisation/{model}/{trajectories}"
    out = root / f"{artefact}.manifest.json"
    with writer.writing(made_by, artefact, out, inputs_of(made_by, root, artefact)) as job:
        gaps.to_parquet(job.file(".parquet"), index=False)
    return out


def with_figure(**figure: object) -> Experiment:
    """The tiny experiment with one figure, `shown`, over its teacher, student and benchmark; `figure` adds fields."""
    of_kind = {
        "accuracy": {"teacher": "teacher", "benchmarks": ["gsm"], "budgets": BUDGETS},
        "commits": {"teacher": "teacher", "benchmarks": ["gsm"], "budgets": ["b4s2"]},
        "factorisation": {"teacher": "teacher", "trajectories": ["rollouts"]},
        "training": {},
    }[str(figure.get("kind", "accuracy"))]
    return experiment(figures={"shown": {"caption": "Shown", "students": ["t3d"], **of_kind, **figure}})


def unpack(folder: Path, experiment: str = "pocket") -> None:
    """Make `folder` a project with what an experiment published in it."""
    for name in ("params", "results"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        archive.restore(find(experiment))
