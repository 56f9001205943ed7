"""The recipe: every hyper-parameter of GSM8K PPO in one frozen, validated tree.

Three presets exist. `gemma3-1b` holds the numbers of the reference recipe
exactly, its surprises included (`harness.accounting` lists them).
`gemma3-1b-v6e-1` is the same algorithm in the sizes that are fastest on one
v6e chip. `tiny` is the same recipe on a random three-layer Gemma 3 that a laptop
trains in minutes.

A recipe is read from a preset, a TOML file and `a.b=value` assignments, in that
order; whatever the way in, the same rules refuse the same values.
"""

import dataclasses
import json
import math
import pathlib
import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

import pydantic
import tomli_w
from pydantic import Field

from harness.errors import HarnessError

_T = TypeVar("_T")
_CONFIG = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


# Named once for all groups; the transform tells type checkers what it makes.
@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,)
)
def _frozen(cls: type[_T]) -> type[_T]:
    make = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=_CONFIG)
    return cast("type[_T]", make(cls))


PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]

SYSTEM_PROMPT = 'Let\'s think step by step and output the final answer after "####".'
TEMPLATE = "<start_of_turn>user\n{question} {system_prompt}<end_of_turn>\n<start_of_turn>model"


@_frozen
class Arithmetic:
    """The built-in word problems: one sum or difference of small numbers each.

    Attributes:
      train_problems: Number of distinct training problems to write.
      test_problems: Number of distinct test problems, none of whose texts is a
        training problem's.
      seed: Seed of the writer. It is apart from the recipe's seed, so that
        runs with several seeds answer one test set.
      max_operand: Largest number in a question.
      operations: Which of `+` and `-` are asked.
    """

    train_problems: PositiveInt = 8192
    test_problems: PositiveInt = 512
    seed: NonNegativeInt = 0
    max_operand: Annotated[int, Field(ge=2, le=99)] = 9
    operations: tuple[Literal["+", "-"], ...] = ("+",)


@_frozen
class Data:
    """Which problems are asked, and how many.

    Attributes:
      source: `arithmetic`, `tfds`, `tfds:DIR` or `jsonl:DIR`.
      prompt: Template with the fields `{question}` and `{system_prompt}`.
      system_prompt: Text put after the question.
      shuffle_seed: Seed of the order in which problems are read.
      num_batches: Rollout batches taken from the shuffled training split.
      num_test_batches: Batches of test problems that evaluation answers.
      num_epochs: Passes over the training batches.
      train_fraction: Share of the batches trained on; the rest validates.
      long_prompts: What to do with a prompt over `rollout.max_prompt_length`
        tokens: `refuse` the run, or `drop` the problem. Either way they are
        counted and reported, and none is ever cut.
      arithmetic: The built-in problems.
    """

    source: str = "tfds"
    prompt: str = TEMPLATE
    system_prompt: str = SYSTEM_PROMPT
    shuffle_seed: NonNegativeInt = 42
    num_batches: PositiveInt = 10
    num_test_batches: PositiveInt = 10
    num_epochs: PositiveInt = 1
    train_fraction: PositiveFraction = 1.0
    long_prompts: Literal["refuse", "drop"] = "refuse"
    arithmetic: Arithmetic = dataclasses.field(default_factory=Arithmetic)

    def __post_init__(self) -> None:
        """Check the source's form and the template's fields."""
        kind, _, folder = self.source.partition(":")
        if kind not in ("arithmetic", "tfds", "jsonl") or (kind == "arithmetic" and folder):
            raise ValueError("source must be arithmetic, tfds, tfds:DIR or jsonl:DIR")
        if kind == "jsonl" and not folder:
            raise ValueError("source jsonl needs a folder: jsonl:DIR")
        if "{question}" not in self.prompt:
            raise ValueError("prompt must contain {question}")


Dtype = Literal["float32", "bfloat16"]


@_frozen
class Model:
    """A Gemma 3 by its shapes, and where its weights come from.

    Attributes:
      weights: `random` (every weight drawn so that it matters) or `checkpoint`
        (an Orbax folder in upstream's layout, see `checkpoint`).
      checkpoint: Folder of the weights, local or remote; a folder that holds the
        weights in a sub-folder, as a Kaggle download does, serves too. Or
        `kaggle:` and a handle, to be downloaded.
      tokenizer: Path of a SentencePiece model, `builtin` for the small one, or
        `checkpoint` for the one beside the weights.
      dtype: Activations, and the parameters that are stored and not trained:
        `float32` or `bfloat16`. What is trained is in `precision`.
      remat: What a gradient computes a second time instead of keeping it:
        attention scores and one of three products of the feed-forward layer
        (`light`), all of attention and feed-forward (`block`), layers
        (`decoder`), nothing if none.
      num_layers: Decoder layers.
      attention_pattern: Kinds of attention, repeated over the layers.
      vocab_size: Rows of the embedding.
      embed_dim: Width of the residual stream.
      hidden_dim: Width of the feed-forward layer.
      num_heads: Query heads.
      num_kv_heads: Key and value heads; divides `num_heads`.
      head_dim: Width of one head; even, for rotary embedding.
      sliding_window: Positions a local layer sees, its own included.
      local_rope_base: Rotary base frequency of local layers.
      global_rope_base: Rotary base frequency of global layers.
    """

    weights: Literal["random", "checkpoint"] = "checkpoint"
    checkpoint: str | None = None
    tokenizer: str = "checkpoint"
    dtype: Dtype = "float32"
    remat: Literal["light", "block", "decoder"] | None = None
    num_layers: PositiveInt = 26
    attention_pattern: Annotated[tuple[Literal["local", "global"], ...], Field(min_length=1)] = (
        "local",
        "local",
        "local",
        "local",
        "local",
        "global",
    )
    vocab_size: PositiveInt = 262_144
    embed_dim: PositiveInt = 1152
    hidden_dim: PositiveInt = 6912
    num_heads: PositiveInt = 4
    num_kv_heads: PositiveInt = 1
    head_dim: PositiveInt = 256
    sliding_window: PositiveInt = 512
    local_rope_base: PositiveInt = 10_000
    global_rope_base: PositiveInt = 1_000_000

    def __post_init__(self) -> None:
        """Check the shapes against each other."""
        if self.num_heads % self.num_kv_heads:
            raise ValueError("num_kv_heads must divide num_heads")
        if self.head_dim % 2:
            raise ValueError("head_dim must be even")


@_frozen
class Precision:
    """Dtypes of what training changes; `model.dtype` is that of everything else.

    Mixed precision (Micikevicius et al. 2017, arXiv:1710.03740): a model computes in `model.dtype`
    on weights that are cast from those that are trained, and gradients flow back to the latter.
    bfloat16 has 8 significant bits: an update below 1/512 to 1/256 of a weight is lost, and a
    second moment that decays by 0.999 a step does not decay at all.

    Attributes:
      trained: Parameters that an optimizer updates: LoRA factors, and the critic. float32 if
        None.
      moments: AdamW's two moments, as they are stored; they are computed in float32. float32 if
        None.
      accumulators: Sums of the gradients of an optimizer step's micro-batches. float32 if None.
    """

    trained: Dtype | None = None
    moments: Dtype | None = None
    accumulators: Dtype | None = None

    @property
    def trained_dtype(self) -> Dtype:
        """Dtype of trained parameters."""
        return self.trained or "float32"

    @property
    def moments_dtype(self) -> Dtype:
        """Dtype of stored moments."""
        return self.moments or "float32"

    @property
    def accumulators_dtype(self) -> Dtype:
        """Dtype of accumulated gradients."""
        return self.accumulators or "float32"


@_frozen
class Lora:
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685).

    Attributes:
      rank: Rank of each pair.
      alpha: Scale; a pair's product is multiplied by alpha / rank.
      modules: Regular expression over module paths.
    """

    rank: PositiveInt = 64
    alpha: PositiveFloat = 64.0
    modules: str = ".*q_einsum|.*kv_einsum|.*gate_proj|.*down_proj|.*up_proj|.*attn_vec_einsum"


@_frozen
class Critic:
    """How the critic is trained.

    Attributes:
      lora: Train LoRA factors on the frozen policy, and the whole value head; the frozen weights
        are the policy's own arrays. None trains every weight of a copy of the policy.
    """

    lora: Lora | None = None


@_frozen
class Sharding:
    """The device mesh.

    Attributes:
      fsdp: Devices over which weights and batches are split.
      tp: Devices over which heads and hidden units are split.
    """

    fsdp: PositiveInt = 1
    tp: PositiveInt = 1


@_frozen
class Rollout:
    """How completions are sampled while training.

    Attributes:
      max_prompt_length: Tokens to which prompts are padded on the left.
      max_new_tokens: Tokens generated at most.
      temperature: Divisor of the logits.
      top_p: Nucleus (Holtzman et al. 2019, arXiv:1904.09751); 1 keeps all.
      top_k: Number of likeliest tokens kept; none keeps all.
      cache_size: Positions in the key-value cache.
      stop_tokens: Pieces that end a completion.
      dtype: Dtype of the copy of the policy that completions are drawn from, and of the
        key-value cache. None draws from the policy itself. Log-probs that training uses are the
        policy's own in any case.
    """

    max_prompt_length: PositiveInt = 512
    max_new_tokens: PositiveInt = 512
    temperature: PositiveFloat = 0.9
    top_p: PositiveFraction = 1.0
    top_k: PositiveInt | None = 50
    cache_size: PositiveInt = 1024
    stop_tokens: Annotated[tuple[str, ...], Field(min_length=1)] = ("<eos>",)
    dtype: Dtype | None = None

    def __post_init__(self) -> None:
        """Check that a whole sequence fits the cache."""
        if self.cache_size < self.max_prompt_length + self.max_new_tokens:
            raise ValueError(
                f"cache_size ({self.cache_size}) must be at least max_prompt_length + "
                f"max_new_tokens ({self.max_prompt_length + self.max_new_tokens})"
            )


@_frozen
class Ppo:
    """Proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347).

    Attributes:
      num_epochs: Passes over each mini-batch.
      beta: Weight of the KL penalty; 0 uses no reference model.
      kl_method: Estimator of the KL.
      epsilon: Clip range of the ratio.
      epsilon_low: Lower clip range, `epsilon` if none; 0 is 0.
      epsilon_high: Upper clip range, `epsilon` if none; 0 is 0.
      epsilon_c: Bound of dual-clip PPO (arXiv:1912.09729), off if none.
      entropy_coef: Weight of the entropy bonus, off if none.
      gamma: Discount.
      gae_lambda: Lambda of GAE (Schulman et al. 2015, arXiv:1506.02438).
      clip_range_value: Clip range of the value.
    """

    num_epochs: PositiveInt = 2
    beta: NonNegativeFloat = 0.0
    kl_method: Literal["kl", "mse_kl", "low_var_kl"] = "low_var_kl"
    epsilon: PositiveFloat = 0.2
    epsilon_low: NonNegativeFloat | None = None
    epsilon_high: NonNegativeFloat | None = None
    epsilon_c: Annotated[float, Field(gt=1)] | None = None
    entropy_coef: NonNegativeFloat | None = None
    gamma: Fraction = 1.0
    gae_lambda: Fraction = 1.0
    clip_range_value: PositiveFloat = 0.5


@_frozen
class Batching:
    """How a batch is cut. Counts are sequences.

    Attributes:
      rollout_batch_size: Problems in one rollout batch.
      mini_batch_size: Sequences behind one optimizer step; divides `rollout_batch_size`.
      train_micro_batch_size: Sequences in one gradient; divides `mini_batch_size`.
      rollout_micro_batch_size: Sequences generated at once; divides
        `rollout_batch_size`.
      compute_logps_micro_batch_size: Sequences whose log-probs are computed at once;
        divides `rollout_batch_size`.
    """

    rollout_batch_size: PositiveInt = 16
    mini_batch_size: PositiveInt = 8
    train_micro_batch_size: PositiveInt = 2
    rollout_micro_batch_size: PositiveInt = 4
    compute_logps_micro_batch_size: PositiveInt = 4

    def __post_init__(self) -> None:
        """Check who divides whom."""
        for small, large in (
            ("mini_batch_size", "rollout_batch_size"),
            ("train_micro_batch_size", "mini_batch_size"),
            ("rollout_micro_batch_size", "rollout_batch_size"),
            ("compute_logps_micro_batch_size", "rollout_batch_size"),
        ):
            if getattr(self, large) % getattr(self, small):
                raise ValueError(
                    f"{small} ({getattr(self, small)}) must divide {large} ({getattr(self, large)})"
                )


@_frozen
class Optimizers:
    """AdamW (arXiv:1711.05101) with linear warm-up, then cosine to zero.

    Attributes:
      actor_learning_rate: Peak rate of the actor.
      critic_learning_rate: Peak rate of the critic.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      weight_decay: Decoupled weight decay.
      warmup_fraction: Share of `max_steps` spent warming up.
      max_grad_norm: Bound of the global gradient norm; none does not clip.
      max_steps: Optimizer steps after which training stops: a number;
        `reference` for the reference recipe's formula, which does not count
        PPO epochs; or `all` for as many as the batches need.
    """

    actor_learning_rate: PositiveFloat = 1e-6
    critic_learning_rate: PositiveFloat = 1e-5
    b1: Fraction = 0.9
    b2: Fraction = 0.999
    weight_decay: NonNegativeFloat = 0.01
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_grad_norm: PositiveFloat | None = 1.0
    max_steps: PositiveInt | Literal["reference", "all"] = "reference"


@_frozen
class Checkpoints:
    """What is kept of training.

    Attributes:
      save_interval_steps: Optimizer steps between checkpoints.
      max_to_keep: Checkpoints kept; older ones are deleted.
    """

    save_interval_steps: PositiveInt = 5
    max_to_keep: PositiveInt = 4


@_frozen
class Generation:
    """How completions are drawn in evaluation.

    Attributes:
      temperature: Divisor of the logits.
      top_k: Likeliest tokens kept; none keeps all.
      top_p: Nucleus; 1 keeps all.
    """

    temperature: PositiveFloat
    top_k: PositiveInt | None
    top_p: PositiveFraction


def _generations() -> dict[str, Generation]:
    return {
        "greedy": Generation(temperature=1e-4, top_k=1, top_p=1.0),
        "standard": Generation(temperature=0.7, top_k=50, top_p=0.95),
        "liberal": Generation(temperature=0.85, top_k=2000, top_p=1.0),
    }


def _laid_over_named(given: Any) -> Any:
    """Lay generations over the named ones, field by field.

    A table has no defaults of its own: without this, a change of one field of a
    named generation would drop its other fields, and the other names.
    """
    if not isinstance(given, Mapping):
        return given
    named = _generations()
    changed = {
        name: {**dataclasses.asdict(named[name]), **value}
        if name in named and isinstance(value, Mapping)
        else value
        for name, value in given.items()
    }
    return {**named, **changed}


@_frozen
class Evaluation:
    """How accuracy is measured.

    Attributes:
      generation: Name of one of `generations`.
      generations: The named ways to generate. `greedy`, `standard` and
        `liberal` are always there, and any of their fields may be changed alone;
        one of another name needs all fields.
      passes: Completions per problem; a problem counts as solved if any is
        right, as in the reference.
      every_n_steps: Optimizer steps between validations (used only with
        `data.train_fraction` < 1).
      rule: By what completions are scored: `reward` or None for the recipe's
        reward, so that what is trained for is what is measured; `reference` for
        the reference recipe's rule, whatever the reward.
    """

    generation: str = "greedy"
    generations: Annotated[dict[str, Generation], pydantic.BeforeValidator(_laid_over_named)] = (
        dataclasses.field(default_factory=_generations)
    )
    passes: PositiveInt = 1
    every_n_steps: PositiveInt = 10
    rule: Literal["reward", "reference"] | None = None

    def __post_init__(self) -> None:
        """Check that the chosen way to generate exists."""
        if self.generation not in self.generations:
            raise ValueError(f"generation must be one of {', '.join(sorted(self.generations))}")


@_frozen
class WarmStart:
    """Supervised training before PPO, for a model whose weights are random.

    Attributes:
      max_steps: Optimizer steps at most; 0 skips the warm start.
      batch: Problems per step.
      learning_rate: Peak rate of AdamW.
      target_accuracy: Training stops once this share of held-back training
        problems is answered, so that PPO has something left to learn.
      wrong_answers: Share of the problems trained on that are shown with a
        wrong answer, drawn evenly from all answers. A policy that saw none
        gives some answers no probability at all, and PPO never samples them.
      check_every: Steps between two looks at that share.
      check_problems: Number of held-back problems looked at.
    """

    max_steps: NonNegativeInt = 0
    batch: PositiveInt = 128
    learning_rate: PositiveFloat = 3e-3
    target_accuracy: PositiveFraction = 0.35
    wrong_answers: Annotated[float, Field(ge=0, lt=1)] = 0.0
    check_every: PositiveInt = 10
    check_problems: PositiveInt = 512


@_frozen
class Reward:
    """The rule-based score.

    Attributes:
      function: `module:name` of a function `(prompts, completions, **columns)`
        that gives one float per completion.
      correct: Score of a right answer.
      format: Score of a well-formed wrong answer.
      clip_chars: Characters at a completion's end that are looked at.
      timeout_seconds: Longest that one call of a function of the user's own may
        take; a call that takes longer ends the run. None sets no limit.
      trial: What a run does with a function of the user's own before anything is
        trained: `batch` or None call it once, on prompts of the data with
        made-up completions; `signature` looks at its parameters alone, for a
        function that must not be called in vain.
    """

    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] = "harness.rewards:gsm8k_reward"
    correct: float = 1.0
    format: float = 0.1
    clip_chars: PositiveInt = 300
    timeout_seconds: PositiveFloat | None = None
    trial: Literal["batch", "signature"] | None = None


@_frozen
class Metrics:
    """Where the figures of training go, beside `result.json`.

    Attributes:
      backends: `tensorboard`, `wandb` (Weights & Biases), both or none. None
        acts because its package happens to be installed.
      project: Project of Weights & Biases.
      run_name: Name of the run there; that of the output folder if none.
    """

    backends: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    project: Annotated[str, Field(min_length=1)] = "tunix-ppo-harness"
    run_name: str | None = None

    def __post_init__(self) -> None:
        """Check that no backend is named twice."""
        if len(set(self.backends)) < len(self.backends):
            raise ValueError("backends must name each backend once")


@_frozen
class Recipe:
    """Every hyper-parameter of a run.

    Attributes:
      name: Name of the preset that it began as.
      seed: Seed of weights, sampling and micro-batch order.
      data: Problems.
      model: Policy and critic backbone.
      precision: Dtypes of what is trained.
      lora: Adaptation of the actor.
      critic: How the critic is trained.
      sharding: Device mesh.
      rollout: Sampling while training.
      ppo: The algorithm.
      batching: Batch sizes.
      optimizers: Actor's and critic's optimizers.
      checkpoints: What is kept.
      evaluation: How accuracy is measured.
      warm_start: Supervised start of a random model.
      reward: The score.
      metrics: Where the figures of training go.
    """

    name: str = "gemma3-1b"
    seed: NonNegativeInt = 42
    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    precision: Precision = dataclasses.field(default_factory=Precision)
    lora: Lora = dataclasses.field(default_factory=Lora)
    critic: Critic = dataclasses.field(default_factory=Critic)
    sharding: Sharding = dataclasses.field(default_factory=Sharding)
    rollout: Rollout = dataclasses.field(default_factory=Rollout)
    ppo: Ppo = dataclasses.field(default_factory=Ppo)
    batching: Batching = dataclasses.field(default_factory=Batching)
    optimizers: Optimizers = dataclasses.field(default_factory=Optimizers)
    checkpoints: Checkpoints = dataclasses.field(default_factory=Checkpoints)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    warm_start: WarmStart = dataclasses.field(default_factory=WarmStart)
    reward: Reward = dataclasses.field(default_factory=Reward)
    metrics: Metrics = dataclasses.field(default_factory=Metrics)

    def __post_init__(self) -> None:
        """Check rules that span groups."""
        if self.rollout.top_k is not None and self.rollout.top_k > self.model.vocab_size:
            raise ValueError("rollout.top_k must be at most model.vocab_size")
        if not train_batches(self):
            raise ValueError("data.train_fraction leaves no batch of data.num_batches to train on")
        _check_mesh(self)


def _check_mesh(recipe: Recipe) -> None:
    """Refuse a mesh over which Tunix's partition specs of Gemma 3 cannot lay the arrays.

    Raises:
      ValueError: An axis does not divide a size that is split over it; the message names the
        sizes, and the values that would do.
    """
    model, batching = recipe.model, recipe.batching
    split = {
        "fsdp": {
            "model.embed_dim": model.embed_dim,
            "batching.train_micro_batch_size": batching.train_micro_batch_size,
        },
        "tp": {
            "model.vocab_size": model.vocab_size,
            "model.embed_dim": model.embed_dim,
            "model.hidden_dim": model.hidden_dim,
            "model.num_heads": model.num_heads,
        },
    }
    if model.num_kv_heads > 1:  # a single one is on every device
        split["tp"]["model.num_kv_heads"] = model.num_kv_heads
    for axis, sizes in split.items():
        given = getattr(recipe.sharding, axis)
        against = [f"{name} ({size})" for name, size in sizes.items() if size % given]
        if against:
            common = math.gcd(*sizes.values())
            usable = [str(each) for each in range(1, common + 1) if common % each == 0]
            raise ValueError(
                f"sharding.{axis} ({given}) must divide {' and '.join(against)}: use one of "
                f"{', '.join(usable)}"
            )


def train_batches(recipe: Recipe) -> int:
    """Batches in one epoch of the training share."""
    return int(recipe.data.num_batches * recipe.data.train_fraction)


_TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 0,
    "data": {
        "source": "arithmetic",
        "num_batches": 240,
        "num_test_batches": 8,
        "arithmetic": {"train_problems": 16_000, "max_operand": 7},
    },
    "model": {
        "weights": "random",
        "tokenizer": "builtin",
        "num_layers": 3,
        "attention_pattern": ["local", "global", "local"],
        "vocab_size": 512,
        "embed_dim": 64,
        "hidden_dim": 128,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "sliding_window": 20,
    },
    "lora": {"rank": 16, "alpha": 16.0},
    "rollout": {
        "max_prompt_length": 20,
        "max_new_tokens": 8,
        "temperature": 1.0,
        "top_k": None,
        "cache_size": 28,
        "stop_tokens": ["<eos>", "<end_of_turn>"],
    },
    "batching": {
        "rollout_batch_size": 64,
        "mini_batch_size": 64,
        "train_micro_batch_size": 64,
        "rollout_micro_batch_size": 64,
        "compute_logps_micro_batch_size": 64,
    },
    "optimizers": {
        "actor_learning_rate": 3e-3,
        "critic_learning_rate": 1e-3,
        "max_steps": "all",
    },
    "checkpoints": {"save_interval_steps": 100},
    "warm_start": {
        "max_steps": 400,
        "learning_rate": 1.5e-3,
        "target_accuracy": 0.3,
        "wrong_answers": 0.5,
        "check_every": 1,
    },
}

# GSM8K's questions are ten times as long as the built-in ones: the tiny preset
# takes a few batches of those that fit, so that every stage runs in minutes.
_TINY_ON_GSM8K: dict[str, Any] = {
    "data": {"num_batches": 4, "num_test_batches": 2, "long_prompts": "drop"},
    "rollout": {"max_prompt_length": 192, "max_new_tokens": 16, "cache_size": 208},
    "batching": {
        "rollout_batch_size": 16,
        "mini_batch_size": 16,
        "train_micro_batch_size": 16,
        "rollout_micro_batch_size": 16,
        "compute_logps_micro_batch_size": 16,
    },
    "warm_start": {
        "max_steps": 20,
        "batch": 16,
        "wrong_answers": 0.0,
        "check_every": 5,
        "check_problems": 64,
    },
}

# What `plan --preset gemma3-1b --chip v6e-1 --recommend` found: sizes of calls and
# what a gradient repeats, which change results by rounding alone.
_GEMMA3_1B_ON_V6E_1: dict[str, Any] = {
    "name": "gemma3-1b-v6e-1",
    "model": {"remat": "light"},
    "batching": {
        "train_micro_batch_size": 4,
        "rollout_micro_batch_size": 16,
        "compute_logps_micro_batch_size": 16,
    },
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "gemma3-1b": {"name": "gemma3-1b"},
    "gemma3-1b-v6e-1": _GEMMA3_1B_ON_V6E_1,
    "tiny": _TINY,
}

# TOML has no null: a field that can be off is written, and read, as this text.
_NONE = "none"

_ADAPTER = pydantic.TypeAdapter(Recipe)


def load(
    preset: str = "tiny",
    *,
    toml: str | pathlib.Path | None = None,
    assignments: Iterable[str] = (),
    source: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read a recipe: preset, then data source, then TOML, then assignments.

    Args:
      preset: Name in `PRESETS`.
      toml: A TOML file with any part of the tree.
      assignments: `group.field=value` strings; the value is TOML, and text
        that is not TOML is taken as a string.
      source: `data.source`; on the tiny preset a GSM8K source also brings the
        lengths and sizes that its longer questions need.
      overrides: Nested mapping, applied last.

    Returns:
      The validated recipe.

    Raises:
      HarnessError: An unknown preset or field, or a value against the rules.
    """
    if preset not in PRESETS:
        raise HarnessError(f"unknown preset '{preset}': use one of {', '.join(sorted(PRESETS))}")
    layers: list[Mapping[str, Any]] = [_read_toml(toml)] if toml is not None else []
    layers += [_parse_assignment(text) for text in assignments]
    layers += [overrides] if overrides else []
    if source is not None:
        layers.append({"data": {"source": source}})
    asked = _merged({}, layers)
    tree = _merged({}, [PRESETS[preset]])
    source = asked.get("data", {}).get("source") if isinstance(asked.get("data"), dict) else None
    if preset == "tiny" and isinstance(source, str) and source != "arithmetic":
        tree = _merged(tree, [_TINY_ON_GSM8K])
    return from_dict(_merged(tree, [asked]))


def from_dict(tree: Mapping[str, Any]) -> Recipe:
    """Validate a nested mapping, as TOML or JSON gives it.

    Args:
      tree: Any part of the tree; what is absent takes the reference's value,
        and the text `none` turns off what can be off.

    Returns:
      The recipe.

    Raises:
      HarnessError: An unknown field, a wrong type or a value against the
        rules; the message names field and rule.
    """
    try:
        return _ADAPTER.validate_json(json.dumps(_text_as_none(tree), default=str))
    except pydantic.ValidationError as error:
        raise HarnessError(f"recipe: {_describe(error)}") from None


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the whole tree as plain JSON values, tuples as lists."""
    return _ADAPTER.dump_python(recipe, mode="json")


def to_toml(recipe: Recipe) -> str:
    """Write the whole tree as TOML; a field that is off is the string `none`."""
    return tomli_w.dumps(_none_as_text(to_dict(recipe)))


def from_toml(text: str) -> Recipe:
    """Read what `to_toml` wrote, or any part of it.

    Args:
      text: TOML; what is absent takes the reference's value.

    Returns:
      The recipe.

    Raises:
      HarnessError: As `from_dict`, or the text is not TOML.
    """
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise HarnessError(f"recipe: not valid TOML: {error}") from None
    return from_dict(tree)


def replace(recipe: Recipe, *assignments: str) -> Recipe:
    """Return the recipe with `group.field=value` assignments applied.

    Args:
      recipe: The recipe to start from.
      *assignments: As in `load`.

    Returns:
      A new, validated recipe.

    Raises:
      HarnessError: As `load`.
    """
    return from_dict(_merged(to_dict(recipe), [_parse_assignment(a) for a in assignments]))


def _read_toml(path: str | pathlib.Path) -> dict[str, Any]:
    try:
        return tomllib.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(
            f"recipe file {path} cannot be read: {error.strerror or error}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HarnessError(f"recipe file {path} is not valid TOML: {error}") from None


def _parse_assignment(text: str) -> dict[str, Any]:
    key, equals, raw = text.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise HarnessError(f"'{text}' is not an assignment: write group.field=value")
    raw = raw.strip()
    try:
        value: Any = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    for name in reversed(names):
        value = {name: value}
    return value


def _merged(tree: Mapping[str, Any], layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    result = dict(tree)
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            if isinstance(value, Mapping) and (below is None or isinstance(below, Mapping)):
                result[key] = _merged(below or {}, [value])
            else:
                result[key] = value
    return result


def _none_as_text(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _none_as_text(value)
        if isinstance(value, Mapping)
        else _NONE
        if value is None
        else value
        for key, value in tree.items()
    }


def _text_as_none(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _text_as_none(value)
        if isinstance(value, Mapping)
        else None
        if value == _NONE
        else value
        for key, value in tree.items()
    }


def _describe(error: pydantic.ValidationError) -> str:
    lines = []
    for entry in error.errors():
        field = ".".join(str(part) for part in entry["loc"])
        message = entry["msg"].removeprefix("Value error, ")
        if entry["type"] == "unexpected_keyword_argument":
            message = "no such field"
        lines.append(f"{field}: {message}" if field else message)
    return "; ".join(lines)
