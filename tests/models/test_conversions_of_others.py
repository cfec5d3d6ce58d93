"""Folders as dllm and OPDLM publish them: read as they are, and decoded as an SDAR of the same weights. And the other
way round: what SGLang's and LMDeploy's SDAR read of a folder, both were read and not run, is there."""

import json

import pytest
from transformers import AutoModelForCausalLM

from t3d.decoding.decoder import decode
from t3d.decoding.request import DecodingOptions, Request
from t3d.errors import ParameterError
from t3d.evaluation import checkpoint
from t3d.models.folder import load_tokenizer, mask_id, stop_ids
from t3d.models.sdar import load_model
from t3d.params import Budget, Teacher, find
from tests.artefacts import made
from tests.conftest import SHAPES, SHIPPED, tiny_autoregressive, tiny_model

CLASSES = {"qwen3": "A2DQwen3LMHeadModel", "qwen2": "A2DQwen2LMHeadModel"}


@pytest.fixture(params=["qwen3", "qwen2"])
def published(request, tmp_path, tokenizer):
    """A random model of the kind, its folder with the fields of its config and dllm's spelling of the mask token."""
    kind, size = request.param, len(tokenizer)
    causal = tiny_autoregressive(kind, vocab_size=size)
    causal.generation_config.eos_token_id = sorted(stop_ids(SHIPPED))
    causal.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": f"a2d-{kind}", "architectures": [CLASSES[kind]]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(tmp_path)
    for path in tmp_path.glob("*tok*.json"):
        path.write_text(path.read_text().replace("<|MASK|>", "<|mask|>"))
    template = "{%- if enable_thinking is not defined or enable_thinking %}think{% endif %}"
    (tmp_path / "chat_template.jinja").write_text(template + tokenizer.chat_template)
    return tmp_path, tiny_model(vocab_size=size, **SHAPES[kind])


def test_it_decodes_as_an_sdar_of_the_same_weights(published, tokenizer):
    folder, same = published
    loaded, own = load_model(folder), load_tokenizer(folder)
    assert (loaded.config.model_type, loaded.config.block_size) == ("sdar", 32)
    assert own.convert_ids_to_tokens(mask_id(own)) == "<|mask|>"
    assert mask_id(own) == mask_id(tokenizer)
    options = DecodingOptions(24, stop_ids(folder), mask_id(own))
    requests = [Request([5, 9, 30, 41, 8], 0), Request([7, 7, 12], 1)]
    for budget in ("b4s2", "b8t0.9"):
        found = decode(loaded, requests, Budget.parse(budget), options)
        assert [r.ids for r in found] == [r.ids for r in decode(same, requests, Budget.parse(budget), options)]


def test_the_auto_classes_load_it_as_well(published):
    folder, _ = published
    config = AutoModelForCausalLM.from_pretrained(folder).config
    assert config.to_diff_dict() == load_model(folder).config.to_diff_dict()


def test_it_is_asked_without_thinking(published, tokenizer):
    folder, _ = published
    asked = [{"role": "user", "content": "How many?"}]
    own = load_tokenizer(folder).apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert own == tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)


def test_a_student_of_it_is_an_sdar(published, tmp_path):
    folder, _ = published
    load_model(folder).save_pretrained(tmp_path / "student")
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert (config["model_type"], config["qk_norm"]) == ("sdar", not config["qkv_bias"])
    load_model(tmp_path / "student")


_OF_BOTH = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"}
_OF_BOTH |= {"head_dim", "attention_bias", "rms_norm_eps", "vocab_size", "tie_word_embeddings", "architectures"}
FIELDS = {
    "SGLang": _OF_BOTH | {"rope_theta", "max_position_embeddings"},
    "LMDeploy": _OF_BOTH | {"sliding_window", "pad_token_id", "rope_parameters", "eos_token_id"},
}


def test_a_folder_has_what_the_servers_read(tmp_path):
    rope = {"rope_theta": 1e6, "rope_type": "default"}
    model = tiny_model(rope_parameters=rope, pad_token_id=0, eos_token_id=2)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert all(fields <= config.keys() for fields in FIELDS.values())
    assert (config["model_type"], config["architectures"]) == ("sdar", ["SDARForCausalLM"])
    # SGLang's default would be 10000.
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 1e6
    assert load_model(tmp_path).config.rope_parameters == rope


def test_a_mask_token_that_the_folder_does_not_name_is_a_parameter(published, tokenizer, tmp_path):
    folder, _ = published
    for path in folder.glob("*tok*.json"):
        path.write_text(path.read_text().replace("<|mask|>", "<|gap|>"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"mask_token": None}))
    with pytest.raises(ParameterError, match="say which it is: `mask_token` of the teacher"):
        load_tokenizer(folder)
    with pytest.raises(ParameterError, match="mask_token '<|hole|>' is no token of its vocabulary".replace("|", r"\|")):
        load_tokenizer(folder, "<|hole|>")
    experiment = checkpoint.experiment_of(find("demo"), str(folder), "gsm", mask_token="<|gap|>")
    made(experiment, tmp_path / "made", f"teachers/{checkpoint.MODEL}")
    own = load_tokenizer(tmp_path / "made" / "teachers" / checkpoint.MODEL)
    assert own.convert_ids_to_tokens(mask_id(own)) == "<|gap|>"
    assert mask_id(own) == mask_id(tokenizer)
    assert json.loads((folder / "tokenizer_config.json").read_text())["mask_token"] is None


def test_a_mask_token_is_for_what_was_fetched_and_has_one():
    with pytest.raises(ValueError, match="mask_token is for block-diffusion LMs with source: hub"):
        Teacher(source="shipped", path="data/shipped/pocket-sdar", mask_token="<|gap|>")
