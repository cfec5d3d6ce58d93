"""Rows end to end under a block-sparse mask, against the padded batch under a dense one."""

import copy
import threading

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from t3d.errors import ParameterError
from t3d.models import packed
from t3d.models.layout import lay_out
from t3d.models.sdar import BLOCK_SPARSE
from tests.conftest import MASK, SHAPES, tiny_model

ROWS = [np.arange(4, 4 + n) for n in (13, 90, 41, 64)]
PROMPTS = [6, 3, 40, 15]


@pytest.mark.parametrize("grid", ["global", "response"])
@pytest.mark.parametrize("block_size", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_equals_padded(shape, block_size, grid):
    """Hidden states of every token that is there, and the gradients of all weights; sequences of several tiles."""
    model = tiny_model(**SHAPES[shape])
    other = copy.deepcopy(model)
    other.set_attn_implementation(BLOCK_SPARSE)
    layout = lay_out(ROWS, PROMPTS, block_size, grid)
    rows = layout.to("cpu", packed=True)
    assert len(rows.packed.places) > 256
    generator = torch.Generator().manual_seed(0)
    masked = layout.is_response & (torch.rand(layout.is_response.shape, generator=generator) < 0.6)
    noisy = layout.noisy_ids.masked_fill(masked, MASK)
    found = []
    for each, its_layout in ((model, layout), (other, rows)):
        hidden = its_layout.hidden_states(each, noisy)
        hidden[masked].square().mean().backward()
        gradients = torch.cat([p.grad.flatten() for p in each.model.parameters()])
        found.append((hidden[layout.noisy_blocks >= 0], gradients))
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_block_sparse_kernel_sees_what_the_dense_mask_shows():
    """Without gradients a CPU has FlexAttention, too."""
    model = tiny_model(num_key_value_heads=2)
    layout = lay_out(ROWS, PROMPTS, 8)
    padded = layout.hidden_states(model, layout.noisy_ids)
    model.set_attn_implementation(BLOCK_SPARSE)
    there = layout.noisy_blocks >= 0
    found = layout.to("cpu", packed=True).hidden_states(model, layout.noisy_ids)
    torch.testing.assert_close(found[there], padded[there], atol=1e-5, rtol=0)


@pytest.mark.parametrize("block_size", [4, 8, 24])
def test_tiles_are_those_of_the_mask(block_size):
    """Against PyTorch's own, which looks at every pair of tokens."""
    rng = np.random.default_rng(block_size)
    rows = [np.arange(n) for n in rng.integers(30, 700, 6)]
    mask = lay_out(rows, [len(row) // 3 for row in rows], block_size).to("cpu", packed=True).packed.mask
    expected = create_block_mask(mask.mask_mod, None, None, *mask.seq_lengths, device="cpu", BLOCK_SIZE=packed._TILE)
    assert torch.equal(mask.to_dense(), expected.to_dense())
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(mask, name), getattr(expected, name))
    assert 0 < mask.full_kv_num_blocks.sum() < mask.kv_num_blocks.sum()
    assert mask.sparsity() > 70


def test_a_padded_state_is_zero():
    model = tiny_model()
    model.set_attn_implementation(BLOCK_SPARSE)
    layout = lay_out(ROWS, PROMPTS, 4).to("cpu", packed=True)
    assert not layout.hidden_states(model, layout.noisy_ids)[layout.noisy_blocks < 0].any()


def test_rows_that_are_not_packed_are_refused():
    """A model prepared for packed rows does not silently take a dense mask."""
    model = tiny_model()
    model.set_attn_implementation(BLOCK_SPARSE)
    layout = lay_out(ROWS, PROMPTS, 4)
    with pytest.raises(ParameterError, match="'block_sparse' is not supported"):
        layout.hidden_states(model, layout.noisy_ids)


def test_a_backward_has_tiles_of_the_mask_in_whatever_thread_it_is_compiled(monkeypatch):
    """Whatever PyTorch would take: a configuration that does not fit is left out before our options are looked at.

    A CPU has no backward of FlexAttention, so forward and backward of something else are compiled, and asked.
    """
    # These take a second, which each worker would spend.
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.choices import InductorChoices
    from torch._inductor.virtualized import V

    theirs = InductorChoices.get_flex_attention_bwd_configs
    # What `speed_up` sets is put back after the test.
    monkeypatch.setattr(InductorChoices, "get_flex_attention_bwd_configs", theirs)
    monkeypatch.setattr(packed, "_use_our_tiles", packed._use_our_tiles.__wrapped__)
    packed.speed_up(tiny_model())
    asked = {}

    def compiler(graph, _):
        asked[threading.get_ident()] = V.choices.get_flex_attention_bwd_configs(128, torch.bfloat16, "cpu")
        return make_boxed_func(graph.forward)

    x = torch.ones(3, requires_grad=True)
    found = torch.compile(torch.sin, backend=aot_autograd(fw_compiler=compiler, bw_compiler=compiler))(x).sum()
    thread = threading.Thread(target=found.backward)
    thread.start()
    thread.join()
    torch.testing.assert_close(x.grad, x.detach().cos())
    assert len(asked) == 2
    for ours in asked.values():
        assert len(ours) == len(theirs(InductorChoices(), 128, torch.bfloat16, "cpu")) > 0
        for config in ours:
            assert {config.block_m1, config.block_n1, config.block_m2, config.block_n2} == {packed._TILE}
