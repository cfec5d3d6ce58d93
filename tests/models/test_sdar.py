"""The model: block-causal attention, the cache, the training layout, and Hugging Face folders."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

from t3d.errors import CorruptArtefactError, MissingInputError, ParameterError
from t3d.models.folder import load_tokenizer
from t3d.models.layout import lay_out
from t3d.models.masks import block_causal
from t3d.models.sdar import SDARForCausalLM, load_model
from tests.conftest import MASK, SHAPES, tiny_autoregressive, tiny_model


@pytest.mark.parametrize("block_size", [1, 3, 4, 8])
@pytest.mark.parametrize("position", [0, 5, 10, 18])
def test_a_token_reaches_its_own_and_later_blocks_only(block_size, position):
    model = tiny_model(block_size=block_size)
    ids = torch.randint(4, 97, (1, 19), generator=torch.Generator().manual_seed(1))
    changed = ids.clone()
    changed[0, position] = (changed[0, position] + 1) % 97
    moved = (model(ids).logits - model(changed).logits).abs().amax(dim=-1)[0] > 1e-6
    start = position // block_size * block_size
    assert not moved[:start].any()
    assert moved[start:].all()


@pytest.mark.parametrize("kind", SHAPES)
def test_blocks_of_one_token_are_transformers_own_model(kind):
    """Where it begins to be trained, a converted model says what the autoregressive one says, bit for bit."""
    model, causal = tiny_model(block_size=1, **SHAPES[kind]), tiny_autoregressive(kind)
    ids = torch.randint(4, 97, (2, 19), generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(ids).logits, causal(ids).logits)
    assert type(causal).__name__ == {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}[kind]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folder_says_which_layers_it_holds(tmp_path, shape):
    model = tiny_model(**SHAPES[shape])
    model.save_pretrained(tmp_path)
    again, ids = load_model(tmp_path), torch.randint(4, 97, (1, 9))
    for loaded in (again, AutoModelForCausalLM.from_pretrained(tmp_path).eval()):
        assert type(loaded) is SDARForCausalLM
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    names = set(again.state_dict())
    assert ("model.layers.0.self_attn.q_norm.weight" in names) == (shape == "qwen3")
    assert ("model.layers.0.self_attn.v_proj.bias" in names) == (shape == "qwen2")
    assert "model.layers.0.self_attn.o_proj.bias" not in names


@pytest.mark.parametrize("kind", SHAPES)
def test_keys_that_are_written_alone_are_those_of_a_whole_forward(kind):
    model = tiny_model(**SHAPES[kind])
    ids = torch.randint(4, 97, (2, 12), generator=torch.Generator().manual_seed(1))
    blocks = torch.arange(12).expand(2, 12) // 4
    where = ids, block_causal(blocks, blocks), torch.arange(12).expand(2, 12)
    whole, alone = DynamicCache(config=model.config), DynamicCache(config=model.config)
    model.hidden_states(*where, past_key_values=whole, use_cache=True)
    model.write_keys(*where, alone)
    assert len(whole.layers) == len(alone.layers) == 2
    for one, other in zip(whole.layers, alone.layers, strict=True):
        assert torch.equal(one.keys, other.keys)
        assert torch.equal(one.values, other.values)


@pytest.mark.parametrize("length", range(9, 17))
def test_cached_blocks_equal_the_full_forward(model, length):
    """For every length modulo the block size: whole blocks go through the cache one by one."""
    from t3d.decoding.decoder import _PrefixCache

    size = 4
    ids = torch.randint(4, 97, (2, length), generator=torch.Generator().manual_seed(length))
    full = model(ids).logits
    cache = _PrefixCache(capacity=length)
    blocks = torch.arange(length).expand(2, -1) // size
    for start in range(0, length, size):
        end = min(start + size, length)
        mask = block_causal(blocks[:, start:end], blocks[:, :end])
        positions = torch.arange(start, end).expand(2, -1)
        hidden = model.hidden_states(ids[:, start:end], mask, positions, past_key_values=cache, use_cache=True)
        cache.length = end
        torch.testing.assert_close(model.lm_head(hidden), full[:, start:end], atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompt_length", range(5, 13))
@pytest.mark.parametrize("block_size", [4, 8])
def test_training_layout_equals_prefix_and_noisy_block(prompt_length, block_size):
    """One forward over clean + noisy copy gives, block by block, what the decoder would see."""
    model = tiny_model(block_size=block_size)
    rng = np.random.default_rng(prompt_length)
    total = (prompt_length // block_size + 3) * block_size
    rows = [rng.integers(4, 97, total), rng.integers(4, 97, total + block_size)]
    prompts = [prompt_length, prompt_length + 1]
    layout = lay_out(rows, prompts, block_size)
    generator = torch.Generator().manual_seed(0)
    masked = layout.is_response & (torch.rand(layout.is_response.shape, generator=generator) < 0.6)
    noisy = layout.noisy_ids.masked_fill(masked, MASK)
    logits = model.lm_head(layout.hidden_states(model, noisy))
    for row, (ids, prompt) in enumerate(zip(rows, prompts, strict=True)):
        first = prompt // block_size * block_size
        for start in range(first, len(ids), block_size):
            column = start - first
            block = noisy[row, column : column + block_size]
            sequence = torch.cat([torch.from_numpy(ids[:start]), block])[None]
            expected = model(sequence).logits[0, start:]
            torch.testing.assert_close(logits[row, column : column + block_size], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("grid", ["global", "response"])
def test_layout_of_cut_rows_and_of_a_grid_that_begins_at_the_response(model, grid):
    """Against one forward per block, whose mask is written out token by token."""
    rows, prompts = [np.arange(4, 4 + n) for n in (13, 18, 10)], [6, 3, 4]
    layout = lay_out(rows, prompts, 4, grid)
    noisy = layout.noisy_ids.masked_fill(layout.is_response, MASK)
    logits = model.lm_head(layout.hidden_states(model, noisy))
    for row, (ids, prompt) in enumerate(zip(rows, prompts, strict=True)):
        origin = prompt % 4 if grid == "response" else 0
        block = (np.arange(len(ids)) - origin) // 4
        first = int(np.flatnonzero(block == block[prompt])[0])
        assert layout.noisy_ids[row, : len(ids) - first].tolist() == ids[first:].tolist()
        for number in range(block[prompt], block[-1] + 1):
            inside = np.flatnonzero(block == number)
            end = inside[-1] + 1
            sequence = torch.from_numpy(ids[:end].copy())
            sequence[[i for i in inside if i >= prompt]] = MASK
            visible = torch.from_numpy(block[:end][None] <= block[:end, None])[None]
            expected = model(sequence[None], attention_mask=visible, position_ids=torch.arange(end)[None]).logits[0]
            columns = slice(inside[0] - first, end - first)
            torch.testing.assert_close(logits[row, columns], expected[inside[0] :], atol=1e-5, rtol=0)
            assert not layout.is_response[row, len(ids) - first :].any()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_implementations_agree(tmp_path, heads):
    tiny_model(num_key_value_heads=heads).save_pretrained(tmp_path)
    eager, other = (
        SDARForCausalLM.from_pretrained(tmp_path, attn_implementation=name).eval() for name in ("eager", "sdpa")
    )
    ids = torch.randint(4, 97, (2, 14))
    gradients = []
    for model in (eager, other):
        model(ids).logits.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(other(ids).logits, eager(ids).logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-4)


def test_other_attention_is_refused(model):
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ParameterError, match="'flex_attention' is not supported; use sdpa or eager"):
        model(torch.tensor([[5, 6, 7]]))


def test_padding_on_the_left_changes_nothing(model):
    ids = torch.randint(4, 97, (1, 10))
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], dim=1)
    mask = (torch.arange(14) >= 4).long()[None]
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 4:], model(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_published_folder_shape_loads_without_remote_code(tmp_path, tied):
    """An SDAR folder as on the hub names its own code (`auto_map`); ours is used, and the weights are Qwen3's."""
    tiny_model(tie_word_embeddings=tied).save_pretrained(tmp_path, max_shard_size="20KB")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert (tmp_path / "model.safetensors.index.json").is_file()
    names = set(load_model(tmp_path).state_dict())
    assert {"model.layers.0.self_attn.q_norm.weight", "model.layers.1.mlp.gate_proj.weight"} <= names


def test_loading_and_saving_draw_no_bar(tmp_path, capsys):
    logging.enable_progress_bar()
    tiny_model().save_pretrained(tmp_path / "first")
    capsys.readouterr()
    load_model(tmp_path / "first").save_pretrained(tmp_path / "again")
    assert capsys.readouterr().err == ""


def test_other_models_are_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ParameterError, match="model_type is 'llama', expected 'sdar' or 'a2d-qwen3' or 'a2d-qwen2'"):
        load_model(tmp_path)
    with pytest.raises(MissingInputError, match=r"config\.json"):
        load_model(tmp_path / "nowhere")


NORM = "model.layers.1.input_layernorm.weight"


def damaged(folder, edit):
    """A folder whose weights were edited, file and header whole."""
    tiny_model().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop(NORM), f"weight {NORM} is missing"),
        (lambda w: w.pop("model.embed_tokens.weight"), r"weight (lm_head|model\.embed_tokens)\.weight is missing"),
        (
            lambda w: w.update({"model.extra.weight": torch.ones(2)}),
            "weight model.extra.weight .* should be not there",
        ),
        (lambda w: w.update({NORM: torch.ones(7)}), f"weight {NORM} is .7"),
        (lambda w: w[NORM].__setitem__(3, float("nan")), f"weight {NORM} holds NaN or infinity"),
        (lambda w: w[NORM].__setitem__(3, float("-inf")), f"weight {NORM} holds NaN or infinity"),
        (lambda w: w["model.embed_tokens.weight"][5].fill_(float("inf")), "embed_tokens.weight holds NaN or infinity"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_not_whole_are_refused_by_name(tmp_path, edit, message, dtype):
    damaged(tmp_path, edit)
    with pytest.raises(CorruptArtefactError, match=message):
        load_model(tmp_path, dtype=dtype)


def test_weights_that_cannot_be_read_are_refused(tmp_path):
    damaged(tmp_path, dict)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptArtefactError, match=r"model\.safetensors cannot be read"):
        load_model(tmp_path)
    path.unlink()
    with pytest.raises(MissingInputError, match=r"model\.safetensors is missing"):
        load_model(tmp_path)


def test_a_tokenizer_without_mask_token_is_refused(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (tmp_path / name).read_text().replace("<|MASK|>", "<|HOLE|>").replace('"mask_token"', '"hole_token"')
        (tmp_path / name).write_text(text)
    with pytest.raises(ParameterError, match="no mask token"):
        load_tokenizer(tmp_path)
