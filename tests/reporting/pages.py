"""A tiny project on disk whose report can be made: real tokens, a table beside the paper's values, a figure."""

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from t3d.models.folder import load_tokenizer
from t3d.params import Budget, Experiment
from t3d.provenance import writer
from t3d.reporting import figures, tables
from tests.artefacts import inputs_of, pack_texts
from tests.conftest import SHIPPED
from tests.reporting import helpers

LABEL = 'T3D <b>&"bold"</b>'
QUESTION = "What is 6 × 7?</script><script>alert(1)</script>"
END = 2
"""`<|im_end|>` of the shipped tokenizer; 0 fills the block after it."""


@dataclass(frozen=True)
class Answer:
    """A recorded answer: token ids and texts, and the step of its block that committed each token."""

    ids: list[int]
    texts: list[str]
    steps: list[int]
    block: int

    def visible(self, frames: int) -> list[str]:
        """Texts of the tokens that are there after so many steps, in order of place."""
        blocks = [range(at, at + self.block) for at in range(0, len(self.ids), self.block)]
        order = [(places, step) for places in blocks for step in sorted({self.steps[i] for i in places})]
        shown = {i for places, step in order[:frames] for i in places if self.steps[i] == step}
        return [self.texts[i] for i in sorted(shown)]


def experiment() -> Experiment:
    """One teacher (the shipped one's tokenizer), one student whose label is markup, one benchmark."""
    plain = helpers.experiment()
    content = plain.model_dump(mode="json", exclude_unset=True)
    content["teachers"] = {"teacher": {"source": "shipped", "path": "data/shipped/pocket-sdar"}}
    content["students"]["t3d"]["label"] = LABEL
    content["tables"]["accuracy"] |= {"paper_table": 1, "paper_rows": {"t3d": "T3D"}}
    return Experiment.model_validate(content)


@cache
def answer(model: str, budget: str, question: int) -> Answer:
    """What a model answered: a sentence of its own, committed from the last place of a block to the first."""
    tokenizer, parsed = load_tokenizer(SHIPPED), Budget.parse(budget)
    text = f"{model} says:\nthe answer is \\boxed{{{question}}}."
    ids = [*tokenizer.encode(text, add_special_tokens=False), END]
    ids += [0] * (-len(ids) % parsed.block_size)
    per_step = parsed.block_size // (parsed.steps or 1)
    steps = [(parsed.block_size - 1 - i % parsed.block_size) // per_step + 1 for i in range(len(ids))]
    return Answer(ids, [tokenizer.decode([i]) for i in ids], steps, parsed.block_size)


def write_project(folder: Path) -> Experiment:
    """Make the project in `folder`, which is the working directory; its scores are those of `helpers.ANSWERS`."""
    (folder / "data").mkdir()
    (folder / "data" / "shipped").symlink_to(SHIPPED.parent)
    (folder / "params").mkdir()
    (folder / "params" / "reported.csv").write_text(
        "table,model,method,benchmark,block_size,steps_per_block,tokens_per_step,remasking,metric,value,note\n"
        "1,Teacher,Original,gsm,4,2,2,low_confidence_static,accuracy,40.50,\n"
        "1,Teacher,T3D,gsm,4,2,2,low_confidence_static,accuracy,39.25,\n"
        "1,Teacher,T3D,gsm,8,1,8,low_confidence_static,accuracy,37.75,\n"
    )
    made, root = experiment(), Path("data", "tiny")
    with writer.writing(made, "teachers/teacher", root / "teachers" / "teacher.manifest.json") as job:
        for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(SHIPPED / name, job.folder())
        shutil.copy(SHIPPED / "chat_template.jinja", job.folder())
    asked = root / "prompts" / "ask.manifest.json"
    with writer.writing(made, "prompts/ask", asked, inputs_of(made, root, "prompts/ask")) as job:
        rows = [
            {"id": f"gsm-{i}", "domain": "gsm", "split": "test", "text": f"{i}. {QUESTION}", "prompt_ids": [1, 2]}
            | {"reference": "It is 42.", "reference_ids": [3, 2], "answer": "42"}
            for i in range(8)
        ]
        job.file(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        job.facts["prompts"] = len(rows)
    for model, budget in helpers.ANSWERS:
        write_answers(made, root, model, budget)
    scores = helpers.write_scores(made, root)
    tables.write(made, "accuracy", scores, Path("results", "tiny", "accuracy.csv"))
    figures.write(made, "accuracy", scores, Path("results", "tiny", "figures", "accuracy.pdf"))
    return made


def write_answers(made: Experiment, root: Path, model: str, budget: str) -> None:
    """Record a model's answers to all questions at a budget."""
    rows = []
    for i in range(8):
        one = answer(model, budget, i)
        rows.append(
            {"id": f"gsm-{i}", "response_ids": one.ids, "step_map": one.steps, "finish_reason": "stop"}
            | {"confidence": [0.5 + step / 100 for step in one.steps], "response_tokens": one.ids.index(END) + 1}
        )
    helpers.write_answers(made, root, model, "gsm", budget, rows)


def remove(kind: str) -> None:
    """Delete every artefact of a kind."""
    shutil.rmtree(Path("data", "tiny", kind))


def publish_texts(markup: str = "") -> None:
    """Leave of the answers their texts alone, as an experiment publishes them; `markup` ends each."""
    remove("answers")
    keys = [f"{model}/{budget}" for model, budget in helpers.ANSWERS if model != "t3d-seed1"]
    lines = [{"id": f"gsm-{i}", "answers": {key: f"{key} says {i}{markup}" for key in keys}} for i in range(8)]
    # A budget that is in no table, and one without a number of steps.
    for line in lines:
        line["answers"] |= {"teacher/b8s8": f"slowly {line['id']}", "teacher/b8t0.9": "sure"}
    pack_texts("tiny", {"gsm": lines})


def cells() -> pd.DataFrame:
    """The table's CSV."""
    return pd.read_csv("results/tiny/accuracy.csv")
