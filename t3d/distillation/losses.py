"""From a batch of states to a loss: one student forward and, for DDO, one reference forward.

The LM head is applied to masked positions only, a few at a time (`t3d/models/lm_head.py`). The formulae are in
`objectives.py`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t3d.decoding.sampling import hashed_uniform
from t3d.distillation import objectives
from t3d.distillation.states import Batch
from t3d.models import lm_head
from t3d.models.sdar import SDARForCausalLM
from t3d.params import Objective

Parts = dict[str, Tensor]


def compute(
    objective: Objective, student: SDARForCausalLM, reference: SDARForCausalLM | None, batch: Batch, steps: int
) -> tuple[Tensor, Parts]:
    """The loss of a batch (a scalar with gradient) and its parts, detached, for the log.

    Args:
        objective: which loss.
        student: the model that is trained.
        reference: frozen copy of an earlier student, where `objective.needs_reference`.
        batch: states.
        steps: S of the step maps, for the path term.

    Returns:
        The loss and its parts: the value of each term, for the DDO terms also the norm of the gradient with respect to
        the log-probabilities of their tokens, and `disagreement`, the share of fake tokens that differ from the real
        ones.
    """
    reduce = objectives.sample_mean if objective.log_probability == "mean" else objectives.sample_sum
    masked, real_ids = batch.masked, batch.at_masked(batch.layout.noisy_ids)
    tokens, of_reference = real_ids[None], None
    if objective.needs_reference:
        assert reference is not None
        fake_ids, of_reference = predict(reference, batch, objective.fake)
        tokens = torch.stack([real_ids, fake_ids])
    states, entropy_term = masked_states(student, batch), None
    # A model that is spread over processes has its head's weight only after its forward.
    weight = student.lm_head.weight
    temperature = objective.entropy_temperature if objective.has_entropy_term else None
    if temperature is not None:
        scores, uncertain, best = lm_head.certainty(states, weight, tokens, temperature)
    else:
        scores = lm_head.log_probabilities(states, weight, tokens)
    if temperature is not None:
        entropy, correct = spread(uncertain, batch), spread(best == real_ids, batch)
        entropy_term = objectives.certainty_forcing(entropy, masked, correct, reduce)
    log_p = spread(scores[0], batch)
    if of_reference is not None:
        reference_log_p = [spread(each, batch) for each in of_reference]
        loss, parts = _ddo(objective, (log_p, spread(scores[1], batch)), reference_log_p, masked, reduce)
        parts["disagreement"] = (tokens[0] != tokens[1]).sum() / max(1, tokens.shape[1])
    else:
        loss = getattr(objectives, objective.name)(log_p, masked, reduce)
        parts = {"likelihood_term": loss}
    if entropy_term is not None:
        parts["entropy_term"] = entropy_term
        loss = loss + objective.entropy_weight * entropy_term
    if objective.path_weight:
        weights = objectives.path_weights(batch.step_map, steps, objective.path_weights)
        parts["path_term"] = objectives.path(log_p, masked, weights, reduce)
        loss = objectives.t3d(loss, parts["path_term"], objective.path_weight)
    return loss, {name: value.detach() for name, value in parts.items()}


def with_causal(student: SDARForCausalLM, causal: PreTrainedModel, weight: float, batch: Batch) -> tuple[Tensor, Parts]:
    """The loss of a conversion that also learns from the frozen autoregressive model, and its parts.

    (1 - weight) times the cross-entropy of masked tokens, and weight times KL(p_AR(x_i | x_<i) || p(x_i | x_t)).

    Args:
        student: the model that is trained.
        causal: the frozen autoregressive model.
        weight: share of the KL.
        batch: states.
    """
    masked, real_ids = batch.masked, batch.at_masked(batch.layout.noisy_ids)
    with torch.no_grad():
        frozen = batch.at_masked(batch.layout.states_before(causal))
    states = masked_states(student, batch)
    weights = student.lm_head.weight, causal.lm_head.weight
    scores, divergence = lm_head.divergence(states, weights[0], real_ids[None], frozen, weights[1])
    likelihood = objectives.redi(spread(scores[0], batch), masked)
    kl = objectives.sample_mean(spread(divergence, batch), masked).mean()
    parts = {"likelihood_term": likelihood.detach(), "ar_term": kl.detach()}
    return (1 - weight) * likelihood + weight * kl, parts


def _ddo(
    objective: Objective,
    log_p: tuple[Tensor, Tensor],
    reference_log_p: Sequence[Tensor],
    masked: Tensor,
    reduce: objectives.Reduce,
) -> tuple[Tensor, Parts]:
    """DDO from the log-probabilities of the real and of the fake tokens, each `[batch, N]`."""
    real_ratio, fake_ratio = (reduce(p - q, masked) for p, q in zip(log_p, reference_log_p, strict=True))
    real = objectives.ddo_real(real_ratio, objective.beta)
    fake = objectives.ddo_fake(fake_ratio, objective.beta)
    (real_gradient,) = torch.autograd.grad(real, log_p[0], retain_graph=True)
    (fake_gradient,) = torch.autograd.grad(fake, log_p[1], retain_graph=True)
    parts = {
        "real_term": real,
        "fake_term": fake,
        "real_gradient_norm": real_gradient.norm(),
        "fake_gradient_norm": fake_gradient.norm(),
    }
    return objectives.ddo(real, fake, objective.alpha), parts


def masked_states(model: SDARForCausalLM, batch: Batch) -> Tensor:
    """Final hidden states at the masked positions, `[masked positions, hidden]`."""
    return batch.at_masked(batch.layout.hidden_states(model, batch.noisy_input))


def spread(values: Tensor, batch: Batch) -> Tensor:
    """Values of the masked positions in their places, `[batch, N]`, 0 elsewhere."""
    return values.new_zeros(batch.masked.numel()).index_copy(0, batch.places, values).view_as(batch.masked)


@torch.no_grad()
def predict(reference: SDARForCausalLM, batch: Batch, how: str) -> tuple[Tensor, Tensor]:
    """The reference's one-step prediction at every masked position, and its log-probabilities.

    A draw depends on (seed, epoch, example, position) alone.

    Args:
        reference: the frozen model.
        batch: states.
        how: `draw` or `argmax`.

    Returns:
        Fake ids, int64 `[masked positions]`; and log p of the real and of the fake tokens, float32
        `[2, masked positions]`.
    """
    uniform = None
    if how == "draw":
        rows, columns = batch.places // batch.masked.shape[1], batch.places % batch.masked.shape[1]
        uniform = hashed_uniform(batch.seeds[rows], columns, torch.zeros_like(columns))
    states, real_ids = masked_states(reference, batch), batch.at_masked(batch.layout.noisy_ids)
    return lm_head.predictions(states, reference.lm_head.weight, real_ids, uniform)
