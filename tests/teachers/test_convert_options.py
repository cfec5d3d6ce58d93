"""Options of a conversion: the KL to the autoregressive model, and examples before the openings of tasks."""

import json

import pytest
import torch

from t3d.distillation import losses
from t3d.distillation.examples import Example
from t3d.distillation.states import draw_batch
from t3d.models import layout
from t3d.params import States
from t3d.prompts.reader import read_prompts
from t3d.provenance import lineage, recipes, store
from t3d.teachers import convert
from tests.artefacts import made
from tests.autoregressive import content_of, experiment_of, tiny_tokenizer, write_causal
from tests.conftest import MASK, tiny_autoregressive, tiny_model


def test_openings_stand_after_examples_that_are_no_part_of_the_task(tmp_path):
    """Two questions of a training split before each opening; turns take the openings in turns."""
    model = write_causal(tmp_path / "published")
    content = content_of(tmp_path, model)
    openings = ["Write a function to", "Say why "]
    content["prompt_sets"] |= {
        "openings": {
            "teacher": "ar",
            "domain": "openings",
            "openings": openings,
            "examples": "train",
            "count": 5,
            "split": "train",
        },
        "written": {"teacher": "ar", "domain": "written", "generations": "tasks", "split": "train"},
    }
    content["generations"]["tasks"] = {"prompts": "openings", "samples": 6, "max_new_tokens": 60}
    made(experiment_of(tmp_path, content), tmp_path, "prompts/written")
    questions = {p.text for p in read_prompts(store.read(tmp_path / "prompts/train.manifest.json"))}
    opened = read_prompts(store.read(tmp_path / "prompts/openings.manifest.json"))
    assert len(opened) == 5
    for number, turn in enumerate(opened):
        *shown, opening = turn.text.split("\n\n")
        assert opening == openings[number % 2]
        assert len(set(shown)) == 2
        assert set(shown) <= questions
        assert tiny_tokenizer().decode(turn.prompt_ids) == f"<|im_start|>user\n{turn.text}"
    tasks = read_prompts(store.read(tmp_path / "prompts/written.manifest.json"))
    assert all(task.text.startswith(tuple(openings)) for task in tasks)
    texts = {"examples": ["Say a.", "Say b.", "Say c."]}
    content["prompt_sets"]["after-texts"] = content["prompt_sets"]["openings"] | texts
    opened = read_prompts(store.read(made(experiment_of(tmp_path, content), tmp_path, "prompts/after-texts")))
    assert {text for turn in opened for text in turn.text.split("\n\n")[:2]} == {"Say a.", "Say b.", "Say c."}


@pytest.mark.parametrize("block_size", [4, 8])
def test_the_kl_to_the_autoregressive_model_is_its_definition(monkeypatch, block_size):
    """Block by block and token by token, in float64: KL(p_AR(. | x_<i) || p(. | x_t)) and its gradient."""
    # The shorter row is the second: they are read one by one, and put back in order.
    monkeypatch.setattr(layout, "_TOGETHER", 1)
    examples = [
        Example("a", [5, 6, 7, 8, 9], [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]),
        Example("b", [9, 8], [30, 31, 32, 33, 34, 35]),
    ]
    student, causal = tiny_model(1).double(), tiny_autoregressive("qwen3", seed=2).double().requires_grad_(False)
    batch = draw_batch(
        examples, [0, 0], States(kind="block"), steps=0, block_size=block_size, mask_id=MASK, vocabulary=60, seed=3
    )
    loss, parts = losses.with_causal(student, causal, 0.25, batch)
    loss.backward()
    found = [parameter.grad.clone() for parameter in student.parameters()]
    student.zero_grad()
    ce, kl = [], []
    for row, example in enumerate(examples):
        ids = torch.tensor([example.prompt_ids + example.response_ids])
        expected = causal(ids).logits[0].log_softmax(dim=-1)
        first = len(example.prompt_ids) // block_size * block_size
        terms = []
        for start in range(first, ids.shape[1], block_size):
            block = slice(start - first, start - first + block_size)
            read = torch.cat([ids[:, :start], batch.noisy_input[row : row + 1, block]], dim=1)
            numbers = torch.arange(read.shape[1])
            sees = numbers // block_size <= numbers[:, None] // block_size
            log_p = student(read, attention_mask=sees[None], position_ids=numbers[None]).logits[0].log_softmax(dim=-1)
            for place in batch.masked[row, block].nonzero()[:, 0] + start:
                target = expected[place - 1]
                terms.append((-log_p[place, ids[0, place]], (target.exp() * (target - log_p[place])).sum()))
        ce.append(torch.stack([term[0] for term in terms]).mean())
        kl.append(torch.stack([term[1] for term in terms]).mean())
    likelihood, divergence = torch.stack(ce).mean(), torch.stack(kl).mean()
    assert float(parts["likelihood_term"]) == pytest.approx(likelihood.item(), rel=1e-5)
    assert float(parts["ar_term"]) == pytest.approx(divergence.item(), rel=1e-4)
    plain = 0.75 * likelihood + 0.25 * divergence
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    plain.backward()
    for one, parameter in zip(found, student.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, rtol=1e-3, atol=1e-6)


def test_a_weight_of_the_autoregressive_model_changes_the_recipe_and_the_weights(tmp_path):
    """Unset it is no part of the recipe; set, the conversion learns something else and logs the KL."""
    content = content_of(tmp_path, write_causal(tmp_path / "published"))
    content["teachers"]["sdar"]["conversion"] |= {"steps": 6, "probes": 2}
    plain = experiment_of(tmp_path, content)
    assert "ar_weight" not in str(recipes.artefact_params(plain, "teachers/sdar"))
    before = store.read(made(plain, tmp_path, "teachers/sdar"))
    content["teachers"]["sdar"]["conversion"]["ar_weight"] = 0.5
    weighted = experiment_of(tmp_path, content)
    assert recipes.digest(weighted, "teachers/sdar") != recipes.digest(plain, "teachers/sdar")
    out = tmp_path / "weighted" / "sdar.manifest.json"
    origins = [store.read(tmp_path / f"{each}.manifest.json") for each in lineage.inputs_of(plain, "teachers/sdar")]
    convert.make(weighted, "sdar", out, origins)
    after = store.read(out)
    assert after.digest() != before.digest()
    log = [json.loads(line) for line in (after.folder() / "training.jsonl").read_text().splitlines()]
    for entry in log:
        mean = (entry["likelihood_term"] + entry["ar_term"]) / 2
        assert entry["loss"] == pytest.approx(mean, rel=1e-5)
