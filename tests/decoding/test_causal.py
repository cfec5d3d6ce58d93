"""Autoregressive models in the engine: what transformers writes, and the same whatever the batch."""

import pytest
import torch

from t3d.decoding import engine
from t3d.decoding.request import NO_MASK, DecodingOptions, Request
from t3d.params import Sampling
from tests.conftest import SHAPES, tiny_autoregressive

STOPS = frozenset({5, 6, 7})


def prompts(count, shortest=1):
    generator = torch.Generator().manual_seed(count)
    return [
        Request(torch.randint(8, 97, (shortest + n % 11,), generator=generator).tolist(), seed=n) for n in range(count)
    ]


def generate(model, items, **changes):
    options = {"stop_ids": STOPS, "max_new_tokens": 20, "mask_id": NO_MASK, "batch_size": 4} | changes
    return engine.run(model, items, None, DecodingOptions(**options))


@pytest.mark.parametrize("kind", SHAPES)
def test_greedy_is_what_transformers_writes(kind):
    model, items = tiny_autoregressive(kind), prompts(9)
    for item, response in zip(items, generate(model, items), strict=True):
        ids = torch.tensor([item.prompt_ids])
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, eos_token_id=sorted(STOPS)
        )
        expected = written[0, len(item.prompt_ids) :].tolist()
        assert response.ids == expected
        assert response.finish_reason == ("stop" if expected[-1] in STOPS else "length")
        assert response.length == len(expected) == response.denoising_steps
        assert response.commit_passes == 0


@pytest.mark.parametrize("kind", SHAPES)
def test_draws_depend_on_the_request_alone(kind, monkeypatch):
    monkeypatch.setattr(engine, "_PREFILL_TOKENS", 8)
    monkeypatch.setattr(engine, "_MIN_BLOCKS", 2)
    model, items, sample = tiny_autoregressive(kind), prompts(13), Sampling(temperature=0.9)
    alone = [generate(model, [item], sample=sample)[0].ids for item in items]
    together = [response.ids for response in generate(model, items[::-1], sample=sample, batch_size=5)][::-1]
    assert together == alone
    assert len(set(map(tuple, alone))) == len(items)


def test_draws_follow_the_models_distribution():
    """The first token of many seeds of one prompt, by its frequency."""
    model, prompt = tiny_autoregressive("qwen2"), [9, 30, 41]
    drawn = generate(
        model, [Request(prompt, seed) for seed in range(4000)], sample=Sampling(temperature=1.0), max_new_tokens=1,
        batch_size=500,
    )  # fmt: skip
    counts = torch.bincount(torch.tensor([response.ids[0] for response in drawn]), minlength=97) / 4000
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    assert (counts - expected).abs().max() < 0.03


def test_confidence_is_the_models_probability():
    model, prompt = tiny_autoregressive("qwen3"), [9, 30, 41]
    (response,) = generate(model, [Request(prompt, 0)])
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response.ids])).logits[0, len(prompt) - 1 : -1]
    expected = logits.softmax(-1).gather(1, torch.tensor(response.ids)[:, None])[:, 0]
    assert response.confidence == pytest.approx(expected.tolist(), rel=1e-4)
