"""Names of trajectory shards; the workflow needs them without loading PyTorch."""

from t3d.params import Generations, Trajectories


def shard_names(trajectories: Trajectories | Generations, seed: int = 0) -> list[str]:
    """`0-of-2`, `1-of-2`; where a student decodes, those of one of its seeds: `seed0-0-of-2`, `seed0-1-of-2`."""
    whose = f"seed{seed}-" if isinstance(trajectories, Trajectories) and trajectories.model is not None else ""
    return [f"{whose}{index}-of-{trajectories.shards}" for index in range(trajectories.shards)]
