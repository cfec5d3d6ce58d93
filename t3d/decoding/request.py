"""What is decoded, and what comes back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from t3d.errors import DecodingError
from t3d.params import Sampling

NO_MASK = -1
"""No token's id."""


@dataclass(frozen=True)
class Request:
    """One item to decode: its prompt's ids, the seed of its draws, and what messages call it."""

    prompt_ids: Sequence[int]
    seed: int
    name: str = "a prompt"


@dataclass(frozen=True)
class DecodingOptions:
    """How requests are decoded.

    A response stops with finish reason `length` at the end of the block that reaches `max_new_tokens`. Every id in
    `stop_ids` ends a response; the block that holds it is completed and kept. `mask_id` is the mask token, which is
    never written; an autoregressive model has none (`NO_MASK`). `sample` says how tokens are drawn, greedily by
    default. `batch_size` sequences are decoded together: memory grows with it, tokens do not change.
    """

    max_new_tokens: int
    stop_ids: frozenset[int]
    mask_id: int
    sample: Sampling = field(default_factory=Sampling)
    batch_size: int = 32


@dataclass(frozen=True)
class Response:
    """One decoded response: whole blocks on the global grid, the last block complete.

    `step_map[i]` is the denoising step 1..S within its block at which `ids[i]` was committed, `confidence[i]` the
    model's probability of the token at that moment. `length` counts the tokens up to and including the end-of-text
    token. `denoising_steps` and `commit_passes` are the forwards this item needed.
    """

    ids: list[int]
    step_map: list[int]
    confidence: list[float]
    length: int
    finish_reason: str
    denoising_steps: int
    commit_passes: int


def checked(request: Request, response: Response) -> Response:
    """The response to a request, if its confidences are numbers.

    Raises:
        DecodingError: they are not: logits were NaN or infinite.
    """
    for place, confidence in enumerate(response.confidence):
        if not math.isfinite(confidence):
            raise DecodingError(
                f"{request.name}: the model computes NaN or infinity at token {place + 1} of the response. Its weights "
                "are finite, so it overflows in this number format (teachers.<name>.dtype), or was trained wrongly."
            )
    return response
