"""The losses from full log-probabilities `[masked positions, vocabulary]`: what `losses.py` must equal."""

import torch
from torch import Tensor

from t3d.decoding.sampling import hashed_uniform
from t3d.distillation import objectives
from t3d.distillation.states import Batch
from t3d.models.sdar import SDARForCausalLM
from t3d.params import Objective

Parts = dict[str, Tensor]


def compute(
    objective: Objective, student: SDARForCausalLM, reference: SDARForCausalLM | None, batch: Batch, steps: int
) -> tuple[Tensor, Parts]:
    """See `losses.compute`."""
    reduce = objectives.sample_mean if objective.log_probability == "mean" else objectives.sample_sum
    scores = masked_log_probabilities(student, batch)
    log_p = of_tokens(scores, batch.layout.noisy_ids, batch.masked)
    if objective.needs_reference:
        assert reference is not None
        loss, parts = _ddo(objective, scores, log_p, reference, batch, reduce)
    else:
        loss = getattr(objectives, objective.name)(log_p, batch.masked, reduce)
        parts = {"likelihood_term": loss}
    if objective.name == "dparallel" or objective.entropy_weight:
        entropy, correct = certainty(scores, batch, objective.entropy_temperature)
        parts["entropy_term"] = objectives.certainty_forcing(entropy, batch.masked, correct, reduce)
        loss = loss + objective.entropy_weight * parts["entropy_term"]
    if objective.path_weight:
        weights = objectives.path_weights(batch.step_map, steps, objective.path_weights)
        parts["path_term"] = objectives.path(log_p, batch.masked, weights, reduce)
        loss = objectives.t3d(loss, parts["path_term"], objective.path_weight)
    return loss, {name: value.detach() for name, value in parts.items()}


def _ddo(
    objective: Objective,
    scores: Tensor,
    log_p: Tensor,
    reference: SDARForCausalLM,
    batch: Batch,
    reduce: objectives.Reduce,
) -> tuple[Tensor, Parts]:
    with torch.no_grad():
        reference_scores = masked_log_probabilities(reference, batch)
        fake_ids = fake_tokens(reference_scores, batch, objective.fake)
        reference_real = of_tokens(reference_scores, batch.layout.noisy_ids, batch.masked)
        reference_fake = of_tokens(reference_scores, fake_ids, batch.masked)
    fake_log_p = of_tokens(scores, fake_ids, batch.masked)
    real = objectives.ddo_real(reduce(log_p - reference_real, batch.masked), objective.beta)
    fake = objectives.ddo_fake(reduce(fake_log_p - reference_fake, batch.masked), objective.beta)
    (real_gradient,) = torch.autograd.grad(real, log_p, retain_graph=True)
    (fake_gradient,) = torch.autograd.grad(fake, fake_log_p, retain_graph=True)
    parts = {
        "real_term": real,
        "fake_term": fake,
        "real_gradient_norm": real_gradient.norm(),
        "fake_gradient_norm": fake_gradient.norm(),
        "disagreement": (fake_ids != batch.layout.noisy_ids)[batch.masked].float().mean(),
    }
    return objectives.ddo(real, fake, objective.alpha), parts


def masked_log_probabilities(model: SDARForCausalLM, batch: Batch) -> Tensor:
    """log p(. | x_t) at the masked positions, float32 `[masked positions, vocabulary]`."""
    hidden = batch.layout.hidden_states(model, batch.noisy_input)
    return model.lm_head(hidden[batch.masked]).float().log_softmax(dim=-1)


def of_tokens(scores: Tensor, tokens: Tensor, masked: Tensor) -> Tensor:
    """Log-probability of `tokens [batch, N]` at the masked positions, `[batch, N]`, 0 elsewhere."""
    chosen = scores.gather(1, tokens[masked][:, None]).squeeze(1)
    return chosen.new_zeros(masked.shape).masked_scatter(masked, chosen)


def certainty(scores: Tensor, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Entropy at `temperature` of each masked position, and whether its most probable token is x_0's, `[batch, N]`."""
    tempered = (scores / temperature).log_softmax(dim=-1)
    entropy = -(tempered.exp() * tempered).sum(dim=-1)
    right = scores.argmax(dim=-1) == batch.layout.noisy_ids[batch.masked]
    correct = torch.zeros_like(batch.masked).masked_scatter(batch.masked, right)
    return entropy.new_zeros(batch.masked.shape).masked_scatter(batch.masked, entropy), correct


def fake_tokens(scores: Tensor, batch: Batch, how: str) -> Tensor:
    """The reference's one-step prediction at every masked position, `[batch, N]`; x_0 elsewhere.

    A draw depends on (seed, epoch, example, position) alone.
    """
    if how == "argmax":
        chosen = scores.argmax(dim=-1)
    else:
        positions = torch.arange(batch.masked.shape[1], device=batch.masked.device).expand(batch.masked.shape)
        seeds = batch.seeds[:, None].expand(batch.masked.shape)
        uniform = hashed_uniform(seeds[batch.masked], positions[batch.masked], torch.zeros_like(seeds[batch.masked]))
        cumulative = scores.double().exp().cumsum(dim=-1)
        chosen = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True).squeeze(1)
        chosen = chosen.clamp(max=scores.shape[1] - 1)
    return batch.layout.noisy_ids.masked_scatter(batch.masked, chosen)
