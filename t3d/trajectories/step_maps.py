"""Trajectories from and for dLLM-RL (arXiv 2509.06949): a JSON list of rows `{prompt, response, reward, step_map}`.

There a step map counts the denoising steps of the whole response from 1, ours those of each block; blocks are counted
from the first token of the prompt in both. Texts are tokenised again where they are read. What is written therefore has
the record itself as well, under `t3d`, which dLLM-RL does not read: read back, it is the same record.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from t3d.errors import CorruptArtefactError, DataError, MissingInputError, ParameterError, reading
from t3d.models.folder import load_tokenizer, read_config, stop_ids
from t3d.params import Experiment, read_budget
from t3d.params.json_files import open_record, read_json
from t3d.prompts.reader import read_prompts
from t3d.provenance import store, writer
from t3d.provenance.files import atomic_write
from t3d.trajectories import shards
from t3d.trajectories.record import Trajectory
from t3d.trajectories.shards import ShardMetadata


@open_record
class _Own(TypedDict):
    record: Trajectory
    shard: ShardMetadata


@open_record
class _Row(TypedDict):
    prompt: str
    response: str
    step_map: NotRequired[list[int] | Literal[""] | None]
    t3d: NotRequired[_Own]


def convert(source: Path, out: Path, folder: Path, budget: str | None, temperature: float) -> str:
    """Write a shard as JSON for dLLM-RL, each reward 1; or a JSON file of dLLM-RL as a shard. Return what was done.

    A row of JSON that was written here is the record it has. Of any other, texts are tokenised; it is left out unless
    its step map has an entry for every token of the response. Its last block is filled up with padding, its confidences
    are 0, since they are not known.

    Args:
        source: a parquet of `shards.py`, or JSON.
        out: the other of the two, to write.
        folder: of the model that decoded, for its tokenizer and the ids that end a response.
        budget: block size and steps of rows that do not say them, `b4s4`.
        temperature: of their draws.

    Raises:
        MissingInputError: `source` is not there.
        CorruptArtefactError: the file has another form, or a step map does not fit the budget; row and field are named.
        ParameterError: the files are no parquet and JSON, or `budget` is none.
        DataError: no row can be used, or rows do not say their budget and none is given.
    """
    if (source.suffix, out.suffix) not in ((".json", ".parquet"), (".parquet", ".json")):
        raise ParameterError(f"{source} and {out}: one is a .parquet, the other a .json.")
    if not source.is_file():
        raise MissingInputError(f"{source} is missing, or is no plain file.")
    tokenizer, stops = load_tokenizer(folder), stop_ids(folder)
    if source.suffix == ".parquet":
        trajectories, metadata = shards.read(source, len(tokenizer))
        rows = [_row(t, metadata, tokenizer, stops) for t in trajectories]
        with atomic_write(out) as partial:
            partial.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
        return f"{len(rows)} trajectories are in {out}."
    given = read_json(source, list[_Row])
    own = [row["t3d"] for row in given if "t3d" in row]
    if own:
        if len({part["shard"] for part in own}) > 1 or len(own) < len(given):
            raise DataError(f"{source}: its rows come from several shards; give each shard a file.")
        metadata, found = own[0]["shard"], [part["record"] for part in own]
    else:
        asked = read_budget(budget or "")
        if asked.steps is None:
            raise ParameterError(f"--budget is {budget}; trajectories have steps, b4s4 for example.")
        metadata = ShardMetadata("unknown", asked.block_size, asked.steps, temperature)
        parsed = [_parsed(number, row, tokenizer, stops, metadata) for number, row in enumerate(given)]
        found = [trajectory for trajectory in parsed if trajectory is not None]
    if not found:
        raise DataError(f"{source}: none of its {len(given)} rows has a step for every token of its response.")
    with atomic_write(out) as partial, reading(source):
        shards.write(partial, found, metadata)
        # Tokens of the vocabulary alone.
        shards.read(partial, len(tokenizer))
    return f"{len(found)} trajectories are in {out}; {len(given) - len(found)} rows had no step map of their length."


def make(experiment: Experiment, name: str, shard: str, teacher: Path, prompts: Path, out: Path) -> None:
    """Make trajectories `name` of the file that they are `imported` from, so that students can learn from them.

    A row belongs to the prompt that has its tokens; rows of no prompt of the set are left out, and so are further rows
    of a prompt. So nothing is learned from what the set does not ask, and a test question is never among it.

    Args:
        experiment: whose `trajectories` has `name`.
        name: key of the trajectories.
        shard: `0-of-1`.
        teacher: manifest of the prompt set's teacher, for its tokenizer.
        prompts: the prompt set's manifest.
        out: manifest to write.

    Raises:
        MissingInputError: the file is not there.
        CorruptArtefactError: it is not the file that `sha256` names, or as `convert`.
        DataError: it was decoded at another budget, or no row is of a prompt of the set.
    """
    spec, artefact = experiment.trajectories[name], f"trajectories/{name}/{shard}"
    assert spec.imported is not None
    source, where = Path(spec.imported), f"params/{experiment.name}.yaml: trajectories.{name}"
    inputs = store.read_inputs(experiment, artefact, [teacher, prompts])
    folder, budget = inputs[0].folder(), read_budget(spec.budget)
    if not source.is_file():
        raise MissingInputError(f"{source}, which {where}.imported names, is missing.")
    if (found := store.sha256(source)) != spec.sha256:
        raise CorruptArtefactError(f"{source} has sha256 {found}, {where}.sha256 is {spec.sha256}.")
    with writer.writing(experiment, artefact, out, inputs=inputs) as job:
        shard_file = job.file(".parquet")
        if source.suffix == ".json":
            convert(source, shard_file, folder, spec.budget, spec.sampling.temperature)
        rows, metadata = shards.read(shard_file if shard_file.exists() else source, read_config(folder)["vocab_size"])
        if (metadata.block_size, metadata.steps) != (budget.block_size, budget.steps):
            raise DataError(
                f"{source}: decoded in blocks of {metadata.block_size} and {metadata.steps} steps; {where}.budget is "
                f"{spec.budget}."
            )
        asked = {tuple(prompt.prompt_ids): prompt.id for prompt in read_prompts(inputs[1])}
        # The first row of each prompt: of two equal keys a dictionary keeps the last.
        first = {tuple(row.prompt_ids): row for row in reversed(rows) if tuple(row.prompt_ids) in asked}
        if not first:
            raise DataError(f"{source}: none of its {len(rows)} rows has the tokens of a prompt of {spec.prompts}.")
        kept = [replace(first[ids], prompt_id=prompt) for ids, prompt in asked.items() if ids in first]
        shards.write(shard_file, [replace(row, score=None) for row in kept], metadata)
        job.facts |= {"trajectories": len(kept)}
        job.receipt["imported"] = {"file": str(source), "sha256": found, "rows": len(rows)}
    print(f"{name}: {len(kept)} of {len(rows)} rows of {source} are of a prompt of {spec.prompts}.", flush=True)


def _row(t: Trajectory, metadata: ShardMetadata, tokenizer: Any, stops: frozenset[int]) -> dict[str, Any]:
    length = next((i + 1 for i, token in enumerate(t.response_ids) if token in stops), len(t.response_ids))
    return {
        "prompt": tokenizer.decode(t.prompt_ids),
        "response": tokenizer.decode(t.response_ids[:length]),
        "reward": 1.0,
        "step_map": _of_response(t, metadata.block_size)[:length],
        "t3d": {"record": asdict(t), "shard": asdict(metadata)},
    }


def _of_response(t: Trajectory, block_size: int) -> list[int]:
    """Steps counted over the whole response."""
    steps, before = [], 0
    for _, block in groupby(enumerate(t.step_map), lambda place: (len(t.prompt_ids) + place[0]) // block_size):
        own = [step for _, step in block]
        steps += [before + step for step in own]
        before += max(own)
    return steps


def _of_blocks(prompt: int, steps: Sequence[int], block_size: int) -> list[int]:
    """Steps counted within each block, and to its end."""
    found: list[int] = []
    for _, block in groupby(enumerate(steps), lambda place: (prompt + place[0]) // block_size):
        own = [step for _, step in block]
        ranks = {step: rank for rank, step in enumerate(sorted(set(own)), start=1)}
        found += [ranks[step] for step in own]
    return found + [max(ranks.values())] * (-(prompt + len(steps)) % block_size)


def _parsed(
    number: int, row: _Row, tokenizer: Any, stops: frozenset[int], metadata: ShardMetadata
) -> Trajectory | None:
    prompt, response = (tokenizer(row[part], add_special_tokens=False)["input_ids"] for part in ("prompt", "response"))
    steps = row.get("step_map")
    if not response or not isinstance(steps, list) or len(steps) != len(response):
        return None
    own = _of_blocks(len(prompt), steps, metadata.block_size)
    filled = [*response, *[tokenizer.pad_token_id] * (len(own) - len(response))]
    reason = "stop" if stops.intersection(response) else "length"
    return Trajectory(f"row-{number}", prompt, filled, own, [0.0] * len(own), reason, 0)
