"""Where models come from: teachers, shipped, fetched, pretrained or converted."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from t3d.params.base import Label, Length, Name, Names, Positive, Probability, Small, Strict
from t3d.params.data import Difficulty
from t3d.params.students import Optimizer


class PocketModel(Strict):
    """The shape of a pocket model that is pretrained."""

    vocab_size: Annotated[int, Field(ge=300, le=2**20)] = 2048
    """Byte-level BPE tokens, special tokens included; digits are single tokens."""
    hidden_size: Length = 256
    """Width d."""
    layers: Small = 6
    """Transformer layers."""
    heads: Small = 4
    """Attention heads."""
    key_value_heads: Small = 2
    """Key/value heads of grouped-query attention."""
    head_dim: Small = 64
    """Width of one head."""
    intermediate_size: Length = 768
    """Width of the gated MLP."""


class Pretraining(Strict):
    """Pretraining of a pocket model on procedurally generated text: masked block diffusion, or next tokens."""

    model: PocketModel = PocketModel()
    """Its shape."""
    domains: dict[Literal["gsm", "code"], Positive] = {"gsm": 1}
    """Domain -> its share of the rows, relative to the others."""
    problems: Positive = 600_000
    """Training rows over all domains. Word problems are distinct and phrased once; code problems are few, so each comes
    again, written in another way."""
    difficulty: Difficulty = Difficulty()
    """Which problems are drawn."""
    max_length: Length = 320
    """Longest row, in tokens; longer rows are left out."""
    block_sizes: tuple[Small, ...] = (4, 8)
    """Block sizes to train. Optimizer steps take turns, so that the model can decode with each size. Rows are filled up
    to whole blocks of the largest; an autoregressive model with the same sizes reads the same rows."""
    steps: Positive = 5600
    """Optimizer steps."""
    batch_size: Length = 512
    """Rows per optimizer step."""
    learning_rate: Annotated[float, Field(gt=0.0, le=10.0)] = 2e-3
    """Peak of the cosine schedule."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = 200
    """Linear warm-up, optimizer steps."""
    weight_decay: Annotated[float, Field(ge=0.0, le=100.0)] = 0.05
    """AdamW weight decay."""
    compile: bool = False
    """Compile the model. This changes speed, and results by rounding only."""


class Conversion(Optimizer):
    """How an autoregressive LM becomes a block-diffusion LM: it learns to fill in the masked tokens of its own answers.

    The loss is the cross-entropy of masked tokens. In every block of a response the number of masked tokens is uniform
    in 1..B and their places are uniform; everything before the block is visible.
    """

    ar_weight: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the loss that is KL(p_AR(x_i | x_<i) || p(x_i | x_t)) at masked tokens. p_AR is the frozen
    autoregressive model, which reads the whole answer and takes one more forward a step. The rest of the loss is the
    cross-entropy; without this option it is all of the loss."""

    steps: Positive = 2000
    """Optimizer steps."""
    batch_size: Length = 64
    """Rows per optimizer step, over all micro-batches."""
    learning_rate: Annotated[float, Field(gt=0.0, le=10.0)] = 5e-5
    """Peak learning rate. After 130 steps of a model of 0.5 billion parameters, 17.5 % of the decoded answers to
    training prompts were right; at 1e-4 it was 14.0 %, at 2e-4 6.5 %."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = 100
    """Linear warm-up from 0."""
    betas: tuple[Probability, Probability] = (0.9, 0.95)
    """Adam's moment decays."""
    block_sizes: Annotated[tuple[Small, ...], Field(min_length=1)] = (4, 8)
    """Block sizes to train. Optimizer steps take turns, so that the model can decode with each size. Rows are filled up
    to whole blocks of the largest."""
    max_length: Length = 1024
    """Longest row, prompt and answer, in tokens; longer rows are left out."""
    keep: Literal["right"] | None = None
    """`right`: of generations that have a `task`, only right answers are learned from (rejection sampling); those of
    other generations are kept whole. By default every complete answer is kept."""
    probes: Positive = 64
    """Prompts to decode after a third of the steps, after two thirds and at the end; the receipt keeps the results."""
    checkpoint_every: Positive = 500
    """Optimizer steps between resumable checkpoints."""


class Teacher(Strict):
    """Where an untouched model comes from: the diffusion LM that students copy, or an autoregressive one beside it."""

    source: Literal["shipped", "pretrain", "hub", "convert"]
    """`shipped`: weights in the repository; `pretrain`: made by the DAG; `hub`: a folder as published, or a GGUF file;
    `convert`: made by the DAG from an autoregressive teacher."""
    attention: Literal["causal"] | None = None
    """`causal`: an autoregressive LM (Qwen2, Qwen2.5 or Qwen3). It answers benchmarks, and `convert` starts from it; no
    student copies it. Block-causal (SDAR) by default."""
    engine: Literal["t3d"] | None = None
    """The engine that runs an autoregressive teacher on benchmarks: `t3d`, this project's own, or by default vLLM, in a
    separate environment."""
    path: str | None = None
    """Folder of a shipped teacher, relative to the project."""
    pretraining: Pretraining | None = None
    """How a `pretrain` teacher is made."""
    hub: Name | None = None
    """Key of `sources`: the files of a `hub` teacher."""
    initial: Name | None = None
    """Key of the autoregressive teacher that a `convert` teacher starts from."""
    generations: Names | None = None
    """Keys of that teacher's `generations`, which a `convert` teacher learns from. Answers cut at the length limit are
    left out."""
    conversion: Conversion | None = None
    """How a `convert` teacher is trained; every field has a default."""
    mask_token: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """The mask token of a `hub` teacher, where its tokenizer names none: a token of the vocabulary."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format in which it and its students decode. Students always train in float32 master weights."""
    parameters: Annotated[float, Field(gt=0)] = 5e6
    """Approximate number of parameters. `t3d cost` and what jobs ask the scheduler for are computed from it."""
    label: Label = "Original"
    """Its row in the tables."""

    @model_validator(mode="after")
    def _source_is_described(self) -> Self:
        fields = {
            "shipped": ("path",),
            "pretrain": ("pretraining",),
            "hub": ("hub",),
            "convert": ("initial", "generations"),
        }
        for needed in fields[self.source]:
            if not getattr(self, needed):
                raise ValueError(f"a teacher with source: {self.source} needs `{needed}`")
        for field in ("initial", "generations", "conversion"):
            if self.source != "convert" and getattr(self, field) is not None:
                raise ValueError(f"{field} describes a teacher with source: convert, not {self.source}")
        if self.mask_token is not None and (self.source != "hub" or self.autoregressive):
            raise ValueError("mask_token is for block-diffusion LMs with source: hub; remove it")
        if self.engine is not None and not self.autoregressive:
            raise ValueError("engine chooses what answers with an autoregressive teacher, which has attention: causal")
        if self.source == "convert" and self.autoregressive:
            raise ValueError("attention: a converted teacher is a block-diffusion LM; remove `attention: causal`")
        return self

    @property
    def is_trained(self) -> bool:
        """Whether the DAG trains it, which takes a GPU where there is one."""
        return self.source in ("pretrain", "convert")

    @property
    def keeps_right(self) -> bool:
        """Whether it learns from right answers only."""
        return self.conversion is not None and self.conversion.keep == "right"

    @property
    def autoregressive(self) -> bool:
        """Whether it writes one token after another, not blocks."""
        return self.attention == "causal"
