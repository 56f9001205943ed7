"""Sizes that fit with a margin and have the best bound, each by itself."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from harness import programs
from harness import recipe as recipe_lib
from harness.plan import bounds, shapes
from harness.plan.phases import beside_bytes
from harness.plan.planner import MARGIN, Planner

# Sizes whose bounds differ by less are alike.
_ALIKE = 0.01
# Other changes: a name, what is set, and what it changes.
_OTHER_CHANGES = (
    ("bfloat16", ("model.dtype=bfloat16",), "the numerics: weights, moments and sums in bfloat16"),
    (
        "rematerialisation of whole layers",
        ("model.remat=decoder",),
        "nothing but time: the forward pass is computed twice in a gradient",
    ),
    (
        "prompts of half the length",
        ("rollout.max_prompt_length={half}", "rollout.cache_size={cache}"),
        "which problems are asked: longer prompts are dropped or refused",
    ),
)


def recommend(
    planner: Planner, resident: Sequence[Mapping[str, Any]], sweep: bool
) -> dict[str, Any]:
    """Choose sizes that fit with a margin and have the best bound.

    Args:
      planner: The recipe and the compiler.
      resident: What lives on a chip.
      sweep: Whether to ask the compiler; if not, only the bounds of larger
        sizes are returned.

    Returns:
      Plain JSON values: `searched`, `margin`, `settings` (each with the
      reference's and the recommended size, and both bounds of a global step),
      `seconds_per_global_step` before and after, `changes_the_algorithm`, and
      `what_else`.
    """
    recipe = planner.recipe
    settings = [
        _setting(planner, resident, setting, members, sweep)
        for setting, members in programs.SIZED_BY.items()
    ]
    assignments = [
        f"{each['setting']}={each['recommended']}"
        for each in settings
        if each["recommended"] and each["recommended"] != each["reference"]
    ]
    better = recipe_lib.replace(recipe, *assignments) if assignments else recipe
    before, after = (
        bounds.step_seconds(one, planner.slice, planner.fixes) for one in (recipe, better)
    )
    return {
        "searched": sweep,
        "margin": MARGIN,
        "settings": settings,
        "assignments": assignments,
        "nothing_fits": [
            each["setting"] for each in settings if sweep and each["recommended"] is None
        ],
        "seconds_per_global_step": {
            "reference": before,
            "recommended": after if sweep else None,
        },
        "changes_the_algorithm": changes_of_sizes(planner.fixes),
        "what_else": _what_else(planner, better, sweep),
    }


def _setting(
    planner: Planner,
    resident: Sequence[Mapping[str, Any]],
    setting: str,
    members: Sequence[str],
    sweep: bool,
) -> dict[str, Any]:
    """Choose the size of one setting; see `recommend`."""
    recipe, most = planner.recipe, shapes.group(planner.recipe, planner.fixes)
    members = [member for member in members if member in shapes.of(recipe)]
    own = getattr(recipe.batching, setting)
    step = recipe.sharding.fsdp if setting == "train_micro_batch_size" else 1
    sizes = [
        size
        for size in range(step, most + 1, step)
        if recipe.batching.mini_batch_size % size == 0
        and recipe.batching.rollout_batch_size % size == 0
    ]
    times = {
        size: sum(bounds.program_seconds(recipe, member, size, planner.slice) for member in members)
        for size in {*sizes, min(own, most)}
    }
    fitting = _fitting(planner, resident, members, sizes) if sweep else {own}
    best = min((times[size] for size in fitting if size in times), default=math.inf)
    # Each call costs time that a bound does not see: of sizes alike, the largest.
    choice = max(
        (size for size in fitting if size in times and times[size] <= best * (1 + _ALIKE)),
        default=None,
    )
    return {
        "setting": f"batching.{setting}",
        "reference": own,
        "recommended": choice if sweep else None,
        "reference_seconds": times.get(own, times[min(own, most)]),
        "recommended_seconds": times[choice] if sweep and choice else None,
        "bounds": {str(size): times[size] for size in sorted(times)},
        "fit": sorted(fitting) if sweep else None,
    }


def _fitting(
    planner: Planner,
    resident: Sequence[Mapping[str, Any]],
    members: Sequence[str],
    sizes: Sequence[int],
) -> set[int]:
    """Return the sizes that fit beside the rest with the margin, by few questions."""
    room = planner.slice.chip.hbm_bytes * (1 - MARGIN)
    # Without that fix, values are computed for the whole group, whatever the setting.
    asked = [
        member
        for member in members
        if member != programs.Program.VALUES or "values-not-micro-batched" in planner.fixes
    ]

    def fits(size: int) -> bool:
        figures = {member: planner.ask(member, size).figures for member in asked}
        return all(
            each.refused is None
            and (each.peak_bytes or 0) + beside_bytes(member, resident, planner.recipe) <= room
            for member, each in figures.items()
        )

    # Smaller sizes fit where larger ones do.
    low, high = 0, len(sizes)
    guess = high - 1
    while low < high:
        if fits(sizes[guess]):
            low = guess + 1
        else:
            high = guess
        guess = (low + high) // 2
    return set(sizes[:low])


def changes_of_sizes(fixes: Collection[str]) -> list[str]:
    """Return what micro-batch sizes change beside speed and memory.

    Args:
      fixes: Ids of the fixes of Tunix.
    """
    found = []
    if "whitening-group" not in fixes:
        found.append(
            "rollout_micro_batch_size and compute_logps_micro_batch_size: advantages are whitened "
            "over groups of their least common multiple"
        )
    if "micro-batch-token-mean" not in fixes:
        found.append(
            "train_micro_batch_size: the loss is a token mean of each micro-batch, so the gradient "
            "depends on it where completions differ in length"
        )
    return found


def _what_else(planner: Planner, better: recipe_lib.Recipe, sweep: bool) -> list[dict[str, Any]]:
    """Return what other changes would gain: bounds, and with a sweep the critic step's HBM."""
    half = better.rollout.max_prompt_length // 2
    rest = better.rollout.cache_size - better.rollout.max_prompt_length
    before = bounds.step_seconds(better, planner.slice, planner.fixes)
    found = []
    for name, templates, changes in _OTHER_CHANGES:
        assignments = [template.format(half=half, cache=rest + half) for template in templates]
        other = recipe_lib.replace(better, *assignments)
        if other == better:
            continue
        seconds = bounds.step_seconds(other, planner.slice, planner.fixes)
        entry = _change(name, assignments, changes, seconds, before)
        if sweep:
            for key, one in (("critic_step_bytes", other), ("from_critic_step_bytes", better)):
                entry[key] = _critic_step_bytes(planner, better, one)
        found.append(entry)
    if "<end_of_turn>" not in better.rollout.stop_tokens:
        entry = _change(
            "stopping where the model ends its turn",
            ['rollout.stop_tokens=["<eos>", "<end_of_turn>"]'],
            "what is trained on: completions end with the turn",
            None,
            before,
        )
        saved = bounds.seconds_per_token_less(better, planner.slice, planner.fixes)
        found.append({**entry, "seconds_saved_per_token_less": saved})
    return found


def _change(
    name: str, assignments: list[str], changes: str, seconds: float | None, before: float
) -> dict[str, Any]:
    return {
        "change": name,
        "assignments": assignments,
        "changes": changes,
        "seconds_per_global_step": seconds,
        "from_seconds_per_global_step": before,
        "critic_step_bytes": None,
        "from_critic_step_bytes": None,
    }


def _critic_step_bytes(
    planner: Planner, sized: recipe_lib.Recipe, recipe: recipe_lib.Recipe
) -> int | None:
    sequences = shapes.sequences(sized, "critic_step", planner.fixes)
    return planner.ask("critic_step", sequences, recipe).figures.peak_bytes
