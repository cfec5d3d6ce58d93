"""Names of trajectory shards; the workflow needs them without loading PyTorch."""


def shard_names(count: int) -> list[str]:
    """`0-of-2`, `1-of-2`."""
    return [f"{index}-of-{count}" for index in range(count)]
