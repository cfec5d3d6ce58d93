"""A published autoregressive folder in small and an experiment that converts it."""

import json

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from t3d import params
from t3d.prompts import generated
from t3d.prompts.reader import read_prompts
from t3d.provenance import store, writer
from tests.artefacts import made
from tests.conftest import tiny_autoregressive

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
QUESTIONS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(12)]
VOCABULARY = 320


def tiny_tokenizer():
    """Bytes and three special tokens, no mask among them."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def write_causal(folder, kind="qwen2", vocabulary=VOCABULARY, **changes):
    """An autoregressive folder as published; a sixth of all tokens end its answers, so that most come to an end."""
    model = tiny_autoregressive(kind, vocab_size=vocabulary, **changes)
    model.generation_config = GenerationConfig(eos_token_id=list(range(20, 70)))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def experiment_of(folder, content):
    """Read an experiment from its file."""
    (folder / "converted.yaml").write_text(yaml.safe_dump(content))
    return params.load(folder / "converted.yaml")


def experiment_file(folder, model, **changes):
    return experiment_of(folder, content_of(folder, model) | changes)


def content_of(folder, model):
    """An experiment that converts the model in a folder."""
    rows = folder / "rows"
    rows.mkdir(exist_ok=True)
    (rows / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))

    def source(kind, path):
        files = {p.name: store.sha256(p) for p in sorted(path.iterdir())}
        return {"repository": "a/b", "kind": kind, "revision": "a" * 40, "files": files, "local": str(path)}

    columns = {"question": "question", "answer": "answer"}
    asked = {"domain": "questions", "source": "rows", "columns": columns, "suffix": " Think."}
    return {
        "device": "cpu",
        "sources": {"qwen": source("model", model), "rows": source("dataset", rows)},
        "teachers": {
            "ar": {"source": "hub", "hub": "qwen", "attention": "causal", "label": "AR"},
            "sdar": {
                "source": "convert",
                "initial": "ar",
                "generations": "own",
                "conversion": {
                    "steps": 30,
                    "batch_size": 8,
                    "micro_batch_size": 4,
                    "learning_rate": 3.0e-3,
                    "warmup_steps": 2,
                    "probes": 4,
                },
            },
        },
        "prompt_sets": {
            "train": {"teacher": "ar", "split": "train", **asked},
            "again": {"teacher": "sdar", "split": "train", **asked},
        },
        "generations": {"own": {"prompts": "train", "samples": 3, "max_new_tokens": 40, "shards": 2}},
        "trajectories": {"r": {"prompts": "again", "budget": "b4s4", "max_new_tokens": 12}},
    }


def answered(experiment, folder, shard, texts):
    """Write a shard of generations, as if the model had answered each prompt with these texts; the manifest.

    Args:
        experiment: whose generations they are.
        folder: where its artefacts lie.
        shard: `own/0-of-2`.
        texts: of a prompt, the answers to it; one that is a list of a text was cut at the length limit.
    """
    name, part = shard.split("/")
    asked, tokenizer = experiment.generations[name].prompts, tiny_tokenizer()
    teacher = f"teachers/{experiment.prompt_sets[asked].teacher}"
    inputs = [store.read(made(experiment, folder, artefact)) for artefact in (teacher, f"prompts/{asked}")]
    index, count = map(int, part.split("-of-"))
    rows = []
    for prompt in read_prompts(inputs[1])[index::count]:
        for sample, text in enumerate(texts(prompt)):
            written, reason = (text[0], "length") if isinstance(text, list) else (text + "<|im_end|>", "stop")
            ids = tokenizer(written)["input_ids"]
            rows.append(generated.Generation(prompt.id, sample, prompt.prompt_ids, ids, reason, 0))
    out = folder / f"generations/{shard}.manifest.json"
    with writer.writing(experiment, f"generations/{shard}", out, inputs=inputs) as job:
        generated.write(rows, job.file(".parquet"))
    return out
