"""Students: the loss, its states, its data and its optimizer, and the bundles of values that have a name."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from t3d.params.base import Label, Length, Name, Names, Positive, Probability, Seed, Small, Strict


class States(Strict):
    """How a training state x_t is drawn from a response x_0."""

    kind: Literal["trajectory", "random", "block", "full"]
    """`trajectory`: visible = committed by the teacher up to a step; `random`: each token masked independently;
    `block`: in every block the number of masked tokens uniform in 1..B, their places uniform; `full`: every token
    masked."""
    mask_ratios: Literal["released", "uniform"] | dict[float, Probability] = "released"
    """Trajectory states: share of a block that is still masked -> its probability. `released`: 1, .75, .5, .25 weighted
    by ratio^8; `uniform`: s/S for s in 1..S, all equally likely."""
    mask_ratio_per: Literal["sample", "block"] = "sample"
    """Trajectory states: one ratio is drawn per sample (released), or one per block."""
    mask_order: Literal["committed", "reversed"] = "committed"
    """Trajectory states: `committed`: tokens the teacher committed first are visible; `reversed`: masked (released)."""
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Trajectory states, instead of `mask_ratios`: the states that dynamic remasking with this threshold would pass
    through, all equally likely. Tokens that the teacher committed one after another, each with a confidence above the
    threshold, become visible together; every other token becomes visible alone."""
    complement: bool = False
    """Random states: learn from each state and from its complement, so that every token is masked once (dParallel)."""
    random_tokens: Probability = 0.0
    """Share of masked inputs that hold a random token instead of the mask; they stay in the loss. Released: 0.1."""
    redraw: Literal["epoch", "never"] = "epoch"
    """`epoch`: a sample's state is drawn anew each epoch; `never`: once for all epochs (released)."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        for field in ("mask_ratios", "mask_ratio_per", "mask_order", "threshold"):
            if self.kind != "trajectory" and field in self.model_fields_set:
                raise ValueError(f"{field} describes trajectory states, not {self.kind} ones")
        if self.threshold is not None and {"mask_ratios", "mask_order"} & self.model_fields_set:
            raise ValueError("threshold decides what is visible; mask_ratios and mask_order have no meaning beside it")
        if self.complement and self.kind != "random":
            raise ValueError(f"a complement is taken of random states, not of {self.kind} ones")
        if isinstance(self.mask_ratios, dict):
            if any(not 0.0 < ratio <= 1.0 for ratio in self.mask_ratios):
                raise ValueError(f"mask ratios lie in (0, 1], found {sorted(self.mask_ratios)}")
            total = sum(self.mask_ratios.values())
            if abs(total - 1.0) > 1e-6:
                raise ValueError(f"the probabilities of mask_ratios sum to {total:g}, not 1")
        return self


_DDO = {"alpha", "beta", "fake", "refresh_every"}
_PATH = {"path_weight", "path_weights"}
_CERTAINTY = {"entropy_weight", "entropy_temperature"}
_OPTIONS = {
    "sft": set(),
    "redi": set(),
    "dparallel": _CERTAINTY,
    "naive_td": _CERTAINTY | _PATH,
    "ddo": _CERTAINTY | _DDO,
    "t3d": _CERTAINTY | _DDO | _PATH,
}
_STATES_OF = {
    "sft": ("random",),
    "redi": ("random", "block"),
    "dparallel": ("full", "random"),
    "naive_td": ("trajectory",),
    "ddo": ("trajectory",),
    "t3d": ("trajectory",),
}


class Objective(Strict):
    """The loss of a student; `t3d/distillation/objectives.py` has one function of each name."""

    name: Literal["sft", "redi", "dparallel", "naive_td", "ddo", "t3d"]
    """`sft`, `redi`, `dparallel`, `naive_td` are likelihoods; `ddo` is trajectory DDO (6), `t3d` DDO plus path (10)."""
    log_probability: Literal["mean", "sum"] = "mean"
    """log p of a sample: the mean over its masked positions (released), or their sum (the equations as written)."""
    alpha: Annotated[float, Field(ge=0.0, le=1e6)] = 0.5
    """DDO: weight of the fake term. Released value."""
    beta: Annotated[float, Field(gt=0.0, le=1e6)] = 0.1
    """DDO: scale of the log-ratio. Released value."""
    fake: Literal["draw", "argmax"] = "draw"
    """DDO: fake tokens are drawn from the reference (6), or are its argmax (released)."""
    refresh_every: Positive = 10
    """DDO: optimizer steps between refreshes, which set the reference to the student. The paper's value."""
    path_weight: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0
    """Weight of the path term, lambda of (10). By default the paper's 0.2 for t3d, and 0 for naive_td."""
    path_weights: Literal["equation", "released"] = "equation"
    """Path term: w_i = (S - pi_i + 1) / S of (9); `released`: 0.75 for the first half of the steps, then 0.25."""
    entropy_weight: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0
    """Weight of the entropy of masked tokens that are already predicted right. dParallel's official recipe: 2."""
    entropy_temperature: Annotated[float, Field(gt=0.0, le=1e6)] = 0.5
    """Temperature of that entropy. The value of dParallel's official recipe."""

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares the student with a frozen copy of itself, renewed every `refresh_every` steps."""
        return self.name in ("ddo", "t3d")

    @property
    def has_entropy_term(self) -> bool:
        """Whether the loss has the entropy term; dparallel logs it even at weight 0."""
        return self.name == "dparallel" or self.entropy_weight > 0

    @model_validator(mode="before")
    @classmethod
    def _has_its_options_only(cls, given: Any) -> Any:
        name = str(given.get("name")) if isinstance(given, dict) else ""
        if name not in _OPTIONS:
            return given
        for option in sorted(set().union(*_OPTIONS.values()) & set(given) - _OPTIONS[name]):
            allowed = ", ".join(sorted(_OPTIONS[name] | {"log_probability"}))
            raise ValueError(f"objective {name} has no {option}; its options: {allowed}")
        if name != "dparallel" and "entropy_temperature" in given and not given.get("entropy_weight"):
            raise ValueError("entropy_temperature has no meaning without an entropy_weight above 0")
        return ({"path_weight": 0.2} if name == "t3d" else {}) | given


class Optimizer(Strict):
    """AdamW with linear warm-up and cosine decay, counted in optimizer steps."""

    steps: Positive
    """Optimizer steps."""
    batch_size: Length
    """Sequences per optimizer step, over all micro-batches."""
    micro_batch_size: Length | None = None
    """Sequences per forward; gradients accumulate over batch_size / micro_batch_size of them. Default: batch_size."""
    recompute_activations: bool = False
    """Activation checkpointing: only each layer's input is kept, and the rest is computed again in the backward. The
    student's passes take a third more arithmetic; the freed memory allows larger micro-batches. Results do not
    change."""
    learning_rate: Annotated[float, Field(gt=0.0, le=10.0)]
    """Peak learning rate."""
    warmup_steps: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Linear warm-up from 0."""
    final_fraction: Probability = 0.1
    """The cosine ends at this share of the peak. Released value."""
    weight_decay: Annotated[float, Field(ge=0.0, le=100.0)] = 0.01
    """Decoupled weight decay. Released value."""
    clip: Annotated[float, Field(gt=0.0, le=1e6)] = 1.0
    """Gradient norm limit. Released value."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    """Adam's moment decays. Released values."""

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> Self:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} leaves nothing of {self.steps} steps")
        return self


class ExampleOptions(Strict):
    """How a rollout becomes a training row. The defaults keep what the decoder saw; other values are released
    behaviour."""

    block_grid: Literal["global", "response"] = "global"
    """Blocks are counted from the first token of the prompt, as in decoding, or of the response (released)."""
    terminal_block: Literal["whole", "cut"] = "whole"
    """The block that holds the end-of-text token is kept whole, or cut after that token (released)."""
    prompt: Literal["recorded", "bare"] = "recorded"
    """The rollout's prompt ids, or the question without the prompt set's suffix (released). The response keeps the
    blocks it was decoded in: on the global grid, a bare prompt that is n tokens shorter begins n positions later."""
    rollout_blocks: Literal["equal", "any"] = "equal"
    """`equal`: rollouts must have the student's block size; `any`: they may have another (released: decoded in blocks
    of 4, trained in blocks of 8)."""
    max_response_tokens: Length | None = None
    """Longest response of a row, at least one block. A longer one is cut at the end of the last whole block that fits.
    The public code: 1024."""


_BUNDLES: dict[str, dict[str, dict[str, Any]]] = {
    "ours": {},
    "paper": {
        "objective": {"log_probability": "sum", "alpha": 1.0, "beta": 1.0},
        "states": {"random_tokens": 0.1},
    },
    "released": {
        "objective": {"fake": "argmax", "path_weights": "released"},
        "states": {"mask_order": "reversed", "random_tokens": 0.1, "redraw": "never"},
        "rows": {"block_grid": "response", "terminal_block": "cut", "prompt": "bare", "rollout_blocks": "any"},
    },
}


class Lora(Strict):
    """Low-rank adapters of every matrix of attention and MLP; they are added to the weights when training ends."""

    rank: Small
    """Rank of an adapter."""
    alpha: Positive
    """Scale: the product of an adapter's matrices counts alpha / rank times."""


class Student(Strict):
    """One row of the tables: a copy of the teacher, or of another student, tuned by an objective on a data set."""

    recipe: Literal["ours", "paper", "released"] = "ours"
    """Values of the options that are not given below. `ours`: the documented defaults; `paper`: the equations as
    written (log p is a sum, alpha and beta are 1), with random tokens; `released`: every option as in the public
    code."""
    label: Label
    """Its row in the tables, as the paper writes it."""
    trajectories: Names = ()
    """Rollouts it learns from, of one domain or several (all objectives but sft)."""
    prompts: Names = ()
    """Prompt sets whose gold worked answers it learns from (sft)."""
    keep: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of each of its `trajectories` to learn from: the rollouts with the highest scores, ties by id. The number
    is rounded and at least one. The trajectories must be `scored`. All rollouts by default."""
    initial: Name | None = None
    """Key of another student of the same teacher. Training begins with the weights of that student's run of the same
    seed instead of the teacher's; so does DDO's first reference."""
    objective: Objective
    """The loss."""
    states: States
    """How training states are drawn."""
    rows: ExampleOptions = ExampleOptions()
    """How training rows are made."""
    block_size: Small = 8
    """Training block size (the paper: 8)."""
    optimizer: Optimizer
    """Steps, batch, learning rate."""
    lora: Lora | None = None
    """Train adapters and leave the weights as they are: a third of the memory (`t3d cost`). All weights by default."""
    seeds: tuple[Seed, ...] = (0,)
    """One student is trained per seed."""
    checkpoint_every: Positive = 50
    """Optimizer steps between resumable checkpoints in `work/`."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in_the_recipe(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        for group, values in _BUNDLES.get(str(given.get("recipe", "ours")), {}).items():
            own = given.get(group, {})
            if isinstance(own, dict):
                filled[group] = {key: value for key, value in values.items() if _applies(key, group, given)} | own
        return filled

    @model_validator(mode="after")
    def _data_fits_objective(self) -> Self:
        name = self.objective.name
        gold = name == "sft"
        if gold != bool(self.prompts) or gold == bool(self.trajectories):
            wants, other = ("prompts", "trajectories") if gold else ("trajectories", "prompts")
            raise ValueError(f"objective {name} learns from `{wants}`, not from `{other}`")
        if self.states.kind not in _STATES_OF[name]:
            kinds = " or ".join(_STATES_OF[name])
            raise ValueError(f"objective {name} is defined on {kinds} states, not {self.states.kind}")
        if gold and self.keep is not None:
            raise ValueError("keep chooses among rollouts; sft learns from gold answers")
        if gold and self.rows != ExampleOptions():
            raise ValueError("rows describes how rollouts become training rows; sft learns from gold answers")
        if not self.seeds:
            raise ValueError("a student needs at least one seed")
        for field in ("seeds", "trajectories", "prompts"):
            if len(set(getattr(self, field))) < len(getattr(self, field)):
                raise ValueError(f"{field} lists one twice: {', '.join(map(str, getattr(self, field)))}")
        limit = self.rows.max_response_tokens
        if limit is not None and limit < self.block_size:
            raise ValueError(f"rows.max_response_tokens: {limit} tokens hold no whole block of {self.block_size}")
        return self

    def fault_of(self, processes: int) -> str | None:
        """Why so many processes cannot train it together, and what to choose; None if they can."""
        if self.lora is not None and processes > 1:
            return f"lora: adapters are trained by one process, not by {processes}"
        size, batch = self.optimizer.micro_batch_size or self.optimizer.batch_size, self.optimizer.batch_size
        if batch // size >= processes:
            return None
        fits = [n for n in range(1, batch // processes + 1) if batch % n == 0]
        advice = f"choose {fits[-1]} or a smaller divisor" if fits else f"use {batch} processes or fewer"
        return (
            f"optimizer.micro_batch_size: {size} sequences of a batch of {batch} make {batch // size} micro-batches "
            f"for {processes} training processes; {advice}, so that each has one"
        )


def run_name(student: str, seed: int) -> str:
    """Name of the training of a student with a seed: `t3d-seed0`."""
    return f"{student}-seed{seed}"


def _applies(option: str, group: str, student: dict[str, Any]) -> bool:
    """Whether an option of a recipe has a meaning for this student."""

    def of(group: str, field: str) -> Any:
        own = student.get(group, {})
        return own.get(field) if isinstance(own, dict) else getattr(own, field, None)

    if group == "objective":
        return option == "log_probability" or option in _OPTIONS.get(str(of("objective", "name")), ())
    if group == "states":
        return option == "redraw" or of("states", "kind") == "trajectory"
    return of("objective", "name") != "sft"
