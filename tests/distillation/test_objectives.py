"""Each loss against a literal float64 transcription of its equation, and its behaviour at the edges."""

import math

import pytest
import torch

from t3d.distillation import objectives


def random_case(seed=0, batch=3, length=6, steps=4):
    generator = torch.Generator().manual_seed(seed)
    log_p = -torch.rand(batch, length, generator=generator, dtype=torch.float64) * 5
    masked = torch.rand(batch, length, generator=generator) < 0.6
    masked[:, 0] = True
    step_map = torch.randint(1, steps + 1, (batch, length), generator=generator)
    return log_p, masked, step_map


REDUCTIONS = {objectives.sample_mean: lambda terms: sum(terms) / len(terms), objectives.sample_sum: sum}


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_likelihoods(reduce):
    log_p, masked, _ = random_case()
    samples = [REDUCTIONS[reduce]([log_p[row, i].item() for i in range(6) if masked[row, i]]) for row in range(3)]
    for name in ("sft", "redi", "dparallel", "naive_td"):
        assert getattr(objectives, name)(log_p, masked, reduce).item() == pytest.approx(-sum(samples) / 3, abs=1e-12)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_path_weights_early_tokens_more(seed, reduce):
    log_p, masked, step_map = random_case(seed)
    samples = []
    for row in range(3):
        terms = [(4 - step_map[row, i].item() + 1) / 4 * log_p[row, i].item() for i in range(6) if masked[row, i]]
        samples.append(REDUCTIONS[reduce](terms))
    found = objectives.path(log_p, masked, objectives.path_weights(step_map, 4), reduce).item()
    assert found == pytest.approx(-sum(samples) / 3, abs=1e-12)


def test_released_path_weights_have_two_levels_three_to_one():
    steps = torch.arange(1, 9)
    assert objectives.path_weights(steps, 8).tolist() == [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert objectives.path_weights(steps, 8, "released").tolist() == [0.75] * 4 + [0.25] * 4


@pytest.mark.parametrize("seed", range(3))
def test_certainty_is_the_entropy_of_what_is_already_right(seed):
    log_p, masked, step_map = random_case(seed)
    entropy, correct = -log_p.flip(0), step_map > 2
    samples = []
    for row in range(3):
        right = [entropy[row, i].item() for i in range(6) if masked[row, i] and correct[row, i]]
        samples.append(sum(right) / len(right) if right else 0.0)
    found = objectives.certainty_forcing(entropy, masked, correct).item()
    assert found == pytest.approx(sum(samples) / 3, abs=1e-12)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_ddo_terms(beta):
    ratios = torch.tensor([-3.0, 0.2, 5.0], dtype=torch.float64)

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    real = -sum(math.log(sigmoid(beta * r)) for r in ratios.tolist()) / 3
    fake = -sum(math.log(1 - sigmoid(beta * r)) for r in ratios.tolist()) / 3
    assert objectives.ddo_real(ratios, beta).item() == pytest.approx(real, abs=1e-12)
    assert objectives.ddo_fake(ratios, beta).item() == pytest.approx(fake, abs=1e-12)
    ddo = objectives.ddo(torch.tensor(real), torch.tensor(fake), alpha=0.5)
    assert ddo.item() == pytest.approx(real + 0.5 * fake, abs=1e-6)
    assert objectives.t3d(ddo, torch.tensor(2.0), path_weight=0.2).item() == pytest.approx(ddo.item() + 0.4, abs=1e-6)


def test_at_its_reference_ddo_is_naive_td_times_half_of_beta():
    """There the real term has Naive TD's gradient times beta / 2, and the fake term's is zero on average over draws."""
    beta, (_, masked, _) = 0.1, random_case()
    logits = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(5, (3, 6, 1), generator=torch.Generator().manual_seed(1))

    def gradient(term, log_p):
        ratio = objectives.sample_mean(log_p - log_p.detach(), masked)
        return torch.autograd.grad(term(ratio, beta), logits, retain_graph=True)[0]

    scores = logits.log_softmax(dim=-1)
    log_p = scores.gather(2, tokens).squeeze(2)
    (naive,) = torch.autograd.grad(objectives.naive_td(log_p, masked), logits, retain_graph=True)
    torch.testing.assert_close(gradient(objectives.ddo_real, log_p), beta / 2 * naive)
    # At a ratio of 0 the slope is the same for every draw, so the mean over draws is that of the mean log p.
    drawn = (scores.detach().exp() * scores).sum(dim=-1)
    torch.testing.assert_close(gradient(objectives.ddo_fake, drawn), torch.zeros_like(logits))


@pytest.mark.parametrize("ratio", [-1e4, 1e4])
def test_log_sigmoid_keeps_its_range(ratio):
    value = torch.tensor([ratio], requires_grad=True)
    for term in (objectives.ddo_real, objectives.ddo_fake):
        loss = term(value, 1.0)
        (gradient,) = torch.autograd.grad(loss, value)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient)
    assert objectives.ddo_fake(torch.tensor([1e4]), 1.0) == 1e4


def test_gradients_by_finite_differences():
    log_p, masked, step_map = random_case()
    log_p.requires_grad_()

    def total(x):
        ratio = objectives.sample_mean(x + 1.0, masked)
        real, fake = objectives.ddo_real(ratio, 0.1), objectives.ddo_fake(ratio * 0.5, 0.1)
        path = objectives.path(x, masked, objectives.path_weights(step_map, 4))
        return objectives.t3d(objectives.ddo(real, fake, 0.5), path, 0.2)

    assert torch.autograd.gradcheck(total, (log_p,))

    def certainty(x):
        return objectives.certainty_forcing(x.exp(), masked, step_map > 2, objectives.sample_sum)

    assert torch.autograd.gradcheck(certainty, (log_p,))
