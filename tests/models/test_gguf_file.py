"""GGUF files: what transformers makes of them, tied heads, and files that are refused."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from transformers import AutoModelForCausalLM, AutoTokenizer

from t3d.errors import CorruptArtefactError, ParameterError
from t3d.models import gguf_file
from t3d.models.folder import stop_ids
from t3d.provenance import store
from t3d.teachers import teacher
from tests.artefacts import made
from tests.autoregressive import VOCABULARY, experiment_file, tiny_tokenizer
from tests.conftest import SHAPES, tiny_autoregressive

WIDE = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 96}
_NAMES = {name: part for part, name in gguf_file._NAMES.items()}


def tensor_name(name):
    """The name in GGUF of a weight of transformers."""
    *path, kind = name.split(".")
    if path[:2] == ["model", "layers"]:
        return f"blk.{path[2]}.{_NAMES['.'.join(path[3:])]}.{kind}"
    return f"{_NAMES['.'.join(path)]}.{kind}"


def write(path, kind="qwen2", model=None, architecture=None, head=None, without=()):
    """A GGUF file of a tiny model: 8-bit matrices, 16-bit where their rows are too short, and 32-bit vectors.

    Args:
        path: where it goes.
        kind: of model.
        model: the model; a tiny one unless given.
        architecture: what the file says it is.
        head: a second matrix for the head.
        without: names of metadata that are left out.
    """
    model = model or tiny_autoregressive(kind, vocab_size=VOCABULARY, **WIDE)
    config, tokenizer = model.config, tiny_tokenizer()
    writer = GGUFWriter(path, architecture or kind)
    fields = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": 16,
    }
    for name, value in fields.items():
        if name not in without:
            writer.add_uint32(f"{kind}.{name}", value)
    writer.add_float32(f"{kind}.rope.freq_base", config.rope_parameters["rope_theta"])
    writer.add_float32(f"{kind}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    words = {index: word for word, index in (tokenizer.get_vocab() | {"ab": len(tokenizer)}).items()}
    tokens = [words.get(index, f"[PAD{index}]") for index in range(VOCABULARY)]
    types = [TokenType.NORMAL if index in words else TokenType.UNUSED for index in range(VOCABULARY)]
    types[:3] = [TokenType.CONTROL] * 3
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    weights = {name: value.float().numpy() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    if head is not None:
        weights["lm_head.weight"] = head
    for name, value in weights.items():
        if value.ndim == 1:
            writer.add_tensor(tensor_name(name), value)
            continue
        # The embeddings in fewer bits than the head, as published files have them.
        kind_of = GGMLQuantizationType.Q5_0 if "embed" in name else GGMLQuantizationType.Q8_0
        writer.add_tensor(tensor_name(name), gguf.quantize(value, kind_of), raw_dtype=kind_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.parametrize("kind", SHAPES)
def test_weights_are_those_of_the_model_up_to_their_bits(kind, tmp_path):
    model = write(tmp_path / "m.gguf", kind)
    facts = gguf_file.dequantise(tmp_path / "m.gguf", tmp_path / "out")
    assert facts["tied"]
    assert facts["tensors"]["Q5_0"] == 1
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert type(found) is type(model)
    for name, weight in model.state_dict().items():
        # 5 bits for the embeddings: a thirtieth of the largest of 32.
        torch.testing.assert_close(found.state_dict()[name], weight, atol=0.06 * float(weight.abs().max()), rtol=0.01)
    ids = torch.randint(4, 259, (1, 12))
    assert torch.corrcoef(torch.stack([found(ids).logits.flatten(), model(ids).logits.flatten()]))[0, 1] > 0.95


def test_a_folder_holds_what_transformers_reads_from_the_file(tmp_path):
    """Of a Qwen2; of a Qwen3, transformers 5.23 does not read the width of a head."""
    write(tmp_path / "m.gguf")
    gguf_file.dequantise(tmp_path / "m.gguf", tmp_path / "out")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight.bfloat16().float()), name
    assert ours.config.rope_parameters == theirs.config.rope_parameters
    tokenizer, other = (
        AutoTokenizer.from_pretrained(tmp_path / "out"),
        AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf"),
    )
    text = "<|im_start|>user\nab ab é 12<|im_end|>"
    assert tokenizer(text)["input_ids"] == other(text)["input_ids"]
    assert tokenizer.chat_template == other.chat_template
    # Ids that only fill the embeddings up are free.
    assert len(tokenizer) == len(tiny_tokenizer()) + 1 < VOCABULARY
    assert stop_ids(tmp_path / "out") == {0, 2}


def test_a_head_that_is_the_embedding_in_more_bits_is_tied_and_taken_for_both(tmp_path):
    model = tiny_autoregressive("qwen2", vocab_size=VOCABULARY, **WIDE)
    head = model.lm_head.weight.detach().numpy()
    write(tmp_path / "m.gguf", model=model, head=head)
    assert gguf_file.dequantise(tmp_path / "m.gguf", tmp_path / "out")["tied"]
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert found.config.tie_word_embeddings
    assert found.lm_head.weight is found.model.embed_tokens.weight
    eight = gguf.dequantize(gguf.quantize(head, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)
    torch.testing.assert_close(found.lm_head.weight, torch.from_numpy(eight).bfloat16().float())


def test_a_head_of_its_own_stays_its_own(tmp_path):
    head = np.random.default_rng(0).normal(size=(VOCABULARY, 64)).astype(np.float32)
    write(tmp_path / "m.gguf", head=head)
    assert not gguf_file.dequantise(tmp_path / "m.gguf", tmp_path / "out")["tied"]
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert not found.config.tie_word_embeddings
    torch.testing.assert_close(found.lm_head.weight, torch.from_numpy(head), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda p: write(p, architecture="llama"), ParameterError,
         "general.architecture is 'llama', supported are qwen2, qwen3"),
        (lambda p: p.write_bytes(b"not a model"), CorruptArtefactError, "is not a whole GGUF file"),
        (lambda p: (write(p), p.write_bytes(p.read_bytes()[:-5000])), CorruptArtefactError, "is not a whole GGUF file"),
        (lambda p: (write(p), p.write_bytes(p.read_bytes()[:2000])), CorruptArtefactError, "is not a whole GGUF file"),
        (lambda p: write(p, without=["block_count"]), CorruptArtefactError, "has no 'qwen2.block_count'"),
    ],
    ids=["another architecture", "another file", "torn in the weights", "torn in the metadata", "no block count"],
)  # fmt: skip
def test_other_and_damaged_files_are_refused_and_nothing_is_written(tmp_path, damage, error, message):
    path = tmp_path / "m.gguf"
    damage(path)
    with pytest.raises(error, match=message):
        gguf_file.dequantise(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_that_holds_one_is_an_autoregressive_teacher(tmp_path):
    (tmp_path / "published").mkdir()
    write(tmp_path / "published" / "m.gguf")
    experiment = experiment_file(tmp_path, tmp_path / "published")
    manifest = store.read(made(experiment, tmp_path, "teachers/ar"))
    teacher.check_folder(manifest.folder(), is_autoregressive=True)
    sha256 = store.sha256(tmp_path / "published" / "m.gguf")
    assert manifest.facts["gguf"] == {"file": "m.gguf", "sha256": sha256}
    assert store.read_receipt(manifest)["gguf"]["tensors"]["Q8_0"] == 14
