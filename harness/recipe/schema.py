"""Every hyper-parameter of a run, in one frozen, validated tree.

The defaults are the numbers of the reference recipe.
"""

import dataclasses
import math
from typing import Annotated, Literal

from pydantic import Field

from harness.recipe.fields import (
    Dtype,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    frozen,
)
from harness.recipe.task import Data, Evaluation, Metrics, Reward, WarmStart


@frozen
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


@frozen
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


@frozen
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


@frozen
class Critic:
    """How the critic is trained.

    Attributes:
      lora: Train LoRA factors on the frozen policy, and the whole value head; the frozen weights
        are the policy's own arrays. None trains every weight of a copy of the policy.
    """

    lora: Lora | None = None


@frozen
class Sharding:
    """The device mesh.

    Attributes:
      fsdp: Devices over which weights and batches are split.
      tp: Devices over which heads and hidden units are split.
    """

    fsdp: PositiveInt = 1
    tp: PositiveInt = 1


@frozen
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


@frozen
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


@frozen
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
        """Check that each size divides the one that is cut by it."""
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


@frozen
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


@frozen
class Checkpoints:
    """What is saved of training.

    Attributes:
      save_interval_steps: Optimizer steps between checkpoints.
      max_to_keep: Checkpoints that are left; older ones are deleted.
    """

    save_interval_steps: PositiveInt = 5
    max_to_keep: PositiveInt = 4


@frozen
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
      checkpoints: What is saved.
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
