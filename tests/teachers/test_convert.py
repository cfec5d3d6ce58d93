"""An autoregressive folder through its stages: prompts, its own answers, conversion, and what follows from that."""

import json

import pytest
import torch

from t3d.distributed import fsdp
from t3d.errors import DataError, MissingInputError, ParameterError, TrainingError
from t3d.models import autoregressive
from t3d.models.folder import load_tokenizer, mask_id, stop_ids
from t3d.params import Conversion
from t3d.prompts import generated
from t3d.prompts.reader import read_prompts
from t3d.provenance import lineage, store
from t3d.teachers import convert, teacher
from t3d.teachers.probes import Probes
from t3d.trajectories import generations
from tests.artefacts import made
from tests.autoregressive import VOCABULARY, content_of, experiment_file, experiment_of, tiny_tokenizer, write_causal
from tests.conftest import SHAPES, tiny_autoregressive


@pytest.fixture(scope="module", params=SHAPES)
def chain(request, tmp_path_factory):
    """Everything up to the converted teacher, of both shapes: the experiment and the folder of its artefacts."""
    folder = tmp_path_factory.mktemp(request.param)
    experiment = experiment_file(folder, write_causal(folder / "published", request.param))
    made(experiment, folder, "teachers/sdar")
    return experiment, folder


def test_answers_are_the_models_own_and_do_not_depend_on_shards(chain, tmp_path):
    _, folder = chain
    rows = [
        row
        for shard in ("0-of-2", "1-of-2")
        for row in generated.read(store.read(folder / f"generations/own/{shard}.manifest.json").file(".parquet"))
    ]
    assert len({(row.prompt_id, row.sample) for row in rows}) == len(rows) == 36
    stops = stop_ids(folder / "published")
    assert all((row.response_ids[-1] in stops) == (row.finish_reason == "stop") for row in rows)
    assert not any(stops & set(row.response_ids[:-1]) for row in rows)
    assert len({tuple(row.response_ids) for row in rows}) > 30
    one = experiment_file(
        tmp_path,
        folder / "published",
        generations={"own": {"prompts": "train", "samples": 3, "max_new_tokens": 40, "batch_size": 5}},
    )
    again = generated.read(store.read(made(one, tmp_path, "generations/own/0-of-1")).file(".parquet"))
    assert sorted(map(str, again)) == sorted(map(str, rows))
    receipt = store.read_receipt(store.read(folder / "generations/own/0-of-2.manifest.json"))
    assert receipt["speed"]["tokens_per_second"] > 0


def test_several_processes_draw_what_one_draws(chain, tmp_path, in_processes):
    experiment, folder = chain
    given = [folder / f"{artefact}.manifest.json" for artefact in ("teachers/ar", "prompts/train")]
    out = tmp_path / "0-of-2.manifest.json"
    in_processes(lambda _: generations.make(experiment, "own", "0-of-2", *given, out))
    ours, one = (store.read(path) for path in (out, folder / "generations/own/0-of-2.manifest.json"))
    assert ours.file(".parquet").read_bytes() == one.file(".parquet").read_bytes()
    assert store.read_receipt(ours)["speed"]["processes"] == 2


def test_a_converted_teacher_is_a_teacher_as_any_other(chain):
    experiment, folder = chain
    sdar = store.read(folder / "teachers/sdar.manifest.json")
    teacher.check_folder(sdar.folder())
    assert {"sources/qwen", "sources/rows", "prompts/train", "generations/own/1-of-2"} <= set(sdar.recipes)
    tokenizer = load_tokenizer(sdar.folder())
    # The first id that is no token's.
    assert mask_id(tokenizer) == len(tiny_tokenizer()) < VOCABULARY
    assert stop_ids(sdar.folder()) == stop_ids(folder / "published")
    shard = made(experiment, folder, "trajectories/r/0-of-1")
    assert store.read(shard).facts["trajectories"] == 12
    # It asks as the answers it learned from were asked for: without thinking.
    ours, theirs = (read_prompts(store.read(folder / f"prompts/{name}.manifest.json")) for name in ("again", "train"))
    assert [p.prompt_ids for p in ours] == [p.prompt_ids for p in theirs]
    assert "<think></think>" in tokenizer.decode(ours[0].prompt_ids)


def test_it_learns_and_says_how(chain):
    _, folder = chain
    sdar = store.read(folder / "teachers/sdar.manifest.json")
    log = [json.loads(line) for line in (sdar.folder() / "training.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log]
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    receipt = store.read_receipt(sdar)
    assert [moment["step"] for moment in receipt["training"]["probes"]] == [10, 20, 30]
    last = receipt["training"]["probes"][-1]
    assert 0 <= last["complete"] <= 1
    assert last["own_nll"] > 0
    assert len(last["texts"]) == 3
    assert receipt["tokens_per_second"] > 0
    assert sdar.facts["rows"] <= sdar.facts["complete"] <= sdar.facts["answers"] == 36


def test_tasks_that_the_model_writes_are_prompts_as_others(tmp_path):
    """Openings, which the model goes on with, become distinct tasks, and these get answers."""
    model = write_causal(tmp_path / "published")
    openings = ["Write a function to", "Say why "]
    content = content_of(tmp_path, model)
    content["prompt_sets"] |= {
        "openings": {"teacher": "ar", "domain": "openings", "openings": openings, "split": "train"},
        "written": {"teacher": "ar", "domain": "written", "generations": "tasks", "split": "train", "suffix": " Now."},
        "test": content["prompt_sets"]["again"] | {"split": "test"},
    }
    content["prompt_sets"]["rest"] = content["prompt_sets"]["written"] | {"rows": [1, 1000]}
    content["benchmarks"] = {"b": {"label": "B", "prompts": "test", "task": "gsm_boxed"}}
    content["generations"] |= {
        "tasks": {"prompts": "openings", "samples": 30, "max_new_tokens": 60, "sampling": {"temperature": 1.0}},
        "answers": {"prompts": "written", "max_new_tokens": 40},
    }
    experiment = experiment_of(tmp_path, content)
    made(experiment, tmp_path, "generations/answers/0-of-1")
    written = store.read(tmp_path / "prompts/written.manifest.json")
    # The benchmark's file is an input, since no task may be near a question of it.
    assert {"generations/tasks/0-of-1", "sources/rows"} <= set(written.inputs)
    tasks = read_prompts(written)
    assert len({task.text for task in tasks}) == len(tasks) > 1
    assert read_prompts(store.read(made(experiment, tmp_path, "prompts/rest"))) == tasks[1:]
    assert all(task.text.startswith(tuple(openings)) for task in tasks)
    assert sum(written.facts["left_out"].values()) + len(tasks) <= 60
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(tasks[0].prompt_ids).startswith(f"<|im_start|>user\n{tasks[0].text} Now.<|im_end|>")
    opened = read_prompts(store.read(tmp_path / "prompts/openings.manifest.json"))
    assert [tokenizer.decode(p.prompt_ids) for p in opened] == [f"<|im_start|>user\n{text}" for text in openings]


@pytest.mark.parametrize("chain", ["qwen2"], indirect=True, scope="module")
def test_a_conversion_that_was_ended_goes_on_and_ends_with_the_same_weights(chain, tmp_path, monkeypatch):
    experiment, folder = chain
    conversion = experiment.teachers["sdar"].conversion.model_copy(update={"checkpoint_every": 8})
    sdar = experiment.teachers["sdar"].model_copy(update={"conversion": conversion})
    experiment = experiment.model_copy(update={"teachers": experiment.teachers | {"sdar": sdar}})
    origins = [folder / f"{artefact}.manifest.json" for artefact in lineage.inputs_of(experiment, "teachers/sdar")]
    decode, again, asked = Probes.decode, tmp_path / "again" / "sdar.manifest.json", []

    def die(self, model):
        asked.append(model)
        if len(asked) == 2:
            raise TrainingError("ended")
        return decode(self, model)

    monkeypatch.setattr(Probes, "decode", die)
    with pytest.raises(TrainingError, match="ended"):
        teacher.make(experiment, "sdar", again, *origins)
    assert [path.name for path in again.parent.glob("sdar*")] == ["sdar.states"]
    teacher.make(experiment, "sdar", again, *origins)
    # Probes of step 10 are in the state of step 16; those of 20 and 30 are decoded now.
    assert len(asked) == 4
    assert store.read(again).digest() == store.read(folder / "teachers/sdar.manifest.json").digest()
    assert not (again.parent / "sdar.states").exists()


@pytest.mark.parametrize("chain", ["qwen2"], indirect=True, scope="module")
def test_several_processes_convert_as_one_does(chain, in_processes):
    """The same losses and weights up to the order of sums, and probes of the whole model."""
    experiment, folder = chain
    model = folder / "published"
    rows = generated.read(store.read(folder / "generations/own/0-of-2.manifest.json").file(".parquet"))
    conversion = experiment.teachers["sdar"].conversion.model_copy(update={"steps": 6, "probes": 2})

    def convert_(_):
        tokenizer = convert.with_mask(autoregressive.load_tokenizer(model), model)
        examples, _counts = convert.examples_of({"own": rows}, {}, conversion, tokenizer.pad_token_id)
        causal = autoregressive.load_model(model)
        converted = convert.converted(causal, tokenizer, 8)
        probes = Probes(experiment, model, tokenizer, examples, conversion, "cpu", 0)
        log = convert.train(converted, causal, examples, conversion, tokenizer, "cpu", 0, probes=probes)
        whole = fsdp.decodable(converted, "cpu")
        return log, torch.cat([p.flatten().float() for p in whole.parameters()]).numpy()

    (log, weights), (other, _) = in_processes(convert_)
    alone, expected = convert_(0)
    assert [entry["loss"] for entry in log] == pytest.approx([entry["loss"] for entry in alone], rel=1e-4)
    assert [entry["loss"] for entry in other] == [entry["loss"] for entry in log]
    assert abs(weights - expected).max() < 0.02 * abs(expected).max()
    assert log[-1]["probes"]["texts"]
    assert log[-1]["probes"]["own_nll"] == pytest.approx(alone[-1]["probes"]["own_nll"])


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("tied", [True, False])
def test_the_mask_begins_as_the_mean_of_all_tokens(kind, tied, tmp_path):
    causal = tiny_autoregressive(kind, vocab_size=VOCABULARY, tie_word_embeddings=tied)
    tokenizer = convert.with_mask(tiny_tokenizer(), tmp_path)
    model = convert.converted(causal, tokenizer, block_size=8)
    mask, embeddings = mask_id(tokenizer), causal.model.embed_tokens.weight
    torch.testing.assert_close(model.model.embed_tokens.weight[mask], embeddings[:mask].mean(dim=0))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert (model.config.block_size, model.config.qk_norm) == (8, kind == "qwen3")


def test_layers_that_are_others_are_found_out(tmp_path):
    """The check of blocks of one token, with a model whose norms are another's."""
    causal, tokenizer = (
        tiny_autoregressive("qwen3", vocab_size=VOCABULARY),
        convert.with_mask(tiny_tokenizer(), tmp_path),
    )
    model = convert.converted(causal, tokenizer, block_size=4)
    model.model.layers[1].self_attn.q_norm = torch.nn.Identity()
    with pytest.raises(TrainingError, match="in blocks of one token the converted model's logits differ"):
        convert.check_logits(model, causal, 200)


def test_a_mask_token_that_is_there_is_taken(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "<|MASK|>"})
    before = len(tokenizer)
    assert len(convert.with_mask(tokenizer, tmp_path)) == before


def test_a_vocabulary_without_room_for_the_mask_is_refused(tmp_path):
    tokenizer = convert.with_mask(tiny_tokenizer(), tmp_path)
    causal = tiny_autoregressive("qwen2", vocab_size=len(tokenizer) - 1)
    with pytest.raises(ParameterError, match=r"the mask token would be id 259, but vocab_size is 259"):
        convert.converted(causal, tokenizer, block_size=4)


def test_a_loss_that_does_not_fall_ends_the_conversion():
    convert.check_loss([3.0, 2.0])
    for found in ([2.0, 2.5], [2.0] * 50, [1.0, float("nan")]):
        with pytest.raises(TrainingError, match="the loss has not fallen in"):
            convert.check_loss(found)


def generation(prompt, response, finish="stop", sample=0):
    return generated.Generation("q", sample, prompt, response, finish, 0)


def test_rows_fill_the_largest_block_and_only_complete_answers_are_learned():
    rows = [
        generation([9] * 5, [8] * 6),
        generation([9] * 5, [8] * 6, sample=1),
        generation([9] * 5, [8] * 7, "length", sample=2),
        generation([9] * 5, [7] * 12, sample=3),
    ]
    examples, counts = convert.examples_of({"own": rows}, {}, Conversion(max_length=16), filler=1)
    assert [(e.id, e.response_ids) for e in examples] == [("q#0", [8] * 6 + [1] * 5)]
    assert counts == {"answers": 4, "complete": 3, "rows": 1}


def test_answers_that_are_all_too_long_are_refused():
    with pytest.raises(DataError, match=r"of 1 answers 1 came to an end, .* within conversion.max_length \(8 tokens\)"):
        convert.examples_of({"own": [generation([9] * 5, [8] * 6)]}, {}, Conversion(max_length=8), filler=1)


def test_answers_that_all_reach_the_limit_are_refused(tmp_path):
    model = write_causal(tmp_path / "published")
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": 319}))
    experiment = experiment_file(tmp_path, model)
    with pytest.raises(DataError, match=r"all 18 answers reached generations.own.max_new_tokens \(40\)"):
        made(experiment, tmp_path, "generations/own/0-of-2")
    assert not (tmp_path / "generations" / "own").is_dir() or not list((tmp_path / "generations" / "own").iterdir())


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: f.write_text(f.read_text().replace('"qwen2"', '"llama"')), ParameterError,
         "model_type is 'llama', expected 'qwen2' or 'qwen3' of a teacher with attention: causal"),
        (lambda f: f.write_text(json.dumps(json.loads(f.read_text()) | {"use_sliding_window": True})), ParameterError,
         "use_sliding_window is true"),
        (lambda f: [p.unlink() for p in f.parent.glob("tokenizer*")], MissingInputError, "no readable tokenizer"),
        (lambda f: [p.unlink() for p in f.parent.glob("chat_template*")], ParameterError, "no chat template"),
    ],
    ids=["another model", "sliding windows", "no tokenizer", "no chat template"],
)  # fmt: skip
def test_a_folder_that_cannot_be_converted_is_refused_before_anything_is_made_of_it(tmp_path, damage, error, message):
    model = write_causal(tmp_path / "published")
    damage(model / "config.json")
    with pytest.raises(error, match=message):
        made(experiment_file(tmp_path, model), tmp_path, "teachers/ar")
    assert not (tmp_path / "teachers" / "ar").exists()
