"""The chunked LM head against full logits: values, gradients, draws, and what is never made."""

import pytest
import torch

from t3d.distillation import losses
from t3d.distillation.batches import micro_batches
from t3d.models import lm_head
from t3d.params import Objective
from tests.conftest import tiny_model
from tests.distillation import plain
from tests.training import setting

OBJECTIVES = {
    "sft": {},
    "redi": {},
    "dparallel": {"entropy_weight": 2.0},
    "naive_td": {"path_weight": 0.2},
    "ddo": {"fake": "argmax", "log_probability": "sum"},
    "t3d": {},
    "t3d certain": {"entropy_weight": 0.5},
}
VOCABULARY = 97


def outcome(compute, name, model, batch):
    """Loss, parts and gradients of one batch."""
    model.zero_grad()
    objective = Objective(name=name.split()[0], **OBJECTIVES[name])
    loss, parts = compute(objective, model, tiny_model(seed=5), batch, 4)
    loss.backward()
    return loss.detach(), parts, [parameter.grad.clone() for parameter in model.parameters()]


def in_chunks(patch, positions):
    """Cut the head into chunks of so many positions; None leaves them as they are."""
    cut = lm_head._parts
    if positions is not None:
        # A default is fixed when a function is defined, so the smaller chunks go in where parts are cut.
        patch.setattr(lm_head, "_parts", lambda m, weight, *_: cut(m, weight, positions * len(weight), False))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("tied", [False, True])
def test_every_objective_equals_the_plain_path(monkeypatch, name, tied):
    model = tiny_model()
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    batch = next(iter(micro_batches(setting(name.split()[0]), 0)))
    # dparallel's entropy reaches only what is predicted right.
    with torch.no_grad():
        logits = model.lm_head(batch.layout.hidden_states(model, batch.noisy_input))
    batch.layout.noisy_ids[:, ::2] = logits[:, ::2].argmax(-1)
    expected = outcome(plain.compute, name, model, batch)
    for positions in (None, 1, 7):
        with monkeypatch.context() as patch:
            in_chunks(patch, positions)
            found = outcome(losses.compute, name, model, batch)
        assert set(found[1]) == set(expected[1])
        # Where one chunk holds everything the student's bits are the plain path's.
        tolerance = {"atol": 0, "rtol": 0} if positions is None else {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(found, expected, **tolerance)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_a_gpu_compiles_equals_the_plain_path(monkeypatch, name):
    """The same functions, not compiled: what is fused is the same arithmetic in another order."""
    model = tiny_model()
    batch = next(iter(micro_batches(setting(name.split()[0]), 0)))
    expected = outcome(plain.compute, name, model, batch)
    monkeypatch.setattr(lm_head, "worth_compiling", lambda width, device: True)
    for positions in (None, 7):
        with monkeypatch.context() as patch, torch.compiler.set_stance("force_eager"):
            in_chunks(patch, positions)
            found = outcome(losses.compute, name, model, batch)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def case(m=11, d=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(m, d, generator=generator)
    weight = torch.randn(VOCABULARY, d, generator=generator)
    return hidden, weight, torch.randint(0, VOCABULARY, (2, m), generator=generator)


@pytest.mark.parametrize("chunk", [1, 3 * VOCABULARY, 11 * VOCABULARY])
@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("group", [None, 4, 97, 128])
def test_predictions_are_those_of_full_rows(monkeypatch, chunk, draws, group):
    """Drawn in groups too, as on a GPU, whether or not these divide the vocabulary."""
    if group is not None:
        monkeypatch.setattr(lm_head, "worth_compiling", lambda width, device: True)
        monkeypatch.setattr(lm_head, "GROUP", group)
    hidden, weight, (tokens, _) = case()
    uniform = torch.rand(len(tokens), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.compiler.set_stance("force_eager"):
        predicted, log_p = lm_head.predictions(hidden, weight, tokens, uniform if draws else None, chunk)
    scores = (hidden @ weight.t()).log_softmax(-1)
    if draws:
        cumulative = scores.double().exp().cumsum(-1)
        expected = [
            min(int((row <= u * row[-1]).sum()), VOCABULARY - 1) for row, u in zip(cumulative, uniform, strict=True)
        ]
    else:
        expected = scores.argmax(-1).tolist()
    assert predicted.tolist() == expected
    places = torch.arange(len(tokens))
    torch.testing.assert_close(log_p, torch.stack([scores[places, tokens], scores[places, predicted]]))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("chunk", [1, 6 * VOCABULARY, 22 * VOCABULARY])
def test_the_divergence_from_a_frozen_model_is_that_of_full_rows(monkeypatch, chunk, large):
    """Values and gradients; the frozen model may have another width, and gets no gradient."""
    monkeypatch.setattr(lm_head, "worth_compiling", lambda width, device: large)
    hidden, weight, tokens = case()
    frozen_hidden, frozen_weight, _ = case(d=24, seed=1)
    coefficients = torch.randn(3, 11, generator=torch.Generator().manual_seed(2))
    outcomes = []
    for chunked in (True, False):
        h, w, fh, fw = (x.clone().requires_grad_() for x in (hidden, weight, frozen_hidden, frozen_weight))
        if chunked:
            with torch.compiler.set_stance("force_eager"):
                log_p, kl = lm_head.divergence(h, w, tokens, fh, fw, chunk)
        else:
            scores, frozen = (h @ w.t()).log_softmax(-1), (fh @ fw.t()).log_softmax(-1).detach()
            log_p = scores.gather(1, tokens.t()).t()
            kl = torch.nn.functional.kl_div(scores, frozen, reduction="none", log_target=True).sum(-1)
        with torch.compiler.set_stance("force_eager"):
            ((log_p * coefficients[:2]).sum() + (kl * coefficients[2]).sum()).backward()
        assert fh.grad is None
        assert fw.grad is None
        outcomes += [[log_p.detach(), kl.detach(), h.grad, w.grad]]
    assert outcomes[0][1].min() > 0.1
    torch.testing.assert_close(*outcomes, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("enabled", [False, True])
def test_no_divergence_from_oneself_under_autocast_either(enabled):
    """In the backward, which is outside of it, both models have the logits of the forward again."""
    hidden, weight, tokens = case()
    hidden.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        _, kl = lm_head.divergence(hidden, weight, tokens, hidden.detach(), weight, 4 * VOCABULARY)
    (gradient,) = torch.autograd.grad(kl.sum(), hidden)
    torch.testing.assert_close(kl, torch.zeros(11), atol=1e-6, rtol=0)
    torch.testing.assert_close(gradient, torch.zeros_like(hidden), atol=1e-5, rtol=0)


def test_the_same_token_twice_gets_both_gradients():
    hidden, weight, tokens = case()
    tokens = torch.stack([tokens[0], tokens[0]])
    hidden.requires_grad_()
    both = lm_head.log_probabilities(hidden, weight, tokens, 4 * VOCABULARY)
    (found,) = torch.autograd.grad(both[0].sum() + 2 * both[1].sum(), hidden)
    one = lm_head.log_probabilities(hidden, weight, tokens[:1])
    (expected,) = torch.autograd.grad(3 * one.sum(), hidden)
    torch.testing.assert_close(found, expected)


def test_under_autocast_the_backward_sees_the_logits_of_the_forward():
    hidden, weight, tokens = case()
    gradients = []
    for chunked in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if chunked:
                log_p = lm_head.log_probabilities(h, w, tokens, 4 * VOCABULARY)
            else:
                log_p = torch.nn.functional.linear(h, w).float().log_softmax(-1).gather(1, tokens.t()).t()
        (log_p * torch.arange(1.0, 12.0)).sum().backward()
        assert h.grad.dtype == w.grad.dtype == log_p.dtype == torch.float32
        gradients.append((log_p.detach(), h.grad, w.grad))
    torch.testing.assert_close(gradients[0][:2], gradients[1][:2], atol=1e-5, rtol=1e-5)
    # A chunk's share of the weight's gradient is rounded to bf16 once, as the whole is in one product.
    torch.testing.assert_close(gradients[0][2], gradients[1][2], atol=1e-1, rtol=2e-2)


@pytest.mark.parametrize("large", [False, True])
def test_no_tensor_of_all_logits_is_made(monkeypatch, large):
    """Nor on a GPU, where draws and entropies are made as here."""
    monkeypatch.setattr(lm_head, "worth_compiling", lambda width, device: large)
    hidden, weight, tokens = case(m=64)
    hidden.requires_grad_()
    weight.requires_grad_()
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (made if isinstance(made, tuple) else (made,)) if torch.is_tensor(t))
            return made

    with Sizes(), torch.compiler.set_stance("force_eager"):
        log_p, entropy, _ = lm_head.certainty(hidden, weight, tokens, 0.5, 8 * VOCABULARY)
        (log_p.sum() + entropy.sum()).backward()
        # Fused, it takes four times as many positions at once, in half precision.
        chunk = (2 if large else 8) * VOCABULARY
        lm_head.predictions(hidden, weight, tokens[0], torch.rand(64, dtype=torch.float64), chunk)
        log_p, kl = lm_head.divergence(hidden, weight, tokens, hidden.flip(0), weight, 8 * VOCABULARY)
        (log_p.sum() + kl.sum()).backward()
    # The largest is the weight itself; all logits would be four times as many.
    assert max(sizes) == weight.numel() == VOCABULARY * 16
    assert hidden.grad is not None


def test_nothing_masked_is_nothing_learned():
    hidden, weight, tokens = case(m=0)
    weight.requires_grad_()
    log_p = lm_head.log_probabilities(hidden, weight, tokens)
    log_p.sum().backward()
    assert log_p.shape == (2, 0)
    assert weight.grad.count_nonzero() == 0
