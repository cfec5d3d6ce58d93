"""Decoding: the prompt guard, independence of the batch, step maps, budgets, and a slow reference."""

import pytest
import torch

from t3d.decoding import remasking
from t3d.decoding.request import Request
from t3d.models.masks import block_causal
from t3d.params import Budget, Sampling
from tests.conftest import MASK
from tests.decoding.small import DYNAMIC, STATIC, prompts, requests, run


def reference_decode(model, prompt, budget, max_new_tokens, stop_ids, guard=True):
    """The method, literally: no cache, no batch, one full forward per step, greedy. Returns ids and step map."""
    size, ids, steps = budget.block_size, list(prompt), []
    while True:
        start = len(ids) // size * size
        block = ids[start:] + [MASK] * (size - (len(ids) - start))
        visible = len(ids) - start
        taken = [0] * size
        step = 0
        while MASK in block:
            step += 1
            sequence = torch.tensor([ids[:start] + block])
            blocks = torch.arange(sequence.shape[1])[None] // size
            logits = model(sequence, attention_mask=block_causal(blocks, blocks)).logits[0, start:].double()
            logits[:, MASK] = float("-inf")
            best = logits.softmax(-1).max(-1)
            masked = [i for i in range(size) if block[i] == MASK]
            ranked = sorted(masked, key=lambda i: -best.values[i].item())
            if budget.steps:
                share, rest = divmod(size, budget.steps)
                quota = share + (step <= rest)
                chosen = ranked[:quota]
                if not guard:
                    chosen += [i for i in range(size) if i not in masked][: quota - len(chosen)]
            else:
                chosen = [i for i in masked if best.values[i] > budget.threshold] or ranked[:1]
            for i in chosen:
                block[i], taken[i] = best.indices[i].item(), step
        ids = ids[:start] + block
        steps += taken[visible:]
        new = ids[len(prompt) :]
        if len(new) >= max_new_tokens or any(token in stop_ids for token in new):
            return new, steps


@pytest.mark.parametrize("budget", STATIC)
def test_without_the_prompt_guard_a_surplus_overwrites_visible_tokens(model, budget):
    """Released behaviour: both sides of the switch, against the reference."""
    parsed, items, overwritten = Budget.parse(budget), requests(8), 0
    guarded, unguarded = (
        run(model, items, budget, max_new_tokens=12, sample=Sampling(prompt_guard=guard)) for guard in (True, False)
    )
    for item, response, safe in zip(items, unguarded, guarded, strict=True):
        ids, steps = reference_decode(model, item.prompt_ids, parsed, 12, frozenset(), guard=False)
        assert (response.ids, response.step_map) == (ids, steps)
        overwritten += response.ids != safe.ids
    spills = any(len(item.prompt_ids) % parsed.block_size for item in items) and parsed.steps < parsed.block_size
    assert (overwritten > 0) == spills


@pytest.mark.parametrize("budget", STATIC + DYNAMIC)
def test_equals_the_slow_reference(model, budget):
    for item, response in zip(requests(8), run(model, requests(8), budget, max_new_tokens=12), strict=True):
        ids, steps = reference_decode(model, item.prompt_ids, Budget.parse(budget), 12, frozenset())
        assert response.ids == ids
        assert response.step_map == steps


@pytest.mark.parametrize(("budget", "temperature"), [("b4s2", 0.0), ("b8s8", 1.0), ("b8t0.3", 1.0)])
def test_tokens_do_not_depend_on_batch_size_or_order(model, budget, temperature):
    items, sample = requests(16), Sampling(temperature=temperature)
    alone, *others = (run(model, items, budget, batch_size=n, sample=sample) for n in (1, 7, 16))
    others.append(run(model, items[::-1], budget, batch_size=7, sample=sample)[::-1])
    for other in others:
        assert [(r.ids, r.step_map, r.finish_reason) for r in other] == [
            (r.ids, r.step_map, r.finish_reason) for r in alone
        ]


def test_seeds_matter_with_temperature_only(model):
    prompt = prompts(1)[0]
    pair = [Request(prompt, 1), Request(prompt, 2)]
    warm = run(model, pair, "b4s2", sample=Sampling(temperature=1.0))
    cold = run(model, pair, "b4s2")
    assert warm[0].ids != warm[1].ids
    assert cold[0].ids == cold[1].ids


@pytest.mark.parametrize("budget", STATIC + DYNAMIC)
def test_a_visible_token_never_changes(model, budget, monkeypatch):
    """The prompt guard: for every prompt length modulo the block, only masked positions are ever committed."""
    original = remasking.choose

    def watched(log_odds, masked, *arguments):
        chosen = original(log_odds, masked, *arguments)
        assert not (chosen & ~masked).any()
        assert (chosen.sum(1) >= 1)[masked.any(1)].all()
        return chosen

    monkeypatch.setattr(remasking, "choose", watched)
    items = requests(9, shortest=1)
    for item, response in zip(items, run(model, items, budget), strict=True):
        assert (len(item.prompt_ids) + len(response.ids)) % Budget.parse(budget).block_size == 0
        assert MASK not in response.ids


@pytest.mark.parametrize("budget", ["b4s4", "b4s3", "b8s2", "b8s8"])
def test_step_map_and_forward_counts(model, budget):
    parsed = Budget.parse(budget)
    for item, response in zip(requests(8), run(model, requests(8), budget), strict=True):
        start = len(item.prompt_ids)
        blocks = {}
        for offset, step in enumerate(response.step_map):
            blocks.setdefault((start + offset) // parsed.block_size, []).append(step)
        assert all(set(steps) == set(range(1, max(steps) + 1)) for steps in blocks.values())
        assert response.denoising_steps == sum(max(steps) for steps in blocks.values())
        assert response.commit_passes == len(blocks) - 1
        assert len(response.confidence) == len(response.ids)
        assert all(0 < c <= 1 for c in response.confidence)


def test_stop_token_ends_a_response_and_its_block_is_kept_whole(model):
    free = run(model, requests(5), "b4s2")
    stop = free[0].ids[6]
    for item, before, response in zip(
        requests(5), free, run(model, requests(5), "b4s2", stop_ids=frozenset([stop])), strict=True
    ):
        if stop not in before.ids:
            assert response.finish_reason == "length"
            continue
        first = before.ids.index(stop)
        assert response.finish_reason == "stop"
        assert response.length == first + 1
        assert response.ids == before.ids[: len(response.ids)]
        end = len(item.prompt_ids) + len(response.ids)
        assert end % 4 == 0
        assert end - (len(item.prompt_ids) + first) <= 4


def test_length_limit(model):
    for response in run(model, requests(5), "b8s4", max_new_tokens=9):
        assert response.finish_reason == "length"
        assert 9 <= len(response.ids) < 9 + 8
