"""What a recipe will do, by arithmetic alone. Nothing is built or run."""

import dataclasses
import math
from typing import Any

from harness.recipe import schedule
from harness.recipe.schema import Recipe
from harness.recipe.warnings import RecipeWarning, warnings

_BYTES = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """Learning rates that optimizer steps really use.

    Attributes:
      first: At the first step.
      peak: Highest at any step.
      last: At the last step.
    """

    first: float
    peak: float
    last: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a recipe will do.

    Attributes:
      problems_available: Training problems in the data; none for JSONL files,
        whose lines are not counted here.
      problems_used: Distinct training problems that are rolled out, at most.
      test_problems: Test problems that one evaluation answers, at most.
      batches: Rollout batches that the data offers.
      global_steps: Rollout batches that training uses before it stops.
      rollouts: Completions sampled.
      generations: Calls of the sampler.
      whitening_groups: Sequences over which advantages are whitened, for each
        group of a mini-batch.
      gradient_accumulation: Micro-batches behind one optimizer step.
      optimizer_steps_per_batch: Optimizer steps of each model per global step.
      max_steps: Step at which training is asked to stop.
      optimizer_steps: Step at which it stops.
      checkpoint_steps: Steps that are saved.
      checkpoints_left: Those still there at the end.
      actor_learning_rate: The actor's rates.
      critic_learning_rate: The critic's rates.
      prompt_tokens: Prompt positions, padding included, over all rollouts.
      completion_tokens_max: Tokens sampled over all rollouts, at most.
      trained_tokens_max: Completion tokens trained on over all epochs, at most.
      cache_positions_needed: Positions of the longest sequence.
      cache_bytes: Bytes of the key-value cache while one micro-batch is sampled.
      warnings: What in it a reader would not expect.
    """

    problems_available: int | None
    problems_used: int
    test_problems: int
    batches: int
    global_steps: int
    rollouts: int
    generations: int
    whitening_groups: tuple[int, ...]
    gradient_accumulation: int
    optimizer_steps_per_batch: int
    max_steps: int
    optimizer_steps: int
    checkpoint_steps: tuple[int, ...]
    checkpoints_left: tuple[int, ...]
    actor_learning_rate: LearningRates
    critic_learning_rate: LearningRates
    prompt_tokens: int
    completion_tokens_max: int
    trained_tokens_max: int
    cache_positions_needed: int
    cache_bytes: int
    warnings: tuple[RecipeWarning, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        tree = dataclasses.asdict(self)
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in tree.items()
        }


def summarize(recipe: Recipe, *, overshoots: bool = True, one_policy: bool = True) -> Summary:
    """Work out what a recipe will do.

    Args:
      recipe: The recipe.
      overshoots: Whether `max_steps` is looked at only when a whole batch is
        done, as by Tunix 0.1.7, and not within one.
      one_policy: Whether a batch is sampled at once, and not each mini-batch after the updates
        on the one before, as by Tunix itself.

    Returns:
      The summary.
    """
    batching, rollout, model = recipe.batching, recipe.rollout, recipe.model
    steps = schedule.global_steps(recipe)
    updates = schedule.optimizer_steps(recipe, overshoots=overshoots)
    rollouts = steps * batching.rollout_batch_size
    groups = schedule.whitening_groups(batching)
    calls = batching.rollout_batch_size // batching.rollout_micro_batch_size
    if not one_policy:
        per_mini_batch = sum(
            math.ceil(group / batching.rollout_micro_batch_size) for group in groups
        )
        calls = batching.rollout_batch_size // batching.mini_batch_size * per_mini_batch
    available, tested = schedule.problems(recipe, "train"), schedule.problems(recipe, "test")
    asked = recipe.data.num_test_batches * batching.rollout_batch_size
    saved = schedule.checkpoint_steps(recipe, overshoots=overshoots)
    return Summary(
        problems_available=available,
        problems_used=schedule.problems_seen(recipe),
        test_problems=asked if tested is None else min(asked, tested),
        batches=schedule.batches(recipe),
        global_steps=steps,
        rollouts=rollouts,
        generations=steps * calls,
        whitening_groups=groups,
        gradient_accumulation=batching.mini_batch_size // batching.train_micro_batch_size,
        optimizer_steps_per_batch=schedule.optimizer_steps_per_batch(recipe),
        max_steps=schedule.max_steps(recipe),
        optimizer_steps=updates,
        checkpoint_steps=saved,
        checkpoints_left=saved[-recipe.checkpoints.max_to_keep :],
        actor_learning_rate=_rates(recipe, recipe.optimizers.actor_learning_rate, updates),
        critic_learning_rate=_rates(recipe, recipe.optimizers.critic_learning_rate, updates),
        prompt_tokens=rollouts * rollout.max_prompt_length,
        completion_tokens_max=rollouts * rollout.max_new_tokens,
        trained_tokens_max=rollouts * rollout.max_new_tokens * recipe.ppo.num_epochs,
        cache_positions_needed=rollout.max_prompt_length + rollout.max_new_tokens,
        cache_bytes=2
        * model.num_layers
        * batching.rollout_micro_batch_size
        * rollout.cache_size
        * model.num_kv_heads
        * model.head_dim
        * _BYTES[rollout.dtype or model.dtype],
        warnings=warnings(recipe, overshoots=overshoots),
    )


def _rates(recipe: Recipe, peak: float, steps: int) -> LearningRates:
    rates = [schedule.learning_rate(recipe, peak, step) for step in range(steps)]
    return LearningRates(first=rates[0], peak=max(rates), last=rates[-1])
