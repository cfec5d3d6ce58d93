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


@pytest.mark.parametrize("name", ["sft", "redi", "naive_td"])
@pytest.mark.parametrize("seed", range(3))
def test_likelihoods(name, seed):
    log_p, masked, _ = random_case(seed)
    samples = []
    for row in range(3):
        chosen = [log_p[row, i].item() for i in range(6) if masked[row, i]]
        samples.append(sum(chosen) / len(chosen))
    assert getattr(objectives, name)(log_p, masked).item() == pytest.approx(-sum(samples) / 3, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_path_weights_early_tokens_more(seed):
    log_p, masked, step_map = random_case(seed)
    samples = []
    for row in range(3):
        terms = [(4 - step_map[row, i].item() + 1) / 4 * log_p[row, i].item() for i in range(6) if masked[row, i]]
        samples.append(sum(terms) / len(terms))
    found = objectives.path(log_p, masked, step_map, steps=4).item()
    assert found == pytest.approx(-sum(samples) / 3, abs=1e-12)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_ddo_terms(beta):
    ratios = torch.tensor([-3.0, 0.2, 5.0], dtype=torch.float64)

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    real = -sum(math.log(sigmoid(beta * r)) for r in ratios.tolist()) / 3
    fake = -sum(math.log(1 - sigmoid(beta * r)) for r in ratios.tolist()) / 3
    assert objectives.ddo_real(ratios, beta).item() == pytest.approx(real, abs=1e-12)
    assert objectives.ddo_fake(ratios, beta).item() == pytest.approx(fake, abs=1e-12)
    total = objectives.t3d(torch.tensor(real), torch.tensor(fake), torch.tensor(2.0), alpha=0.5, path_weight=0.2)
    assert total.item() == pytest.approx(real + 0.5 * fake + 0.4, abs=1e-6)


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
        return objectives.t3d(real, fake, objectives.path(x, masked, step_map, 4), 0.5, 0.2)

    assert torch.autograd.gradcheck(total, (log_p,))
