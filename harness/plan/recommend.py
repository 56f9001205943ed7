"""Recommend the fastest setting that fits a chip, and report what it changes."""

import dataclasses
from collections.abc import Callable, Collection, Hashable
from typing import Any

from harness import programs
from harness import recipe as recipe_lib
from harness.artifacts import plan as artifact
from harness.plan import bounds, changes, options, planning, roofline, search
from harness.plan.planner import MARGIN, Planner
from harness.plan.settings import COMFORT, Recommender

# What was looked at, by program, sequences and all else that determines a program.
_LookedAt = dict[tuple[str, int, Hashable], dict[str, Any]]


def make(
    planner: Planner,
    *,
    allow: Collection[str] = (),
    certain: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Make the plan of what is recommended.

    Args:
      planner: The recipe as it is, and the compiler.
      allow: As for `recommend`.
      certain: As for `recommend`.
      progress: As for `recommend`.

    Returns:
      A plan as from `planning.make`, of the recommended recipe, with what
      `recommend` returns as its `recommendation`; without programs and phases
      if nothing fits.
    """
    found = recommend(planner, allow=allow, certain=certain, progress=progress)
    if found["recipe"] is None:
        tree = {
            **planning.header(planner, planner.recipe),
            "resident": [],
            "programs": [],
            "phases": [],
            "largest_micro_batches": [],
            "roofline": bounds.bounds(planner.recipe, planner.slice, planner.fixes),
            "recommendation": found,
            "host": {"peak_bytes_of_a_compiler": planner.compiler.host_bytes},
            "fits": False,
        }
        return artifact.Plan.model_validate(tree).to_json()
    chosen = Planner(
        recipe_lib.from_dict(found["recipe"]),
        planner.mode,
        planner.compiler,
        fixes=planner.selection,
    )
    tree = {**planning.make(chosen), "recommendation": found}
    return artifact.Plan.model_validate(tree).to_json()


@dataclasses.dataclass(frozen=True)
class _Compared:
    """Options, each with the recipe that it is of, None where there is none to run."""

    options: list[dict[str, Any]]
    recipes: list[recipe_lib.Recipe | None]
    looked_at: _LookedAt


def recommend(
    planner: Planner,
    *,
    allow: Collection[str] = (),
    certain: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Recommend settings.

    Args:
      planner: The recipe as it is, and the compiler.
      allow: Names in `changes.NAMES`, or `all`.
      certain: As for `Recommender`.
      progress: As for `Recommender`.

    Returns:
      Plain JSON values: `searched`; `margin`, `comfort` (shares of the memory
      left free at least, and if it can be had); `rows`, the reference first,
      then what was searched, then what would have to be allowed, each an option
      of `harness.plan.options`; `recommended`, the index of the row, None if
      nothing fits; `assignments`; `seconds_per_global_step` of reference and
      recommendation; `looked_at`; `stop_tokens`; `recipe`.

    Raises:
      HarnessError: `allow` names something unknown.
    """
    changes.check(allow)
    own = planner.recipe
    compared = _compare(Recommender(planner, certain=certain, progress=progress), allow)
    rows = compared.options
    able = [index for index, row in enumerate(rows) if index and row["searched"] and row["fits"]]
    best = min(able, key=lambda index: rows[index]["seconds_per_global_step"], default=None)
    chosen = compared.recipes[best] if best is not None else None
    return {
        "searched": True,
        "margin": MARGIN,
        "comfort": COMFORT,
        "allowed": sorted(allow),
        "rows": rows,
        "recommended": best,
        "assignments": changes.assignments(own, chosen) if chosen else [],
        "settings": _settings(own, chosen),
        "seconds_per_global_step": {
            "reference": rows[0]["seconds_per_global_step"],
            "recommended": rows[best]["seconds_per_global_step"] if best is not None else None,
        },
        "changes_the_algorithm": rows[best]["effects"] if best is not None else [],
        "looked_at": list(compared.looked_at.values()),
        "stop_tokens": _stop_tokens(planner, chosen or own),
        "recipe": recipe_lib.to_dict(chosen) if chosen else None,
    }


def _compare(recommender: Recommender, allow: Collection[str]) -> _Compared:
    """Search every combination of changes that is allowed."""
    planner = recommender.planner
    found = _Compared([], [], {})
    for combination in changes.combinations(planner.recipe):
        changed = changes.apply(planner.recipe, combination)
        if changes.allowed(changes.STOP_TOKENS, allow):
            changed = changes.with_stop_tokens(changed)
        if not all(changes.allowed(each.name, allow) for each in combination):
            if len(combination) == 1:
                found.options.append(options.not_searched(recommender, combination, changed))
                found.recipes.append(None)
            continue
        best = recommender.best_of(changed)
        found.options.append(options.searched(recommender, combination, changed, best))
        setting = best.chosen and best.chosen.candidate.subject
        found.recipes.append(setting.recipe if setting else None)
        _look(found.looked_at, best, planner.slice.count > 1)
    # Last, so that an interrupted search has what matters most.
    found.options.insert(0, options.reference(recommender))
    found.recipes.insert(0, planner.recipe)
    return found


def _settings(own: recipe_lib.Recipe, chosen: recipe_lib.Recipe | None) -> list[dict[str, Any]]:
    return [
        {
            "setting": f"batching.{field}",
            "reference": getattr(own.batching, field),
            "recommended": getattr(chosen.batching, field) if chosen else None,
        }
        for field in (
            "train_micro_batch_size",
            "rollout_micro_batch_size",
            "compute_logps_micro_batch_size",
        )
    ]


def _look(looked_at: _LookedAt, found: search.Found, several: bool) -> None:
    """Add what a search compiled, and what it only read off a line."""
    for question, answer in found.asked:
        peak = answer.peak_bytes
        looked_at[_key(question)] = {
            **_program(question, several),
            "source": "compiled",
            "accepted": answer.accepted,
            "peak_bytes": None if peak is None else peak + question.beside_bytes,
        }
    for judged in found.judged:
        if judged.source != "line":
            continue
        question = next(q for q in judged.candidate.questions if q.program == judged.program)
        looked_at.setdefault(
            _key(question),
            {
                **_program(question, several),
                "source": "line",
                "accepted": None,
                "peak_bytes": judged.peak_bytes,
            },
        )


def _key(question: search.Question) -> tuple[str, int, Hashable]:
    return question.program, question.sequences, question.family


def _program(question: search.Question, several: bool) -> dict[str, Any]:
    recipe: recipe_lib.Recipe = question.subject
    trains = question.program in programs.TRAIN
    return {
        "program": question.program,
        "sequences": question.sequences,
        "remat": recipe.model.remat if trains else None,
        "dtype": roofline.dtype_of(recipe, question.program),
        "mesh": [recipe.sharding.fsdp, recipe.sharding.tp] if several else None,
    }


def _stop_tokens(planner: Planner, recipe: recipe_lib.Recipe) -> dict[str, Any]:
    """Return what completions that end with the model's turn would save."""
    return {
        "allow": changes.STOP_TOKENS,
        "stops": changes.stops_at_end_of_turn(recipe),
        "assignments": changes.assignments(recipe, changes.with_stop_tokens(recipe)),
        "effect": options.STOP_EFFECT,
        "seconds_saved_per_token_less": bounds.seconds_per_token_less(
            recipe, planner.slice, planner.fixes
        ),
    }
