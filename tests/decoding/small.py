"""Budgets of every kind, requests of every length, and how a small model decodes them."""

import torch

from t3d.decoding.decoder import decode
from t3d.decoding.request import DecodingOptions, Request
from t3d.params import Budget
from tests.conftest import MASK

STATIC = ["b4s4", "b4s3", "b4s2", "b4s1", "b8s8", "b8s3", "b8s1", "b3s2", "b1s1"]
DYNAMIC = ["b4t0.9", "b8t0.3", "b8t0.05"]
MANY_STOPS = frozenset([*range(4, 24), *range(100, 130)])
"""50, of which a small model can write the first 20."""


def prompts(count, shortest=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 97, (shortest + i % 11,), generator=generator).tolist() for i in range(count)]


def requests(count, **kwargs):
    return [Request(prompt, seed=1000 + i) for i, prompt in enumerate(prompts(count, **kwargs))]


def run(model, items, budget, **kwargs):
    others = {name: kwargs.pop(name) for name in ("engine", "on_finished") if name in kwargs}
    options = {"mask_id": MASK, "stop_ids": frozenset(), "max_new_tokens": 20} | kwargs
    return decode(model, items, Budget.parse(budget), DecodingOptions(**options), **others)
