"""A block-diffusion teacher made of an autoregressive one: same layers, block-causal attention, a mask token.

It learns to fill in masked tokens of the autoregressive model's own answers, with the trainer of the students
(`t3d/distillation/trainer.py`) and without a shift: SDAR predicts the token *at* a masked position. Checks inside the
stage stop it early: before training, blocks of one token must give the autoregressive model's logits; after
`_CHECKED_AFTER` steps the loss must have fallen. `probes.py` decodes prompts at three moments.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from t3d.distillation import trainer
from t3d.distillation.batches import TrainingJob
from t3d.distillation.examples import Example
from t3d.distributed import collectives
from t3d.distributed.checkpoints import Checkpoints
from t3d.distributed.gpus import pick_device
from t3d.errors import CorruptArtefactError, DataError, ParameterError, TrainingError
from t3d.models import autoregressive
from t3d.models.device import worth_compiling
from t3d.models.folder import MASK_TOKEN, SDARConfig, mask_id, stop_ids, without_thinking
from t3d.models.sdar import SDARForCausalLM
from t3d.params import Conversion, Experiment, Objective, States, Student
from t3d.prompts import generated
from t3d.provenance import store, writer
from t3d.provenance.parquet import JUDGED, of_artefact
from t3d.seeds import seed_for
from t3d.teachers.probes import Probes

_SHARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_parameters",
    "tie_word_embeddings",
    "attention_dropout",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
"""Fields that the configurations of Qwen2, Qwen3 and SDAR share."""
_CHECKED_AFTER = 50
"""Optimizer steps after which the loss must be below its start; it falls from about 8 to below 3 in these."""
_TOLERANCE = 1e-3
"""Largest difference of a logit between the two models, as a share of the largest logit, in float32."""


def make(experiment: Experiment, name: str, out: Path, inputs: Sequence[store.Manifest]) -> None:
    """Convert teacher `name` of an experiment.

    Args:
        experiment: whose teachers have `name`, with source: convert.
        name: its key.
        out: manifest to write; the folder lies beside it, and until it is complete the states of its training.
        inputs: manifests of the autoregressive teacher, of the shards of its answers, and of the verdicts on them.

    Raises:
        ParameterError: the autoregressive folder cannot be converted; the message says what is missing.
        DataError: no answer is left to learn from.
        CorruptArtefactError: verdicts are not those on the answers.
        TrainingError: a check failed, or training cannot go on.
    """
    spec = experiment.teachers[name]
    conversion, artefact = spec.conversion or Conversion(), f"teachers/{name}"
    with ExitStack() as stack:
        device = collectives.init_process_group(pick_device(experiment))
        with collectives.raise_on_all_ranks():
            job = None
            if collectives.is_main():
                making = writer.writing(experiment, artefact, out, inputs=list(inputs), device=device)
                job = stack.enter_context(making)
        with collectives.raise_on_all_ranks():
            folder = inputs[0].folder()
            tokenizer = with_mask(autoregressive.load_tokenizer(folder), folder)
            examples, counts = examples_of(*answers_of(inputs), conversion, tokenizer.pad_token_id)
            causal = autoregressive.load_model(folder)
            model = converted(causal, tokenizer, max(conversion.block_sizes))
            checkpoints = Checkpoints(
                Path(str(out).removesuffix(store.MANIFEST) + ".states"),
                writer.run_key(experiment, artefact, inputs),
            )
            if collectives.is_main():
                print(f"convert {name}: {counts}", flush=True)
        seed = seed_for(experiment.seed, "convert")
        probes = Probes(experiment, folder, tokenizer, examples, conversion, device, seed)
        pace: list[trainer.StepTime] = []
        log = train(model, causal, examples, conversion, tokenizer, device, seed, checkpoints, probes, pace)
        ends = GenerationConfig(eos_token_id=sorted(stop_ids(folder)), pad_token_id=tokenizer.pad_token_id)
        trainer.save(job, model, tokenizer, ends, log, pace, device)
        if job is not None:
            job.facts |= counts
            moments = [{"step": entry["step"]} | entry["probes"] for entry in log if "probes" in entry]
            job.receipt |= {"training": {"loss": log[-1]["loss"], "probes": moments}}
    if collectives.is_main():
        checkpoints.remove()
    collectives.destroy_process_group()


def train(
    model: SDARForCausalLM,
    causal: PreTrainedModel,
    examples: Sequence[Example],
    conversion: Conversion,
    tokenizer: PreTrainedTokenizerBase,
    device: str,
    seed: int,
    checkpoints: Checkpoints | None = None,
    probes: Probes | None = None,
    pace: list[trainer.StepTime] | None = None,
) -> list[dict[str, Any]]:
    """Train a converted model in place on `device`; the log has the probes in the entries of their steps.

    With `conversion.ar_weight` the loss looks at `causal` as well, the model that it was converted from.

    Raises:
        TrainingError: the loss has not fallen, or as `trainer.train`.
    """
    student = Student(
        label="conversion",
        trajectories=("generations",),
        objective=Objective(name="redi"),
        states=States(kind="block"),
        optimizer=conversion,
        checkpoint_every=conversion.checkpoint_every,
    )
    setting = TrainingJob(
        student,
        examples,
        steps_per_block=0,
        mask_id=mask_id(tokenizer),
        vocabulary=model.config.vocab_size,
        seed=seed,
        device=device,
        packed=worth_compiling(model.config.hidden_size, device),
        block_sizes=conversion.block_sizes,
        causal=_frozen(causal, conversion, device),
    )

    checked_after = min(_CHECKED_AFTER, conversion.steps)

    def after_step(log: list[dict[str, Any]]) -> None:
        if len(log) == checked_after:
            check_loss([entry["loss"] for entry in log])
        if probes is not None and len(log) in probes.moments:
            log[-1]["probes"] = probes.decode(model)

    if collectives.world_size() == 1:
        model.to(device)  # type: ignore[arg-type]  # transformers wraps the signature away
    pauses = {checked_after, *(probes.moments if probes is not None else ())}
    return trainer.train(model, setting, checkpoints, "convert", pace, after_step, pauses)


def _frozen(causal: PreTrainedModel, conversion: Conversion, device: str) -> tuple[PreTrainedModel, float] | None:
    """The autoregressive model as it judges, in the number format of the products, and its share of the loss."""
    if conversion.ar_weight is None:
        return None
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    return causal.to(device, dtype).requires_grad_(False), conversion.ar_weight  # type: ignore[arg-type]


def converted(causal: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, block_size: int) -> SDARForCausalLM:
    """An SDAR with the weights of a Qwen2 or Qwen3; the mask's embedding is the mean of those of all tokens.

    Args:
        causal: the autoregressive model, float32, on the CPU.
        tokenizer: its tokenizer with a mask token.
        block_size: recorded in the configuration.

    Raises:
        ParameterError: the vocabulary has no room for the mask token.
        TrainingError: in blocks of one token the logits are not those of `causal`.
    """
    config, mask = causal.config, mask_id(tokenizer)
    if mask >= config.vocab_size:
        raise ParameterError(
            f"{config.name_or_path}: the mask token would be id {mask}, but vocab_size is {config.vocab_size}: the "
            "embeddings have no row for it. Only models with a spare row can be converted."
        )
    is_qwen2 = config.model_type == "qwen2"
    fields = {name: getattr(config, name) for name in _SHARED}
    fields["head_dim"] = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    fields["attention_bias"] = getattr(config, "attention_bias", False)
    model = SDARForCausalLM(SDARConfig(**fields, block_size=block_size, qkv_bias=is_qwen2, qk_norm=not is_qwen2))
    model.load_state_dict(causal.state_dict())
    check_logits(model, causal, mask)
    with torch.no_grad():
        embeddings = model.model.embed_tokens.weight
        used = torch.ones(len(embeddings), dtype=torch.bool)
        used[mask], used[len(tokenizer) :] = False, False
        embeddings[mask] = embeddings[used].mean(dim=0)
    return model


@torch.no_grad()
def check_logits(model: SDARForCausalLM, causal: PreTrainedModel, vocabulary: int) -> None:
    """Check that in blocks of one token `model` gives the logits of `causal`, on ids drawn below `vocabulary`.

    Raises:
        TrainingError: it does not.
    """
    ids = torch.randint(vocabulary, (2, 32), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(ids.shape[1])
    visible = (positions <= positions[:, None]).expand(len(ids), -1, -1)
    expected = causal.eval()(ids).logits.float()
    found = model.eval()(ids, attention_mask=visible, position_ids=positions.expand_as(ids)).logits.float()
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    if not difference <= _TOLERANCE * largest:
        raise TrainingError(
            f"{causal.config.name_or_path}: in blocks of one token the converted model's logits differ from the "
            f"autoregressive model's by {difference:.3g} (largest logit {largest:.3g}); its layers are not those of a "
            f"{causal.config.model_type}."
        )


def check_loss(losses: Sequence[float]) -> None:
    """Check that the last tenth of some losses is below the first tenth, on average.

    Raises:
        TrainingError: it is not.
    """
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    if len(losses) > 1 and not last < first:
        raise TrainingError(
            f"the loss has not fallen in {len(losses)} steps: {first:.3f} at first, {last:.3f} now. Lower "
            "conversion.learning_rate, or check what the answers look like."
        )


def with_mask(tokenizer: PreTrainedTokenizerBase, folder: Path) -> PreTrainedTokenizerBase:
    """`tokenizer` with the mask token, at the first unused id unless it has one, and a chat template without thinking.

    Raises:
        ParameterError: it has no token to fill last blocks up with.
    """
    if MASK_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    if tokenizer.pad_token_id is None:
        raise ParameterError(f"{folder}: the tokenizer has no pad_token, which fills the last block of a row.")
    # The answers it learns from were asked for without thinking.
    without_thinking(tokenizer)
    return tokenizer


def answers_of(
    inputs: Sequence[store.Manifest],
) -> tuple[dict[str, list[generated.Generation]], dict[str, set[str]]]:
    """The answers of each generations among `inputs`, and of those that were judged the ids of the right ones.

    Raises:
        CorruptArtefactError: verdicts are not those on the complete answers.
    """
    answers: dict[str, list[generated.Generation]] = {}
    right: dict[str, set[str]] = {}
    shards = {manifest.artefact: manifest for manifest in inputs}
    for artefact, manifest in shards.items():
        kind, name, *rest = artefact.split("/")
        if kind != "generations":
            continue
        rows = generated.read(manifest.file(".parquet"))
        answers.setdefault(name, []).extend(rows)
        if (verdicts := shards.get("/".join(["verdicts", name, *rest]))) is not None:
            judged = of_artefact(verdicts, JUDGED, ["id", "correct"]).to_pylist()
            if {row["id"] for row in judged} != {row.id for row in generated.complete(rows)}:
                raise CorruptArtefactError(
                    f"{verdicts.path}: its verdicts are not on the complete answers of {manifest.path}. Delete it and "
                    "run its stage again."
                )
            right.setdefault(name, set()).update(row["id"] for row in judged if row["correct"])
    return answers, right


def examples_of(
    answers: Mapping[str, Sequence[generated.Generation]],
    right: Mapping[str, set[str]],
    conversion: Conversion,
    filler: int,
) -> tuple[list[Example], dict[str, Any]]:
    """Training rows of answers that came to an end, each filled up to whole blocks, and how many were left out.

    Args:
        answers: key of generations -> their answers.
        right: the same key -> ids of the right ones, of those generations of which only these are kept.
        conversion: how long rows may be, and which blocks they fill.
        filler: the token that fills the last block.

    Raises:
        DataError: none is left.
    """
    complete = {name: generated.complete(rows) for name, rows in answers.items()}
    kept = {
        name: [row for row in rows if name not in right or row.id in right[name]] for name, rows in complete.items()
    }
    if right and not any(kept[name] for name in right):
        raise DataError(
            f"of {sum(len(complete[name]) for name in right)} complete answers ({', '.join(right)}) none is right. "
            "Check the `task` of these generations, or remove conversion.keep."
        )
    grid = max(conversion.block_sizes)
    examples, seen = [], set()
    learned: Counter[str] = Counter()
    pairs = [(name, row) for name, rows in kept.items() for row in rows]
    for name, row in sorted(pairs, key=lambda pair: (pair[1].prompt_id, pair[1].sample)):
        length = len(row.prompt_ids) + len(row.response_ids)
        text = (row.prompt_id, tuple(row.response_ids))
        if length + -length % grid > conversion.max_length or text in seen:
            continue
        seen.add(text)
        learned[name] += 1
        response = row.response_ids + [filler] * (-length % grid)
        examples.append(Example(row.id, row.prompt_ids, response))
    total, ended = (sum(map(len, rows.values())) for rows in (answers, complete))
    counts: dict[str, Any] = {"answers": total, "complete": ended, "rows": len(examples)}
    if right:
        counts["generations"] = {
            name: {"complete": len(rows), "right": len(kept[name]) if name in right else None, "rows": learned[name]}
            for name, rows in complete.items()
        }
    if not examples:
        raise DataError(
            f"of {total} answers {ended} came to an end, and none of these with its prompt is within "
            f"conversion.max_length ({conversion.max_length} tokens)."
        )
    return examples, counts
