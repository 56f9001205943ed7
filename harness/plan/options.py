"""What a recommendation compares: the reference, what was searched, what is not allowed.

Each option is a dictionary of plain JSON values: `title`, `assignments`,
`effects`, `allow`, `searched`, `fits`, `seconds_per_global_step`, `phases`,
`least_headroom_bytes`, `short_bytes` and `nearest`.
"""

from collections.abc import Sequence
from typing import Any

from harness import recipe as recipe_lib
from harness.plan import bounds, changes, search
from harness.plan.phases import Phase
from harness.plan.planner import MARGIN, Planner
from harness.plan.settings import Recommender

STOP_EFFECT = (
    f"{changes.END_OF_TURN} ends a completion too: what is sampled and trained on is the model's "
    "turn alone"
)


def reference(recommender: Recommender) -> dict[str, Any]:
    """Return the recipe as it is, judged against the whole of the chip's memory."""
    planner = recommender.planner
    own, limit = planner.recipe, planner.slice.chip.hbm_bytes
    option = _option(f"{own.name} as it is", own, planner, ())
    if own.sharding.fsdp * own.sharding.tp != planner.slice.count:
        # As it is it lies on other chips; its bound here is still a comparison.
        return option
    judged = recommender.judge(own)
    option = {**option, "searched": True, "fits": judged.fits, **_shortage(judged, limit)}
    if judged.fits:
        setting = recommender.candidate(own).subject
        return _with_peaks(option, recommender.peaks(setting), limit)
    return option


def searched(
    recommender: Recommender,
    combination: Sequence[changes.Change],
    changed: recipe_lib.Recipe,
    found: search.Found,
) -> dict[str, Any]:
    """Return what a search found.

    Args:
      recommender: It searched.
      combination: The changes that were made before.
      changed: The recipe with them.
      found: The end of the search.
    """
    planner = recommender.planner
    effects = _effects(combination)
    if changed.rollout.stop_tokens != planner.recipe.rollout.stop_tokens:
        effects.append(STOP_EFFECT)
    title = _title(combination)
    if found.chosen is None:
        assert found.nearest is not None
        option = _option(title, changed, planner, effects)
        # By the room that is left free, not by the whole chip.
        option |= {"searched": True, "fits": False, **_shortage(found.nearest, found.room_bytes)}
        option["seconds_per_global_step"] = None
    else:
        setting = found.chosen.candidate.subject
        option = _option(title, setting.recipe, planner, effects)
        option = _with_peaks(option, recommender.peaks(setting), planner.slice.chip.hbm_bytes)
        option |= {"searched": True, "fits": True}
    option["allow"] = [each.name for each in combination]
    return option


def not_searched(
    recommender: Recommender, combination: Sequence[changes.Change], changed: recipe_lib.Recipe
) -> dict[str, Any]:
    """Return the bound of the largest sizes, and whether what lives on the chip leaves any room.

    Args:
      recommender: It would search.
      combination: Changes that are not allowed.
      changed: The recipe with them.
    """
    planner = recommender.planner
    least = min(
        recommender.settings(changed),
        key=lambda each: bounds.step_seconds(each, planner.slice, planner.fixes),
    )
    limit = int(planner.slice.chip.hbm_bytes * (1 - MARGIN))
    able = recommender.candidate(least).state_bytes <= limit
    option = _option(_title(combination), least, planner, _effects(combination))
    allow = [each.name for each in combination]
    return option | {"allow": allow, "fits": None if able else False}


def _option(
    title: str, recipe: recipe_lib.Recipe, planner: Planner, effects: Sequence[str]
) -> dict[str, Any]:
    found = bounds.bounds(recipe, planner.slice, planner.fixes)
    return {
        "title": title,
        "assignments": changes.assignments(planner.recipe, recipe),
        "effects": list(effects),
        "allow": [],
        "searched": False,
        "fits": None,
        "seconds_per_global_step": found["seconds_per_global_step"],
        "phases": [
            {"name": each["name"], "seconds": each["seconds"], "peak_bytes": None}
            for each in found["phases"]
        ],
        "least_headroom_bytes": None,
        "short_bytes": None,
        "nearest": None,
    }


def _with_peaks(option: dict[str, Any], phases: Sequence[Phase], limit: int) -> dict[str, Any]:
    peaks = {phase.name: phase.peak_bytes for phase in phases}
    known = [peak for peak in peaks.values() if peak is not None]
    return {
        **option,
        "phases": [{**each, "peak_bytes": peaks.get(each["name"])} for each in option["phases"]],
        "least_headroom_bytes": limit - max(known) if len(known) == len(peaks) else None,
    }


def _shortage(judged: search.Judgement, limit: int) -> dict[str, Any]:
    if judged.fits:
        return {"short_bytes": None, "nearest": None}
    short = None if judged.peak_bytes is None else judged.peak_bytes - limit
    return {
        "short_bytes": short,
        "nearest": {
            "setting": judged.candidate.name,
            "program": judged.program,
            "peak_bytes": judged.peak_bytes,
            "source": judged.source,
        },
    }


def _effects(combination: Sequence[changes.Change]) -> list[str]:
    return [f"{each.title}: {each.effect}" for each in combination]


def _title(combination: Sequence[changes.Change]) -> str:
    if not combination:
        return "recommended, same algorithm"
    return "+ " + ", ".join(each.title for each in combination)
