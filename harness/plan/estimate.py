"""A guess at what a train step takes, from shapes alone, to save compilations.

The search looks at settings from the fastest on, and the fastest take most: a
guess that leads far past the chip's memory puts a setting off until nothing
else fits. It never rules one out, and never lets one in: those are the
compiler's to judge.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from harness import recipe as recipe_lib
from harness.plan import roofline
from harness.programs import Program

# Arrays of the size of the logits that a policy's loss holds at once.
_LOGITS = 2
# What each step trains. A critic by LoRA has nothing of its own but that.
_TRAINED: Mapping[str, str] = {Program.ACTOR_STEP: "actor LoRA", Program.CRITIC_STEP: "critic"}


def step_bytes(
    recipe: recipe_lib.Recipe, program: str, resident: Sequence[Mapping[str, Any]], arguments: int
) -> int | None:
    """Guess what a train step takes on a chip.

    Args:
      recipe: Shapes, sizes, mesh and rematerialisation.
      program: Its name.
      resident: What lives on a chip, from `resident.describe`.
      arguments: Bytes of the program's arguments.

    Returns:
      Bytes; None for a program without a gradient.
    """
    trained = _TRAINED.get(program)
    if trained is None:
        return None
    gradients = sum(each["bytes"] for each in resident if each["name"] == trained)
    rollout, item = recipe.rollout, roofline.BYTES[roofline.dtype_of(recipe, program)]
    length = rollout.max_prompt_length + rollout.max_new_tokens
    one = length * (_held(recipe) * recipe.model.num_layers + _widths(recipe))
    if program == Program.ACTOR_STEP:
        one += _LOGITS * rollout.max_new_tokens * recipe.model.vocab_size
    chips = recipe.sharding.fsdp * recipe.sharding.tp
    return arguments + gradients + recipe.batching.train_micro_batch_size * one * item // chips


def _widths(recipe: recipe_lib.Recipe) -> int:
    """Return the numbers for each token of a layer that its gradient reads."""
    model, rollout = recipe.model, recipe.rollout
    length = rollout.max_prompt_length + rollout.max_new_tokens
    heads = model.num_heads * model.head_dim
    scores = model.num_heads * length
    return (
        2 * model.hidden_dim
        + scores
        + 2 * heads
        + 2 * model.num_kv_heads * model.head_dim
        + 3 * model.embed_dim
    )


def _held(recipe: recipe_lib.Recipe) -> int:
    """Return the numbers for each token of a layer that the backward pass needs."""
    model = recipe.model
    heads = model.num_heads * model.head_dim
    return {
        None: _widths(recipe),
        "light": model.hidden_dim
        + 2 * heads
        + 2 * model.num_kv_heads * model.head_dim
        + 3 * model.embed_dim,
        "block": 4 * model.embed_dim,
        "decoder": model.embed_dim,
    }[model.remat]
