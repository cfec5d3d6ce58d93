"""The one rule for randomness: a seed is a hash of the experiment's seed and of what is drawn.

A rollout, a training state or an answer depends on its own item alone: not on batch size, shard count or order.
"""

import hashlib


def seed_for(experiment_seed: int, stage: str, *item: int | str) -> int:
    """A 63-bit seed for `item` of `stage` (`seed_for(0, "rollout", prompt_id)`), the same on every platform."""
    text = "\x1f".join([str(experiment_seed), stage, *map(str, item)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
