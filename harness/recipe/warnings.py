"""What a recipe does that a reader of its numbers may not expect."""

import dataclasses

from harness.recipe import rounding, schedule
from harness.recipe.schema import Recipe
from harness.recipe.task import Reward


@dataclasses.dataclass(frozen=True)
class RecipeWarning:
    """Something that a reader of the numbers would not expect.

    Attributes:
      id: Short name.
      text: What happens, and the assignment that changes it, if there is one.
    """

    id: str
    text: str


def warnings(recipe: Recipe, *, overshoots: bool = True) -> tuple[RecipeWarning, ...]:
    """Return what a reader would not expect, each with the assignment that changes it.

    Args:
      recipe: The recipe.
      overshoots: As for `summary.summarize`.
    """
    batching, rollout, ppo = recipe.batching, recipe.rollout, recipe.ppo
    batches, steps, limit = (
        schedule.batches(recipe),
        schedule.global_steps(recipe),
        schedule.max_steps(recipe),
    )
    per_batch = schedule.optimizer_steps_per_batch(recipe)
    last = schedule.optimizer_steps(recipe, overshoots=overshoots)
    mini_batches = batching.rollout_batch_size // batching.mini_batch_size
    available = schedule.problems(recipe, "train")
    seen = schedule.problems_seen(recipe)
    groups = schedule.whitening_groups(batching)
    own_reward = recipe.reward.function != Reward().function
    by_reference = recipe.evaluation.rule == "reference"
    found: list[tuple[bool, str, str]] = [
        (
            steps < batches,
            "stops-early",
            f"Training stops after {steps} of {batches} batches: max_steps is {limit}, and "
            f"{mini_batches} mini-batch(es) times {ppo.num_epochs} PPO epoch(s) make {per_batch} "
            "optimizer steps per batch. optimizers.max_steps=all uses every batch.",
        ),
        (
            last > limit,
            "overshoots",
            f"Training makes {last} optimizer steps where {limit} are asked: the limit is looked "
            f"at only after a whole batch of {per_batch}.",
        ),
        (
            limit not in schedule.checkpoint_steps(recipe, overshoots=overshoots),
            "no-checkpoint-at-max-steps",
            f"No checkpoint of step {limit} (max_steps) will exist; the last is of step {last}.",
        ),
        (
            schedule.learning_rate(recipe, 1.0, 0) == 0.0,
            "first-step-does-nothing",
            "The first optimizer step has learning rate 0: the warm-up begins there.",
        ),
        (
            "<end_of_turn>" not in rollout.stop_tokens,
            "no-end-of-turn",
            "Completions do not stop at <end_of_turn>, where an instruction-tuned Gemma ends its "
            f"turn: each runs on to {rollout.max_new_tokens} tokens, and so does the loop that "
            "samples them, which ends when all have. "
            'rollout.stop_tokens=["<eos>", "<end_of_turn>"] stops them.',
        ),
        (
            min(groups) < batching.rollout_batch_size,
            "whitening-group",
            f"Stock, advantages are whitened over {min(groups)} sequences, not over the batch "
            f"of {batching.rollout_batch_size}: the micro-batch sizes change the algorithm. "
            "Setting "
            "batching.rollout_micro_batch_size or batching.compute_logps_micro_batch_size to the "
            "mini-batch whitens over the mini-batch.",
        ),
        (
            mini_batches > 1,
            "mini-batches-are-on-policy",
            f"Stock, each mini-batch is sampled after the update from the one before: this is "
            f"{mini_batches} on-policy batches of {batching.mini_batch_size}, not {mini_batches} "
            f"updates from one batch of {batching.rollout_batch_size}.",
        ),
        (
            batching.train_micro_batch_size < batching.mini_batch_size,
            "micro-batch-changes-gradient",
            "Stock, the policy loss is a token mean in each micro-batch of "
            f"{batching.train_micro_batch_size}, then a mean over micro-batches: with "
            "completions of unequal length the gradient depends on "
            "batching.train_micro_batch_size.",
        ),
        (
            rollout.temperature != 1.0,
            "temperature-off-policy",
            f"Stock, completions are sampled at temperature {rollout.temperature:g}, but old "
            "and new log-probs are computed at 1: the ratio is not of the policy that sampled.",
        ),
        (
            rollout.top_k is not None or rollout.top_p < 1.0,
            "truncated-sampling",
            "Completions are sampled from the likeliest tokens only, but log-probs are over the "
            "whole vocabulary.",
        ),
        (
            available is not None and seen < available,
            "few-problems",
            f"Training sees {seen:,} of {available or 0:,} problems.",
        ),
        (
            ppo.beta > 0 and rollout.temperature != 1.0,
            "kl-at-two-temperatures",
            "Stock, the KL penalty compares the reference at temperature "
            f"{rollout.temperature:g} with the policy at 1: it is not zero even where they are "
            "the same model.",
        ),
        (
            rollout.cache_size > rollout.max_prompt_length + rollout.max_new_tokens,
            "cache-too-large",
            f"The cache has {rollout.cache_size} positions where "
            f"{rollout.max_prompt_length + rollout.max_new_tokens} are used.",
        ),
        (
            by_reference and _rule(recipe.reward) != _rule(Reward()),
            "evaluation-by-another-rule",
            "Evaluation scores completions by the reference recipe's rule (evaluation.rule), not "
            "by the reward that is trained for.",
        ),
        (
            own_reward and not by_reference,
            "right-by-threshold",
            f"A completion counts as right where {recipe.reward.function} gives at least "
            f"reward.correct = {recipe.reward.correct:g}, as well-formed where it gives at least "
            f"reward.format = {recipe.reward.format:g}. evaluation.rule=reference takes the "
            "reference recipe's rule.",
        ),
    ]
    found += _rounding(recipe)
    return tuple(RecipeWarning(name, text) for holds, name, text in found if holds)


def _rule(reward: Reward) -> tuple[object, ...]:
    """The part of a reward by which completions are distinguished."""
    return (reward.function, reward.correct, reward.format, reward.clip_chars)


# Below it, what is lost is not worth a line.
_LEAST_SHARE = 0.01


def _rounding(recipe: Recipe) -> list[tuple[bool, str, str]]:
    """Return what dtypes make of what is trained: whether, id and text."""
    precision, config, rollout = recipe.precision, recipe.optimizers, recipe.rollout
    trained, moments = precision.trained_dtype, precision.moments_dtype
    # Kernels are drawn with variance 1 / inputs, LoRA's first factors with twice that.
    kernels, factors = recipe.model.embed_dim**-0.5, (2 / recipe.model.embed_dim) ** 0.5
    roles = [
        ("actor", config.actor_learning_rate, "LoRA's first factors", factors),
        ("critic", config.critic_learning_rate, "its weights", kernels)
        if recipe.critic.lora is None
        else ("critic", config.critic_learning_rate, "LoRA's first factors", factors),
    ]
    found = []
    for role, rate, what, deviation in roles:
        share = rounding.share_lost(rate, deviation, trained)
        text = (
            f"A step of AdamW is about the learning rate, at most {rate:g} for the {role}; about "
            f"{100 * share:.0f}% of {what} are so large that {trained} rounds it away, and do not "
            f"move (taken as normal with a standard deviation of {deviation:.2g}). "
        )
        remedy = "precision.trained=float32 holds such steps."
        if trained == "float32":
            remedy = f"Raise optimizers.{role}_learning_rate."
        found.append((share >= _LEAST_SHARE, f"{role}-updates-lost", text + remedy))
    slow = [name for name in ("b1", "b2") if not rounding.decays(getattr(config, name), moments)]
    accumulated = recipe.batching.mini_batch_size // recipe.batching.train_micro_batch_size
    sums = precision.accumulators_dtype
    return [
        *found,
        (
            bool(slow),
            "moments-do-not-decay",
            f"AdamW's moments are stored in {moments}, which rounds away what a step takes off "
            f"them at {' and '.join(f'{name} = {getattr(config, name):g}' for name in slow)}: one "
            "large gradient shortens all later steps. precision.moments=float32 lets it fade.",
        ),
        (
            sums == "bfloat16" and accumulated > 1,
            "sums-rounded",
            f"The sum of {accumulated} micro-batches' gradients is rounded to {sums}, 8 "
            "significant bits, after each. precision.accumulators=float32 holds it.",
        ),
        (
            rollout.dtype not in (None, recipe.model.dtype),
            "sampled-in-another-dtype",
            f"Completions are drawn from a {rollout.dtype} copy of the policy, and their log-probs "
            f"are those of the policy in {recipe.model.dtype}: the ratio's denominator is not "
            "quite the probability with which a token was drawn. rollout.dtype=none draws from "
            "the policy itself.",
        ),
    ]
