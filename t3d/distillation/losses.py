"""From a batch of states to a loss: one student forward and, for t3d, one reference forward.

The LM head is applied to masked positions only. The formulae are in `objectives.py`.
"""

import torch
from torch import Tensor

from t3d.decoding.sampling import hashed_uniform
from t3d.distillation import objectives
from t3d.distillation.states import Batch
from t3d.models.sdar import SDARForCausalLM
from t3d.params import Objective


def compute(
    objective: Objective, student: SDARForCausalLM, reference: SDARForCausalLM | None, batch: Batch, steps: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch (a scalar with gradient) and its parts, detached, for the log.

    Args:
        objective: which loss.
        student: the model that is trained.
        reference: frozen copy of an earlier student, for t3d.
        batch: states.
        steps: S of the step maps, for the path term.
    """
    scores = masked_log_probabilities(student, batch)
    log_p = of_tokens(scores, batch.layout.noisy_ids, batch.masked)
    if objective.name != "t3d":
        loss = getattr(objectives, objective.name)(log_p, batch.masked)
        return loss, {"likelihood_term": loss.detach()}
    assert reference is not None
    with torch.no_grad():
        reference_scores = masked_log_probabilities(reference, batch)
        fake_ids = fake_tokens(reference_scores, batch, objective.fake)
        reference_real = of_tokens(reference_scores, batch.layout.noisy_ids, batch.masked)
        reference_fake = of_tokens(reference_scores, fake_ids, batch.masked)
    real_ratio = objectives.sample_mean(log_p - reference_real, batch.masked)
    fake_log_p = of_tokens(scores, fake_ids, batch.masked)
    fake_ratio = objectives.sample_mean(fake_log_p - reference_fake, batch.masked)
    real = objectives.ddo_real(real_ratio, objective.beta)
    fake = objectives.ddo_fake(fake_ratio, objective.beta)
    path = objectives.path(log_p, batch.masked, batch.step_map, steps)
    loss = objectives.t3d(real, fake, path, objective.alpha, objective.path_weight)
    differs = (fake_ids != batch.layout.noisy_ids)[batch.masked].float().mean()
    parts = {"real_term": real, "fake_term": fake, "path_term": path, "disagreement": differs}
    return loss, {name: value.detach() for name, value in parts.items()}


def masked_log_probabilities(model: SDARForCausalLM, batch: Batch) -> Tensor:
    """log p(. | x_t) at the masked positions, float32 `[masked positions, vocabulary]`."""
    hidden = batch.layout.hidden_states(model, batch.noisy_input)
    return model.lm_head(hidden[batch.masked]).float().log_softmax(dim=-1)


def of_tokens(scores: Tensor, tokens: Tensor, masked: Tensor) -> Tensor:
    """Log-probability of `tokens [batch, N]` at the masked positions, `[batch, N]`, 0 elsewhere."""
    chosen = scores.gather(1, tokens[masked][:, None]).squeeze(1)
    return chosen.new_zeros(masked.shape).masked_scatter(masked, chosen)


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
