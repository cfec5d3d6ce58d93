"""Pretraining a pocket teacher: the corpus, the masks, and that a few steps learn something and load again."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from t3d.distributed.checkpoints import Checkpoints
from t3d.errors import TrainingError
from t3d.models import autoregressive
from t3d.models.folder import load_tokenizer, mask_id, stop_ids
from t3d.models.layout import lay_out
from t3d.models.sdar import load_model
from t3d.params import Experiment
from t3d.progress import Progress
from t3d.prompts.reader import encode_prompt
from t3d.teachers import corpus, pretrain, teacher
from tests.training import SMALL, small_corpus


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Its rows are drawn in processes, those of the other tests, which must be the same, in this one."""
    folder, pool = tmp_path_factory.mktemp("pocket"), corpus.process_pool
    with pytest.MonkeyPatch.context() as patch:
        small_corpus(patch)
        with patch.context() as of_processes:
            of_processes.setattr(corpus, "process_pool", pool)
            facts = pretrain.pretrain(SMALL, seed=0, device="cpu", folder=folder)
        yield folder, facts


def test_a_folder_that_loads_and_a_loss_that_fell(made):
    folder, facts = made
    assert facts["rows"] == 40
    assert facts["loss"] < np.log(400)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    assert model.config.block_size == 8
    assert stop_ids(folder) == {tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert mask_id(tokenizer) not in stop_ids(folder)


def test_rows_do_not_depend_on_the_order_in_which_a_file_lists_domains(made):
    """It is that of the published teacher, `{gsm: 5, code: 1}`, to whose first domain a remainder goes."""
    tokenizer = load_tokenizer(made[0]).backend_tokenizer
    drawn = []
    for domains in ({"gsm": 5, "code": 1}, {"code": 1, "gsm": 5}):
        pretraining = SMALL.model_copy(update={"domains": domains, "problems": 20})
        assert list(corpus.shares_of(pretraining).items()) == [("gsm", 5), ("code", 1)]
        drawn.append(corpus.draw_rows(tokenizer, pretraining, 0))
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 20


def test_a_loss_that_is_no_number_ends_pretraining(made, tmp_path):
    with pytest.raises(TrainingError, match=r"pretraining: the loss is nan at step \d+ or in the 100 steps before it"):
        pretrain.pretrain(SMALL.model_copy(update={"learning_rate": 1e38}), 0, "cpu", tmp_path)
    assert not list(tmp_path.iterdir())


def test_digits_are_single_tokens_and_the_template_is_the_pretraining_text(made):
    tokenizer = load_tokenizer(made[0])
    ids = tokenizer("it is 20481", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([i]) for i in ids[-5:]] == list("20481")
    question = "How many are 3 and 4?"
    assert tokenizer.decode(encode_prompt(tokenizer, question)) == corpus.chat_prompt(question)


def test_masks_are_uniform_in_number_and_stay_on_the_response():
    rows = [np.arange(8 * 40), np.arange(8 * 30)]
    layout = lay_out(rows, [5, 12], 8)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(9)
    for _ in range(60):
        masked = pretrain.mask_blocks(layout, generator)
        assert not (masked & ~layout.is_response).any()
        whole = layout.by_block(layout.is_response).all(-1)
        counts += torch.bincount(layout.by_block(masked).sum(-1)[whole], minlength=9)
    shares = counts / counts.sum()
    assert shares[0] == 0
    assert (shares[1:] - 1 / 8).abs().max() < 0.02


@pytest.fixture(scope="module")
def next_tokens(made, tmp_path_factory):
    """An autoregressive model, pretrained on what the teacher was."""
    folder = tmp_path_factory.mktemp("pocket-ar")
    return folder, pretrain.pretrain(SMALL, seed=0, device="cpu", folder=folder, autoregressive=True)


def test_an_autoregressive_model_is_a_plain_qwen3_with_the_teachers_rows_and_tokens(made, next_tokens):
    folder, facts = next_tokens
    assert (facts["rows"], facts["parameters"]) == (made[1]["rows"], made[1]["parameters"])
    assert facts["loss"] < np.log(400)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is Qwen3ForCausalLM
    assert stop_ids(folder) == stop_ids(made[0])
    question = "How many are 3 and 4?"
    asked = encode_prompt(autoregressive.load_tokenizer(folder), question, enable_thinking=False)
    assert asked == encode_prompt(load_tokenizer(made[0]), question)


def test_the_next_token_is_learned_of_responses_alone_whatever_a_row_is_batched_with(next_tokens):
    model = Qwen3ForCausalLM.from_pretrained(next_tokens[0], dtype=torch.float32)
    end, filler = 2, 0
    rows = [([5, 6, 7], [8, 9, end, filler, filler]), ([5, 6, 7, 8, 9], [10, 11, 12, 13, end]), ([4], [end])]
    loss_of = pretrain.next_token_loss(model, pretrain.Corpus(rows), filler)
    losses = []
    for prompt, response in rows:
        text = prompt + [token for token in response if token != filler]
        log_p = model(torch.tensor([text])).logits[0].log_softmax(-1)
        losses += [-log_p[at - 1, text[at]] for at in range(len(prompt), len(text))]
    assert len(losses) == 9
    torch.testing.assert_close(loss_of(0, np.arange(3)), torch.stack(losses).mean())


@pytest.fixture(scope="module")
def rows(made):
    return corpus.draw_rows(load_tokenizer(made[0]).backend_tokenizer, SMALL, 0)


@pytest.fixture
def saving(made, rows, monkeypatch):
    """Pretraining that begins at once, with what `made` was made of, and saves its state every five steps."""
    tokenizer = load_tokenizer(made[0])
    monkeypatch.setattr(pretrain, "_tokenizer", lambda *_: tokenizer)
    monkeypatch.setattr(pretrain, "draw_rows", lambda *_: rows)
    monkeypatch.setattr(pretrain, "_CHECKPOINT_EVERY", 5)


def test_pretraining_that_is_killed_goes_on_and_ends_as_if_it_never_stopped(
    made, saving, tmp_path, monkeypatch, capsys
):
    again = {"seed": 0, "device": "cpu", "folder": tmp_path / "teacher"}
    learning_rate = pretrain._learning_rate

    def dying(step, pretraining):
        if step == 8:
            raise KeyboardInterrupt
        return learning_rate(step, pretraining)

    monkeypatch.setattr(pretrain, "_learning_rate", dying)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(SMALL, checkpoints=Checkpoints(tmp_path / "states", "one"), **again)
    monkeypatch.setattr(pretrain, "_learning_rate", learning_rate)
    facts = pretrain.pretrain(SMALL, checkpoints=Checkpoints(tmp_path / "states", "one"), **again)
    assert "resuming after step 5\n" in capsys.readouterr().out
    assert facts["loss"] == made[1]["loss"]
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "teacher" / name).read_bytes() == (made[0] / name).read_bytes()


def test_a_teachers_states_lie_beside_it_until_it_is_complete(made, saving, tmp_path, monkeypatch):
    content = {"teachers": {"small": {"source": "pretrain", "pretraining": SMALL.model_dump()}}, "prompt_sets": {}}
    experiment = Experiment.model_validate({"name": "one", "device": "cpu", **content})
    out, save = tmp_path / "teachers" / "small.manifest.json", Checkpoints.save

    def killed(checkpoints, step, part):
        save(checkpoints, step, part)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        teacher.make(experiment, "small", out)
    assert [path.name for path in out.parent.iterdir()] == ["small.states"]
    monkeypatch.setattr(Checkpoints, "save", save)
    first = []
    monkeypatch.setattr(pretrain, "Progress", lambda *given: first.append(given[2]) or Progress(*given))
    teacher.make(experiment, "small", out)
    assert first == [5]
    assert sorted(path.name for path in out.parent.iterdir()) == ["small", out.name, "small.receipt.json"]
    assert (out.parent / "small" / "model.safetensors").read_bytes() == (made[0] / "model.safetensors").read_bytes()
