"""Drawing tokens: the distributions, and what the draws depend on."""

import pytest
import torch

from t3d.decoding import drawing
from t3d.decoding.sampling import draw, hashed_uniform, tempered
from t3d.params import Sampling


def logits_of(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_hashed_numbers_are_uniform_and_independent_across_arguments():
    n = 20_000
    item = torch.arange(n)
    zero = torch.zeros(1, dtype=torch.long)
    columns = [hashed_uniform(item, zero, zero), hashed_uniform(zero, item, zero), hashed_uniform(zero, zero, item)]
    for numbers in columns:
        assert numbers.min() >= 0
        assert numbers.max() < 1
        counts = torch.histc(numbers, bins=20, min=0, max=1)
        chi_square = ((counts - n / 20) ** 2 / (n / 20)).sum()
        assert chi_square < 43.8  # 99.9 % quantile, 19 degrees of freedom
    correlation = torch.corrcoef(torch.stack([*columns, columns[0].roll(1)]))
    assert (correlation - torch.eye(4)).abs().max() < 0.03


def test_draws_follow_the_tempered_distribution():
    n = 40_000
    logits = logits_of(0.5, 0.3, 0.2).expand(n, 3)
    sampling = Sampling(temperature=0.5)
    zero = torch.zeros(n, dtype=torch.long)
    tokens, _ = draw(logits, sampling, torch.arange(n), zero, zero)
    expected = torch.tensor([0.25, 0.09, 0.04]) / 0.38
    found = torch.bincount(tokens, minlength=3) / n
    assert (found - expected).abs().max() < 4 * (0.25 / n) ** 0.5


def test_top_k_and_top_p_keep_the_likeliest():
    logits = logits_of(0.4, 0.3, 0.2, 0.1)
    kept = tempered(logits, Sampling(temperature=1.0, top_k=2))
    torch.testing.assert_close(kept.float(), torch.tensor([4 / 7, 3 / 7, 0, 0]))
    kept = tempered(logits, Sampling(temperature=1.0, top_p=0.65))
    torch.testing.assert_close(kept.float(), torch.tensor([4 / 7, 3 / 7, 0, 0]))


def test_log_odds_are_the_model_s_own_and_do_not_saturate():
    logits = torch.tensor([[30.0, 0.0, 0.0], [31.0, 0.0, 0.0]])
    zero = torch.zeros(2, dtype=torch.long)
    for sampling in (Sampling(), Sampling(temperature=0.1)):
        tokens, log_odds = draw(logits, sampling, zero, zero, zero)
        assert tokens.tolist() == [0, 0]
        torch.testing.assert_close(log_odds, torch.tensor([30.0, 31.0]) - torch.tensor(2.0).log())
    assert log_odds.sigmoid().tolist() == [1.0, 1.0]


def test_tempered_confidence_passes_almost_every_threshold():
    """Released behaviour: at temperature 0.1 the same token is all but certain."""
    logits = torch.tensor([[1.0, 0.0, 0.0]])
    zero = torch.zeros(1, dtype=torch.long)
    confidences = []
    for confidence in ("model", "tempered"):
        tokens, log_odds = draw(logits, Sampling(temperature=0.1, confidence=confidence), zero, zero, zero)
        assert tokens.tolist() == [0]
        confidences.append(log_odds.sigmoid().item())
    assert confidences[0] == pytest.approx(logits.softmax(-1)[0, 0].item(), abs=1e-6)
    assert confidences[1] == pytest.approx((10 * logits).softmax(-1)[0, 0].item(), abs=1e-6)
    assert confidences[0] < 0.9 < confidences[1]


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize(("vocabulary", "excluded"), [(1000, 7), (1024, 1023), (60, -1), (129, 128)])
def test_a_draw_in_groups_is_the_plain_draw(temperature, vocabulary, excluded):
    """Tokens and log-odds, whether the vocabulary is whole groups or not; the excluded token is never drawn."""
    torch.manual_seed(vocabulary)
    count = 2000
    logits = 4 * torch.randn(count, vocabulary)
    if excluded >= 0:
        logits[:, excluded] = 30.0
    origins = torch.arange(count), 3 * torch.arange(count), torch.ones(count, dtype=torch.long)
    tokens, log_odds = drawing.in_groups(logits, excluded, temperature, *origins, lambda function: function)
    expected = drawing.plain(logits, excluded, Sampling(temperature=temperature), *origins)
    assert (tokens == expected[0]).float().mean() > 0.999
    same = tokens == expected[0]
    torch.testing.assert_close(log_odds[same], expected[1][same])
    assert excluded not in tokens


def test_what_is_compiled_draws_greedily_or_in_groups():
    assert drawing.of(Sampling(temperature=0.7), compiled=False) is drawing.plain
    assert drawing.of(Sampling(temperature=0.7, top_p=0.9), compiled=True) is drawing.plain
    assert drawing.of(Sampling(temperature=0.7), compiled=True) is not drawing.plain


def test_a_logit_that_is_not_a_number_shows_in_the_log_odds():
    logits = torch.zeros(1, 200)
    logits[0, 150] = torch.nan
    origin = torch.zeros(1, dtype=torch.long)
    _, log_odds = drawing.in_groups(logits, -1, 1.0, origin, origin, origin, lambda function: function)
    assert not log_odds.isfinite().any()
