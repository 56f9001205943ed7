"""What a recipe will do, by arithmetic alone, and what in it will surprise.

Nothing is built or run. The figures follow the loop of Tunix 0.1.7, or the one
before it where told so, and the tests hold them against what a real run then did.
"""

import dataclasses
import math
from typing import Any

from harness import recipe as recipe_lib
from harness import rounding

GSM8K_PROBLEMS = {"train": 7473, "test": 1319}
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Surprise:
    """Something that a reader of the numbers would not expect.

    Attributes:
      id: Short name.
      text: What happens, and the assignment that changes it, if there is one.
    """

    id: str
    text: str


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
class Account:
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
      checkpoints_kept: Those still there at the end.
      actor_learning_rate: The actor's rates.
      critic_learning_rate: The critic's rates.
      prompt_tokens: Prompt positions, padding included, over all rollouts.
      completion_tokens_max: Tokens sampled over all rollouts, at most.
      trained_tokens_max: Completion tokens trained on over all epochs, at most.
      cache_positions_needed: Positions of the longest sequence.
      cache_bytes: Bytes of the key-value cache while one micro-batch is sampled.
      surprises: What will surprise.
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
    checkpoints_kept: tuple[int, ...]
    actor_learning_rate: LearningRates
    critic_learning_rate: LearningRates
    prompt_tokens: int
    completion_tokens_max: int
    trained_tokens_max: int
    cache_positions_needed: int
    cache_bytes: int
    surprises: tuple[Surprise, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the account as plain JSON values."""
        tree = dataclasses.asdict(self)
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in tree.items()
        }


def optimizer_steps_per_batch(recipe: recipe_lib.Recipe) -> int:
    """Optimizer steps of each model in one global step: mini-batches times epochs."""
    return (
        recipe.batching.rollout_batch_size
        // recipe.batching.mini_batch_size
        * recipe.ppo.num_epochs
    )


def max_steps(recipe: recipe_lib.Recipe) -> int:
    """The optimizer step at which training is asked to stop.

    `reference` follows the reference recipe: batches times mini-batches per
    batch, with no factor for the PPO epochs. `all` has that factor.
    """
    asked = recipe.optimizers.max_steps
    if isinstance(asked, int):
        return asked
    if asked == "all":
        return _batches(recipe) * optimizer_steps_per_batch(recipe)
    data, batching = recipe.data, recipe.batching
    problems = (
        data.num_batches * data.train_fraction * data.num_epochs * batching.rollout_batch_size
    )
    return max(1, int(problems // batching.mini_batch_size))


def global_steps(recipe: recipe_lib.Recipe) -> int:
    """Rollout batches used; `max_steps` is looked at only after a whole one."""
    needed = math.ceil(max_steps(recipe) / optimizer_steps_per_batch(recipe))
    return min(_batches(recipe), needed)


def whitening_groups(batching: recipe_lib.Batching) -> tuple[int, ...]:
    """Sequences over which advantages are whitened, group by group of a mini-batch.

    Tunix gathers training micro-batches until they reach the least common
    multiple of the rollout and log-prob micro-batches, and computes
    advantages over what it gathered; the end of a mini-batch closes a group.
    """
    target = math.lcm(batching.rollout_micro_batch_size, batching.compute_logps_micro_batch_size)
    group = math.ceil(target / batching.train_micro_batch_size) * batching.train_micro_batch_size
    whole, rest = divmod(batching.mini_batch_size, group)
    return (group,) * whole + ((rest,) if rest else ())


def learning_rate(recipe: recipe_lib.Recipe, peak: float, step: int) -> float:
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


def optimizer_steps(recipe: recipe_lib.Recipe, *, overshoots: bool = True) -> int:
    """Optimizer steps that are made; without overshooting, `max_steps` at most.

    `overshoots` is as for `account`.
    """
    steps = global_steps(recipe) * optimizer_steps_per_batch(recipe)
    return steps if overshoots else min(steps, max_steps(recipe))


def checkpoint_steps(recipe: recipe_lib.Recipe, *, overshoots: bool = True) -> tuple[int, ...]:
    """Optimizer steps that are saved: the first, every interval, and the last.

    Each at the end of its batch: from within one nothing can be gone on from.
    With stock Tunix a checkpoint is made at the very step that falls due.
    """
    batch, last = optimizer_steps_per_batch(recipe), optimizer_steps(recipe, overshoots=overshoots)
    interval = recipe.checkpoints.save_interval_steps
    due = {1, *range(interval, last + 1, interval), last}
    return tuple(sorted({min(math.ceil(step / batch) * batch, last) for step in due}))


def account(
    recipe: recipe_lib.Recipe, *, overshoots: bool = True, one_policy: bool = True
) -> Account:
    """Work out what a recipe will do.

    Args:
      recipe: The recipe.
      overshoots: Whether `max_steps` is looked at only when a whole batch is
        done, as by Tunix 0.1.7, and not within one.
      one_policy: Whether a batch is sampled at once, and not each mini-batch after the updates
        on the one before, as by Tunix itself.

    Returns:
      The account.
    """
    batching, rollout, model = recipe.batching, recipe.rollout, recipe.model
    steps = global_steps(recipe)
    updates = optimizer_steps(recipe, overshoots=overshoots)
    rollouts = steps * batching.rollout_batch_size
    groups = whitening_groups(batching)
    calls = batching.rollout_batch_size // batching.rollout_micro_batch_size
    if not one_policy:
        per_mini_batch = sum(
            math.ceil(group / batching.rollout_micro_batch_size) for group in groups
        )
        calls = batching.rollout_batch_size // batching.mini_batch_size * per_mini_batch
    available, tested = _problems(recipe, "train"), _problems(recipe, "test")
    asked = recipe.data.num_test_batches * batching.rollout_batch_size
    saved = checkpoint_steps(recipe, overshoots=overshoots)
    return Account(
        problems_available=available,
        problems_used=_problems_seen(recipe),
        test_problems=asked if tested is None else min(asked, tested),
        batches=_batches(recipe),
        global_steps=steps,
        rollouts=rollouts,
        generations=steps * calls,
        whitening_groups=groups,
        gradient_accumulation=batching.mini_batch_size // batching.train_micro_batch_size,
        optimizer_steps_per_batch=optimizer_steps_per_batch(recipe),
        max_steps=max_steps(recipe),
        optimizer_steps=updates,
        checkpoint_steps=saved,
        checkpoints_kept=saved[-recipe.checkpoints.max_to_keep :],
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
        surprises=_surprises(recipe, overshoots),
    )


def _problems_seen(recipe: recipe_lib.Recipe) -> int:
    return (
        min(recipe_lib.train_batches(recipe), global_steps(recipe))
        * recipe.batching.rollout_batch_size
    )


def _problems(recipe: recipe_lib.Recipe, split: str) -> int | None:
    if recipe.data.source == "arithmetic":
        config = recipe.data.arithmetic
        return config.train_problems if split == "train" else config.test_problems
    return GSM8K_PROBLEMS[split] if recipe.data.source.startswith("tfds") else None


def _batches(recipe: recipe_lib.Recipe) -> int:
    return recipe_lib.train_batches(recipe) * recipe.data.num_epochs


def _rates(recipe: recipe_lib.Recipe, peak: float, steps: int) -> LearningRates:
    rates = [learning_rate(recipe, peak, step) for step in range(steps)]
    return LearningRates(first=rates[0], peak=max(rates), last=rates[-1])


def _rule(reward: recipe_lib.Reward) -> tuple[object, ...]:
    """The part of a reward by which completions are told apart."""
    return (reward.function, reward.correct, reward.format, reward.clip_chars)


def _surprises(recipe: recipe_lib.Recipe, overshoots: bool) -> tuple[Surprise, ...]:
    batching, rollout, ppo = recipe.batching, recipe.rollout, recipe.ppo
    batches, steps, limit = _batches(recipe), global_steps(recipe), max_steps(recipe)
    per_batch = optimizer_steps_per_batch(recipe)
    last = optimizer_steps(recipe, overshoots=overshoots)
    mini_batches = batching.rollout_batch_size // batching.mini_batch_size
    available = _problems(recipe, "train")
    seen = _problems_seen(recipe)
    groups = whitening_groups(batching)
    own_reward = recipe.reward.function != recipe_lib.Reward().function
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
            limit not in checkpoint_steps(recipe, overshoots=overshoots),
            "no-checkpoint-at-max-steps",
            f"No checkpoint of step {limit} (max_steps) will exist; the last is of step {last}.",
        ),
        (
            learning_rate(recipe, 1.0, 0) == 0.0,
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
            by_reference and _rule(recipe.reward) != _rule(recipe_lib.Reward()),
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
    return tuple(Surprise(name, text) for holds, name, text in found if holds)


# Below it, what is lost is not worth a line.
_LEAST_SHARE = 0.01


def _rounding(recipe: recipe_lib.Recipe) -> list[tuple[bool, str, str]]:
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
