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

from harness import accounting
from harness import recipe as recipe_lib
from harness.plan import chips

BYTES = {"float32": 4, "bfloat16": 2}
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
    """Weights of one decoder layer that are multiplied: projections and feed-forward."""
    attention = model.embed_dim * model.head_dim * (2 * model.num_heads + 2 * model.num_kv_heads)
    return attention + 3 * model.embed_dim * model.hidden_dim


def lora_weights(
    recipe: recipe_lib.Recipe, *, role: Role = "actor", of: Collection[str] = ()
) -> int:
    """Weights of LoRA pairs: rank times inputs plus outputs of each module.

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
    """Operations of scores and weighted sums of all layers, for one sequence.

    Upstream computes every score and masks afterwards, in local layers too, so
    neither the causal half nor the window is left out.
    """
    return 4 * model.num_layers * queries * keys * model.num_heads * model.head_dim


def _not_needed_flops(model: recipe_lib.Model, lora: recipe_lib.Lora, length: int) -> int:
    """Operations of gradients by the input of the first layer, which a frozen embedding spares."""
    heads = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    return 2 * length * model.embed_dim * (heads + 2 * lora.rank)


def recomputed_flops(recipe: recipe_lib.Recipe, role: Role) -> int:
    """Operations that a gradient repeats because of `model.remat`, for one sequence.

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
        # Of attention the scores alone: what the probabilities weigh is kept.
        attention //= 2
        weights = model.embed_dim * model.hidden_dim * model.num_layers
        pairs = lora_weights(recipe, role=role, of=("up_proj",))
    elif model.remat == "block":
        last = model.num_heads * model.head_dim * model.embed_dim
        last += model.hidden_dim * model.embed_dim
        weights -= last * model.num_layers
        pairs -= lora_weights(recipe, role=role, of=("attn_vec_einsum", "down_proj"))
    return 2 * length * (weights + pairs) + attention


def work(recipe: recipe_lib.Recipe, program: str, rows: int) -> Work:
    """Counts what one call of a program has to do.

    A product of weights W with a token is 2 W operations. Its backward pass is
    2 W for the gradient by the input, and 2 W for that by the weights where
    they are trained (Kaplan et al. 2020, arXiv:2001.08361, sec. 2.1).

    Args:
      recipe: Shapes and lengths.
      program: One of the six, or `reference_logps`. For `decode` a call is all
        steps until every row has `max_new_tokens`, of which `prefill` draws
        the first.
      rows: Sequences in the call.

    Returns:
      Operations and bytes.
    """
    model, rollout, precision = recipe.model, recipe.rollout, recipe.precision
    prompt, new = rollout.max_prompt_length, rollout.max_new_tokens
    length = prompt + new
    itemsize, trained = BYTES[model.dtype], BYTES[precision.trained_dtype]
    layers, lora = model.num_layers * layer_weights(model), lora_weights(recipe)
    head = model.vocab_size * model.embed_dim
    norms = model.embed_dim * (4 * model.num_layers + 1) + 2 * model.head_dim * model.num_layers
    base = (layers + head + norms) * itemsize
    per_token = 2 * (layers + lora)
    full = attention_flops(model, length, length)
    ids = rows * length * 4
    out = rows * new * 4
    if program in ("prefill", "decode"):
        drawn = BYTES[dtype_of(recipe, program)]
        policy = base + lora * trained
        if rollout.dtype is not None:
            policy = (layers + head + norms + lora) * drawn
        heads = model.num_kv_heads * model.head_dim
        cache_row = 2 * model.num_layers * rollout.cache_size * heads * drawn
        if program == "prefill":
            one = prompt * per_token + attention_flops(model, prompt, rollout.cache_size) + 2 * head
            return Work(rows * one, policy + rows * cache_row + rows * prompt * 4)
        one = per_token + attention_flops(model, 1, rollout.cache_size) + 2 * head
        return Work((new - 1) * rows * one, (new - 1) * (policy + rows * cache_row))
    if program in ("logps", "reference_logps"):
        reference = program == "reference_logps"
        token = 2 * layers if reference else per_token
        weights = base if reference else base + lora * trained
        return Work(rows * (length * token + full + new * 2 * head), weights + ids + out)
    # What an optimizer step reads and writes of a weight: itself, two moments, an accumulator.
    moved = (
        2 * trained + 4 * BYTES[precision.moments_dtype] + 2 * BYTES[precision.accumulators_dtype]
    )
    if program == "actor_step":
        # The base is frozen: its gradient by the input is needed, by the weights not.
        token = 4 * layers + 6 * lora
        again = recomputed_flops(recipe, "actor")
        spared = _not_needed_flops(model, recipe.lora, length)
        flops = rows * (length * token + 3 * full + new * 4 * head + again - spared)
        return Work(flops, base + moved * lora + ids + 5 * out)
    pairs, score = lora_weights(recipe, role="critic"), model.embed_dim
    whole = recipe.critic.lora is None
    stored = trained if whole else itemsize
    # Only the rows of the tokens at hand are read from the embedding.
    read = (layers + norms + rows * length * model.embed_dim) * stored
    if program == "values":
        flops = rows * (length * 2 * (layers + pairs + score) + full)
        return Work(flops, read + pairs * trained + ids + out)
    if program == "critic_step":
        token = (6 if whole else 4) * layers + 6 * (pairs + score)
        again = recomputed_flops(recipe, "critic")
        flops = rows * (length * token + 3 * full + again)
        if recipe.critic.lora is not None:
            flops -= rows * _not_needed_flops(model, recipe.critic.lora, length)
        if whole:
            return Work(flops, moved * (layers + head + norms + score) + ids + 5 * out)
        return Work(flops, read + moved * (pairs + score) + ids + 5 * out)
    raise ValueError(f"no formula for {program}")


def dtype_of(recipe: recipe_lib.Recipe, program: str) -> recipe_lib.Dtype:
    """Return the dtype that a program multiplies in."""
    if program in ("prefill", "decode"):
        return recipe.rollout.dtype or recipe.model.dtype
    return recipe.model.dtype


def bound(found: Work, chip: chips.Chip, dtype: str, count: int = 1) -> Bound:
    """Gives the least time of a call.

    Args:
      found: What it has to do over all chips.
      chip: Each chip.
      dtype: As `dtype_of` gives it.
      count: Chips, among which the work is taken to be split evenly and for free.

    Returns:
      The bound.
    """
    return Bound(found.flops / (chip.flops(dtype) * count), found.bytes / (chip.bandwidth * count))


def calls(recipe: recipe_lib.Recipe, program: str, rows: int) -> int:
    """Calls of a program in one global step."""
    batches = math.ceil(recipe.batching.batch / rows)
    return batches * (recipe.ppo.num_epochs if program.endswith("_step") else 1)


def tokens(recipe: recipe_lib.Recipe, program: str) -> int:
    """Tokens that a program deals with in one global step: those it makes, or reads."""
    rollout, batch = recipe.rollout, recipe.batching.batch
    if program == "prefill":
        return batch * rollout.max_prompt_length
    if program == "decode":
        return batch * rollout.max_new_tokens
    epochs = recipe.ppo.num_epochs if program.endswith("_step") else 1
    return batch * (rollout.max_prompt_length + rollout.max_new_tokens) * epochs


def global_steps(recipe: recipe_lib.Recipe) -> int:
    """Global steps of the whole run."""
    return accounting.global_steps(recipe)
