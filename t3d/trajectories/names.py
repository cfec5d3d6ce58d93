"""Names of trajectory shards; the workflow needs them without loading PyTorch."""

from t3d.params import Trajectories


def shard_names(trajectories: Trajectories, seed: int = 0) -> list[str]:
    """`0-of-2`, `1-of-2`; where a student decodes, those of one of its seeds: `seed0-0-of-2`, `seed0-1-of-2`."""
    whose = "" if trajectories.model is None else f"seed{seed}-"
    return [f"{whose}{index}-of-{trajectories.shards}" for index in range(trajectories.shards)]
