"""Lower bounds of time from shapes alone (Williams et al. 2009, doi:10.1145/1498765.1498785).

A program takes at least its multiplications over the chip's rate, and at least
its unavoidable traffic over the chip's bandwidth. Only matrix products are
counted, and only weights, key-value cache and inputs and outputs once each, so
every figure is a bound and not a forecast: communication between chips,
elementwise work, padding to tiles and activations that spill to HBM come on top.

XLA's own counts take the body of a `while` once, which makes them useless for
decoding; for programs without loops the tests hold these formulas to XLA's.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Collection
from typing import Literal

from harness import hardware, programs
from harness import recipe as recipe_lib
from harness.programs import Program

BYTES = {"float32": 4, "bfloat16": 2}
_ID = 4  # bytes of a token
Role = Literal["actor", "critic"]


@dataclasses.dataclass(frozen=True)
class Work:
    """What one call of a program has to do at least, over all chips.

    Attributes:
      flops: Floating-point operations of its matrix products.
      bytes: Bytes that it reads from and writes to HBM at least.
    """

    flops: float
    bytes: float


@dataclasses.dataclass(frozen=True)
class Bound:
    """The least time of one call of a program.

    Attributes:
      compute_seconds: Operations over the chip's rate.
      memory_seconds: Bytes over the chip's bandwidth.
    """

    compute_seconds: float
    memory_seconds: float

    @property
    def seconds(self) -> float:
        """The larger of the two."""
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def limit(self) -> str:
        """What it is bound by: `compute` or `memory`."""
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory"


def layer_weights(model: recipe_lib.Model) -> int:
    """Return the weights of a decoder layer that are multiplied: projections, feed-forward."""
    attention = model.embed_dim * model.head_dim * (2 * model.num_heads + 2 * model.num_kv_heads)
    return attention + 3 * model.embed_dim * model.hidden_dim


def lora_weights(
    recipe: recipe_lib.Recipe, *, role: Role = "actor", of: Collection[str] = ()
) -> int:
    """Return the weights of LoRA pairs: rank times inputs plus outputs of each module.

    Args:
      recipe: Shapes, and which modules have pairs.
      role: Whose pairs.
      of: Names of modules to which the count is restricted; all if empty.

    Returns:
      Weights; 0 for a critic of which every weight is trained.
    """
    lora = recipe.lora if role == "actor" else recipe.critic.lora
    return 0 if lora is None else _pairs(recipe.model, lora, frozenset(of))


@functools.lru_cache(maxsize=64)
def _pairs(model: recipe_lib.Model, lora: recipe_lib.Lora, of: frozenset[str]) -> int:
    heads = model.num_heads * model.head_dim
    modules = {
        "attn/q_einsum": model.embed_dim + heads,
        "attn/kv_einsum": model.embed_dim + 2 * model.num_kv_heads * model.head_dim,
        "attn/attn_vec_einsum": heads + model.embed_dim,
        "mlp/gate_proj": model.embed_dim + model.hidden_dim,
        "mlp/up_proj": model.embed_dim + model.hidden_dim,
        "mlp/down_proj": model.hidden_dim + model.embed_dim,
    }
    chosen = re.compile(lora.modules)
    return lora.rank * sum(
        width
        for layer in range(model.num_layers)
        for name, width in modules.items()
        if chosen.fullmatch(f"layers/{layer}/{name}") and (not of or name.split("/")[-1] in of)
    )


def attention_flops(model: recipe_lib.Model, queries: int, keys: int) -> int:
    """Return the operations of scores and weighted sums of all layers, for one sequence.

    Upstream computes every score and masks afterwards, in local layers too, so
    neither the causal half nor the window is left out.
    """
    return 4 * model.num_layers * queries * keys * model.num_heads * model.head_dim


def _not_needed_flops(model: recipe_lib.Model, lora: recipe_lib.Lora, length: int) -> int:
    """Operations of gradients by the input of the first layer, which a frozen embedding spares."""
    heads = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    return 2 * length * model.embed_dim * (heads + 2 * lora.rank)


def recomputed_flops(recipe: recipe_lib.Recipe, role: Role) -> int:
    """Return the operations that a gradient repeats by `model.remat`, for one sequence.

    A product whose result no gradient needs is not repeated: within a block
    that is the last one, of attention and of the feed-forward layer. `light`
    repeats `up_proj` and the attention scores.

    Args:
      recipe: Shapes, lengths and `model.remat`.
      role: Whose gradient.

    Returns:
      Operations; 0 without rematerialisation.
    """
    model, rollout = recipe.model, recipe.rollout
    if model.remat is None:
        return 0
    length = rollout.max_prompt_length + rollout.max_new_tokens
    attention = attention_flops(model, length, length)
    weights = layer_weights(model) * model.num_layers
    pairs = lora_weights(recipe, role=role)
    if model.remat == "light":
        # Of attention the scores alone: what the probabilities weigh is saved.
        attention //= 2
        weights = model.embed_dim * model.hidden_dim * model.num_layers
        pairs = lora_weights(recipe, role=role, of=("up_proj",))
    elif model.remat == "block":
        last = model.num_heads * model.head_dim * model.embed_dim
        last += model.hidden_dim * model.embed_dim
        weights -= last * model.num_layers
        pairs -= lora_weights(recipe, role=role, of=("attn_vec_einsum", "down_proj"))
    return 2 * length * (weights + pairs) + attention


def work(recipe: recipe_lib.Recipe, program: str, sequences: int) -> Work:
    """Count what one call of a program has to do.

    A product of weights W with a token is 2 W operations. Its backward pass is
    2 W for the gradient by the input, and 2 W for that by the weights where
    they are trained (Kaplan et al. 2020, arXiv:2001.08361, sec. 2.1).

    Args:
      recipe: Shapes and lengths.
      program: Its name. For `decode` a call is all steps until every sequence
        has `max_new_tokens`, of which `prefill` draws the first.
      sequences: Sequences in the call.

    Returns:
      Operations and bytes.

    Raises:
      ValueError: There is no such program.
    """
    match program:
        case Program.PREFILL | Program.DECODE:
            return _sampling(recipe, program, sequences)
        case Program.LOGPS | Program.REFERENCE_LOGPS:
            return _log_probs(recipe, program, sequences)
        case Program.ACTOR_STEP:
            return _actor_step(recipe, sequences)
        case Program.VALUES:
            return _values(recipe, sequences)
        case Program.CRITIC_STEP:
            return _critic_step(recipe, sequences)
    raise ValueError(f"no formula for {program}")


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """What the formulas have in common: numbers of weights, and operations for a sequence."""

    length: int
    layers: int
    head: int
    norms: int
    attention: int

    @property
    def base(self) -> int:
        """Weights of the policy without LoRA."""
        return self.layers + self.head + self.norms


def _sizes(recipe: recipe_lib.Recipe) -> _Sizes:
    model, rollout = recipe.model, recipe.rollout
    length = rollout.max_prompt_length + rollout.max_new_tokens
    return _Sizes(
        length=length,
        layers=model.num_layers * layer_weights(model),
        head=model.vocab_size * model.embed_dim,
        norms=model.embed_dim * (4 * model.num_layers + 1) + 2 * model.head_dim * model.num_layers,
        attention=attention_flops(model, length, length),
    )


def _sampling(recipe: recipe_lib.Recipe, program: str, sequences: int) -> Work:
    model, rollout, size = recipe.model, recipe.rollout, _sizes(recipe)
    prompt, steps = rollout.max_prompt_length, rollout.max_new_tokens - 1
    lora = lora_weights(recipe)
    drawn = BYTES[dtype_of(recipe, program)]
    policy = size.base * BYTES[model.dtype] + lora * BYTES[recipe.precision.trained_dtype]
    if rollout.dtype is not None:
        policy = (size.base + lora) * drawn
    per_token = 2 * (size.layers + lora)
    heads = model.num_kv_heads * model.head_dim
    cache = sequences * 2 * model.num_layers * rollout.cache_size * heads * drawn
    if program == Program.PREFILL:
        attention = attention_flops(model, prompt, rollout.cache_size)
        one = prompt * per_token + attention + 2 * size.head
        return Work(sequences * one, policy + cache + sequences * prompt * _ID)
    one = per_token + attention_flops(model, 1, rollout.cache_size) + 2 * size.head
    return Work(steps * sequences * one, steps * (policy + cache))


def _log_probs(recipe: recipe_lib.Recipe, program: str, sequences: int) -> Work:
    size, new = _sizes(recipe), recipe.rollout.max_new_tokens
    lora = 0 if program == Program.REFERENCE_LOGPS else lora_weights(recipe)
    weights = size.base * BYTES[recipe.model.dtype] + lora * BYTES[recipe.precision.trained_dtype]
    token = 2 * (size.layers + lora)
    flops = sequences * (size.length * token + size.attention + new * 2 * size.head)
    return Work(flops, weights + _ids(recipe, sequences) + _out(recipe, sequences))


def _actor_step(recipe: recipe_lib.Recipe, sequences: int) -> Work:
    size, new, lora = _sizes(recipe), recipe.rollout.max_new_tokens, lora_weights(recipe)
    # The base is frozen: its gradient by the input is needed, by the weights not.
    token = 4 * size.layers + 6 * lora
    again = recomputed_flops(recipe, "actor")
    spared = _not_needed_flops(recipe.model, recipe.lora, size.length)
    one = size.length * token + 3 * size.attention + new * 4 * size.head + again - spared
    weights = size.base * BYTES[recipe.model.dtype] + _moved(recipe) * lora
    return Work(sequences * one, weights + _ids(recipe, sequences) + 5 * _out(recipe, sequences))


def _values(recipe: recipe_lib.Recipe, sequences: int) -> Work:
    size, pairs = _sizes(recipe), lora_weights(recipe, role="critic")
    token = 2 * (size.layers + pairs + recipe.model.embed_dim)
    flops = sequences * (size.length * token + size.attention)
    read = _critic_read(recipe, sequences) + pairs * BYTES[recipe.precision.trained_dtype]
    return Work(flops, read + _ids(recipe, sequences) + _out(recipe, sequences))


def _critic_step(recipe: recipe_lib.Recipe, sequences: int) -> Work:
    size, pairs, score = _sizes(recipe), lora_weights(recipe, role="critic"), recipe.model.embed_dim
    lora = recipe.critic.lora
    token = (6 if lora is None else 4) * size.layers + 6 * (pairs + score)
    again = recomputed_flops(recipe, "critic")
    flops = sequences * (size.length * token + 3 * size.attention + again)
    data = _ids(recipe, sequences) + 5 * _out(recipe, sequences)
    if lora is None:
        return Work(flops, _moved(recipe) * (size.base + score) + data)
    flops -= sequences * _not_needed_flops(recipe.model, lora, size.length)
    moved = _moved(recipe) * (pairs + score)
    return Work(flops, _critic_read(recipe, sequences) + moved + data)


def _critic_read(recipe: recipe_lib.Recipe, sequences: int) -> int:
    """Bytes of the critic's weights that a forward pass reads, but for LoRA pairs."""
    size = _sizes(recipe)
    whole = recipe.critic.lora is None
    stored = BYTES[recipe.precision.trained_dtype if whole else recipe.model.dtype]
    # Of the embedding only what belongs to the tokens at hand is read.
    embedded = sequences * size.length * recipe.model.embed_dim
    return (size.layers + size.norms + embedded) * stored


def _moved(recipe: recipe_lib.Recipe) -> int:
    """Bytes of a weight that an optimizer step reads and writes.

    Itself, two moments, and an accumulator.
    """
    precision = recipe.precision
    trained, moments = BYTES[precision.trained_dtype], BYTES[precision.moments_dtype]
    return 2 * trained + 4 * moments + 2 * BYTES[precision.accumulators_dtype]


def _ids(recipe: recipe_lib.Recipe, sequences: int) -> int:
    """Bytes of the tokens of whole sequences."""
    rollout = recipe.rollout
    return sequences * (rollout.max_prompt_length + rollout.max_new_tokens) * _ID


def _out(recipe: recipe_lib.Recipe, sequences: int) -> int:
    """Bytes of one float32 figure for each token of the completions."""
    return sequences * recipe.rollout.max_new_tokens * 4


def dtype_of(recipe: recipe_lib.Recipe, program: str) -> recipe_lib.Dtype:
    """Return the dtype that a program multiplies in."""
    if program in programs.ROLLOUT:
        return recipe.rollout.dtype or recipe.model.dtype
    return recipe.model.dtype


def bound(found: Work, chip: hardware.Chip, dtype: str, count: int = 1) -> Bound:
    """Return the least time of a call.

    Args:
      found: What it has to do over all chips.
      chip: Each chip.
      dtype: From `dtype_of`.
      count: Chips, among which the work is taken to be split evenly and for free.

    Returns:
      The bound.
    """
    return Bound(found.flops / (chip.flops(dtype) * count), found.bytes / (chip.bandwidth * count))


def calls(recipe: recipe_lib.Recipe, program: str, sequences: int) -> int:
    """Return the calls of a program in one global step.

    Args:
      recipe: The batch, and its epochs.
      program: Its name.
      sequences: Sequences in one call.
    """
    batches = math.ceil(recipe.batching.rollout_batch_size / sequences)
    return batches * (recipe.ppo.num_epochs if program in programs.TRAIN else 1)


def tokens(recipe: recipe_lib.Recipe, program: str) -> int:
    """Return the tokens that a program makes or reads in one global step."""
    rollout, batch = recipe.rollout, recipe.batching.rollout_batch_size
    if program == Program.PREFILL:
        return batch * rollout.max_prompt_length
    if program == Program.DECODE:
        return batch * rollout.max_new_tokens
    epochs = recipe.ppo.num_epochs if program in programs.TRAIN else 1
    return batch * (rollout.max_prompt_length + rollout.max_new_tokens) * epochs


def global_steps(recipe: recipe_lib.Recipe) -> int:
    """Return the global steps of the whole run."""
    return recipe_lib.global_steps(recipe)
