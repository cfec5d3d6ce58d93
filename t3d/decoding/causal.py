"""Autoregressive decoding in batches, with the engine of `engine.py`: one token after another, on a GPU as on a CPU."""

from collections.abc import Callable, Sequence

from transformers import PreTrainedModel

from t3d.decoding import engine
from t3d.decoding.request import Request, Response
from t3d.params import Sampling

_NO_MASK = -1
"""No token's id: an autoregressive model may write every token."""


def generate(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    stop_ids: frozenset[int],
    max_new_tokens: int,
    sample: Sampling,
    batch_size: int,
    on_finished: Callable[[int], None] | None = None,
) -> list[Response]:
    """Continue every prompt with an autoregressive model, token by token, p(x_i | x_<i).

    A response depends on its request alone: neither on `batch_size` nor on the order of requests.

    Args:
        model: a Qwen2 or Qwen3 of transformers, in `eval` mode.
        requests: prompts of at least one token, and seeds.
        stop_ids: ids that end a response, which keeps them.
        max_new_tokens: a response that reaches it stops with finish reason `length`.
        sample: how tokens are drawn.
        batch_size: sequences decoded together. Memory grows with it, tokens do not change.
        on_finished: called with the number of responses that finished, for progress.

    Returns:
        One response per request, in their order; every token is a block of one step, without a commit pass.

    Raises:
        MemoryTooSmallError: as `decode`.
    """
    return engine.run(
        model,
        requests,
        None,
        mask_id=_NO_MASK,
        stop_ids=stop_ids,
        max_new_tokens=max_new_tokens,
        sample=sample,
        batch_size=batch_size,
        on_finished=on_finished,
    )
