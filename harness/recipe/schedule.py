"""Batches, optimizer steps and learning rates of a recipe, by arithmetic alone.

They follow the loop of Tunix 0.1.7, or the one before it where that is asked for, and the tests
hold them against what a real run then did.
"""

import math

from harness.recipe.schema import Batching, Recipe, train_batches

GSM8K_PROBLEMS = {"train": 7473, "test": 1319}


def optimizer_steps_per_batch(recipe: Recipe) -> int:
    """Optimizer steps of each model in one global step: mini-batches times epochs."""
    return (
        recipe.batching.rollout_batch_size
        // recipe.batching.mini_batch_size
        * recipe.ppo.num_epochs
    )


def max_steps(recipe: Recipe) -> int:
    """The optimizer step at which training is asked to stop.

    `reference` follows the reference recipe: batches times mini-batches per
    batch, with no factor for the PPO epochs. `all` has that factor.
    """
    asked = recipe.optimizers.max_steps
    if isinstance(asked, int):
        return asked
    if asked == "all":
        return batches(recipe) * optimizer_steps_per_batch(recipe)
    data, batching = recipe.data, recipe.batching
    problems = (
        data.num_batches * data.train_fraction * data.num_epochs * batching.rollout_batch_size
    )
    return max(1, int(problems // batching.mini_batch_size))


def global_steps(recipe: Recipe) -> int:
    """Rollout batches used; `max_steps` is looked at only after a whole one."""
    needed = math.ceil(max_steps(recipe) / optimizer_steps_per_batch(recipe))
    return min(batches(recipe), needed)


def whitening_groups(batching: Batching) -> tuple[int, ...]:
    """Sequences over which advantages are whitened, group by group of a mini-batch.

    Tunix gathers training micro-batches until they reach the least common
    multiple of the rollout and log-prob micro-batches, and computes
    advantages over what it gathered; the end of a mini-batch closes a group.
    """
    target = math.lcm(batching.rollout_micro_batch_size, batching.compute_logps_micro_batch_size)
    group = math.ceil(target / batching.train_micro_batch_size) * batching.train_micro_batch_size
    whole, rest = divmod(batching.mini_batch_size, group)
    return (group,) * whole + ((rest,) if rest else ())


def learning_rate(recipe: Recipe, peak: float, step: int) -> float:
    """Learning rate at an optimizer step counted from 0.

    Linear from 0 to `peak` over the warm-up, then half a cosine to 0 at
    `max_steps` (Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5).
    """
    total = max_steps(recipe)
    warmup = recipe.optimizers.warmup_fraction * total
    if step < warmup:
        return peak * step / warmup
    progress = min(step - warmup, total - warmup) / (total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def optimizer_steps(recipe: Recipe, *, overshoots: bool = True) -> int:
    """Optimizer steps that are made; without overshooting, `max_steps` at most.

    `overshoots` is as for `summary.summarize`.
    """
    steps = global_steps(recipe) * optimizer_steps_per_batch(recipe)
    return steps if overshoots else min(steps, max_steps(recipe))


def checkpoint_steps(recipe: Recipe, *, overshoots: bool = True) -> tuple[int, ...]:
    """Optimizer steps that are saved: the first, every interval, and the last.

    Each at the end of its batch: from within one nothing can be gone on from.
    With stock Tunix a checkpoint is made at the very step that falls due.
    """
    batch, last = optimizer_steps_per_batch(recipe), optimizer_steps(recipe, overshoots=overshoots)
    interval = recipe.checkpoints.save_interval_steps
    due = {1, *range(interval, last + 1, interval), last}
    return tuple(sorted({min(math.ceil(step / batch) * batch, last) for step in due}))


def problems_seen(recipe: Recipe) -> int:
    """Distinct training problems that are rolled out, at most."""
    return min(train_batches(recipe), global_steps(recipe)) * recipe.batching.rollout_batch_size


def problems(recipe: Recipe, split: str) -> int | None:
    """Problems of a split of the data; None for JSONL files, whose lines are not counted."""
    if recipe.data.source == "arithmetic":
        config = recipe.data.arithmetic
        return config.train_problems if split == "train" else config.test_problems
    return GSM8K_PROBLEMS[split] if recipe.data.source.startswith("tfds") else None


def batches(recipe: Recipe) -> int:
    """Rollout batches that the data offers."""
    return train_batches(recipe) * recipe.data.num_epochs
