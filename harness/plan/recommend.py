"""Recommend the fastest setting that fits a chip, and say what it changes.

The sizes of all micro-batches, rematerialisation and, on a slice, the mesh are
searched together (`harness.plan.search`), since what one of them takes another
cannot have. A setting's worth is the lower bound of a global step; whether it
fits, with what else lives on the chip, is the compiler's word.
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any

from harness import errors
from harness import recipe as recipe_lib
from harness.artifacts import plan as artifact
from harness.plan import changes, chips, estimate, planning, roofline, search, shapes, store

GIB = 2**30
# Left free where it can be had: 2.5 GiB of a v6e's 31.25.
COMFORT = 0.08
_REMATS = (None, "light", "block", "decoder")
# The likeliest not to fit first: then the rest is not asked about.
_ORDER = (
    *("critic_step", "actor_step", "decode", "prefill", "logps", "reference_logps", "values"),
)
_TRAINS = ("actor_step", "critic_step")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is searched.

    Attributes:
      recipe: The recipe with it.
      resident: What lives on a chip, as `resident.describe` gives it.
    """

    recipe: recipe_lib.Recipe
    resident: Sequence[dict[str, Any]]


def sizes(largest: int, step: int, recipe: recipe_lib.Recipe, whole: int) -> list[int]:
    """Return the sizes of a micro-batch that divide what it is cut from.

    Args:
      largest: The most sequences that a call can have.
      step: A multiple of it, where chips share the sequences.
      recipe: Its batch.
      whole: What is cut.

    Returns:
      Sizes, ascending.
    """
    return [
        size
        for size in range(step, largest + 1, step)
        if whole % size == 0 and recipe.batching.batch % size == 0
    ]


def meshes(recipe: recipe_lib.Recipe, place: chips.Slice) -> list[tuple[int, int]]:
    """Return the meshes of a slice over which every array divides, as fsdp and tp.

    Args:
      recipe: Shapes.
      place: The chips.

    Returns:
      Meshes; on one chip the only one there is.
    """
    found = []
    for tp in range(1, place.count + 1):
        fsdp, rest = divmod(place.count, tp)
        if rest:
            continue
        try:
            recipe_lib.replace(
                recipe,
                f"sharding.fsdp={fsdp}",
                f"sharding.tp={tp}",
                # The largest there is: whether any size divides is the question.
                f"batching.train_micro_batch={recipe.batching.mini_batch}",
            )
        except errors.HarnessError:
            continue
        found.append((fsdp, tp))
    return found


def exchanged_bytes(recipe: recipe_lib.Recipe, mends: Collection[str]) -> float:
    """Estimate what a chip receives from others in a global step, to order meshes by.

    Weights that are split over `fsdp` are gathered for each pass; activations
    are summed over `tp` after attention and after the feed-forward layer.

    Args:
      recipe: Shapes, sizes and mesh.
      mends: Ids of the fixes of Tunix.

    Returns:
      Bytes, 0 on one chip.
    """
    model, mesh, rollout = recipe.model, recipe.sharding, recipe.rollout
    item = roofline.BYTES[model.dtype]
    weights = model.num_layers * roofline.layer_weights(model) + model.vocab_size * model.embed_dim
    gathered = (mesh.fsdp - 1) / mesh.fsdp * weights / mesh.tp * item
    passes = 0.0
    for program in shapes.of(recipe):
        calls = roofline.calls(recipe, program, shapes.rows(recipe, program, mends))
        passes += calls * {"decode": max(1, rollout.max_new_tokens - 1)}.get(
            program, 3 if program in _TRAINS else 1
        )
    summed = 2 * model.num_layers * 2 * (mesh.tp - 1) / mesh.tp * model.embed_dim * item
    tokens = sum(
        roofline.tokens(recipe, program) * (2 if program in _TRAINS else 1)
        for program in shapes.of(recipe)
    )
    return passes * gathered + summed * tokens / mesh.fsdp


class Recommender:
    """Searches the settings of one recipe on one slice."""

    def __init__(
        self,
        planner: planning.Planner,
        *,
        certain: bool = False,
        progress: Callable[[str], None] = lambda text: None,
    ):
        """Prepare; nothing is compiled yet.

        Args:
          planner: The recipe as it is, and the compiler.
          certain: Whether to compile settings, too, that a line predicts not to
            fit.
          progress: Called with a line for each thing that is found out.
        """
        self.planner = planner
        self._certain = certain
        self._progress = progress
        self._residents: dict[Any, Sequence[dict[str, Any]]] = {}

    def best_of(self, recipe: recipe_lib.Recipe) -> search.Found:
        """Search the settings that leave the algorithm of a recipe as it is.

        Args:
          recipe: The planner's, or that with changes made.

        Returns:
          What was found; the subjects of candidates are `Setting`s.
        """
        limit = self.planner.place.chip.hbm_bytes
        rooms = [int(limit * (1 - free)) for free in (COMFORT, planning.MARGIN)]
        return search.find(
            list(self.candidates(recipe)),
            self._ask,
            rooms=rooms,
            certain=self._certain,
            progress=self._report,
        )

    def candidates(self, recipe: recipe_lib.Recipe) -> Iterable[search.Candidate]:
        """Make a candidate of each setting."""
        return map(self.candidate, self.settings(recipe))

    def settings(self, recipe: recipe_lib.Recipe) -> Iterable[recipe_lib.Recipe]:
        """Yield the recipe in every setting that is searched."""
        batching, group = recipe.batching, shapes.group(recipe, self.planner.mends)
        for fsdp, tp in meshes(recipe, self.planner.place):
            mesh = dataclasses.replace(recipe.sharding, fsdp=fsdp, tp=tp)
            train = sizes(batching.mini_batch, fsdp, recipe, batching.mini_batch)
            called = sizes(group, fsdp, recipe, batching.batch)
            for micro, remat, rollout, logps in itertools.product(train, _REMATS, called, called):
                yield dataclasses.replace(
                    recipe,
                    sharding=mesh,
                    model=dataclasses.replace(recipe.model, remat=remat),
                    batching=dataclasses.replace(
                        batching,
                        train_micro_batch=micro,
                        rollout_micro_batch=rollout,
                        logps_micro_batch=logps,
                    ),
                )

    def candidate(self, recipe: recipe_lib.Recipe) -> search.Candidate:
        """Make a candidate of a recipe as it is."""
        mends, place = self.planner.mends, self.planner.place
        resident = self._resident(recipe)
        programs = [name for name in _ORDER if name in shapes.of(recipe)]
        calls = sum(
            roofline.calls(recipe, name, shapes.rows(recipe, name, mends)) for name in programs
        )
        own = recipe.sharding == self.planner.recipe.sharding
        cost = (
            # A bound is no finer than this; among equal ones fewer calls are better,
            # since each costs time that a bound does not see.
            round(planning.step_seconds(recipe, place, mends), 4),
            round(exchanged_bytes(recipe, mends) / GIB, 1),
            float(calls),
            float(not own),
        )
        return search.Candidate(
            name=_describe(recipe, several=place.count > 1),
            cost=cost,
            state_bytes=state_bytes(resident),
            questions=tuple(self._questions(programs, recipe, resident)),
            subject=Setting(recipe, resident),
        )

    def peaks(self, setting: Setting) -> list[planning.Phase]:
        """Return each phase of a setting, compiled."""
        questions = self._questions(shapes.of(setting.recipe), setting.recipe, setting.resident)
        rows = [self._row(question) for question in questions]
        limit = self.planner.place.chip.hbm_bytes
        return planning.phases(rows, setting.resident, limit, setting.recipe)

    def judge(self, recipe: recipe_lib.Recipe) -> search.Judgement:
        """Judge one recipe as it is, against the whole of the chip's memory."""
        limit = self.planner.place.chip.hbm_bytes
        found = search.find([self.candidate(recipe)], self._ask, rooms=[limit])
        return found.judged[0]

    def _questions(
        self,
        names: Sequence[str],
        recipe: recipe_lib.Recipe,
        resident: Sequence[dict[str, Any]],
    ) -> list[search.Question]:
        found = []
        for name in names:
            given = planning.given(name, resident, recipe)
            found.append(
                search.Question(
                    program=name,
                    sequences=shapes.rows(recipe, name, self.planner.mends),
                    family=_family(recipe, trains=name in _TRAINS),
                    beside_bytes=planning.beside(name, resident, recipe),
                    argument_bytes=given,
                    guess_bytes=estimate.step_bytes(recipe, name, resident, given),
                    subject=recipe,
                )
            )
        return found

    def _ask(self, question: search.Question) -> search.Answer:
        figures = self._row(question).figures
        return search.Answer(figures.refused is None, figures.peak_bytes)

    def _row(self, question: search.Question) -> planning.Row:
        return self.planner.ask(question.program, question.sequences, question.subject)

    def _resident(self, recipe: recipe_lib.Recipe) -> Sequence[dict[str, Any]]:
        """List what lives on a chip; it does not depend on sizes, but for an accumulator."""
        batching = recipe.batching
        whole = batching.mini_batch // batching.train_micro_batch == 1
        key = (_family(recipe, trains=False), whole)
        if key not in self._residents:
            self._residents[key] = self.planner.resident(recipe)
        return self._residents[key]

    def _report(self, judged: search.Judgement) -> None:
        if judged.source == "compiled" and judged.program in _TRAINS and not judged.fits:
            return self._progress(f"does not fit: {judged.candidate.name} ({judged.program})")
        if judged.fits:
            return self._progress(f"fits: {judged.candidate.name}")
        return None


def state_bytes(resident: Sequence[dict[str, Any]]) -> int:
    """Return the bytes of what lives on a chip in every phase."""
    return sum(each["bytes"] for each in resident if not each["pinned"] and "phase" not in each)


def _family(recipe: recipe_lib.Recipe, *, trains: bool) -> Hashable:
    """Return all that determines a program but its size."""
    # Without a gradient nothing is repeated.
    model = recipe.model if trains else dataclasses.replace(recipe.model, remat=None)
    models = (model, recipe.lora, recipe.critic, recipe.precision)
    return (*models, recipe.sharding, recipe.rollout, recipe.ppo, recipe.optimizers)


def _describe(recipe: recipe_lib.Recipe, *, several: bool) -> str:
    batching, mesh = recipe.batching, recipe.sharding
    where = f"fsdp {mesh.fsdp} x tp {mesh.tp}, " if several else ""
    return (
        f"{where}train {batching.train_micro_batch}, remat {recipe.model.remat or 'none'}, "
        f"rollout {batching.rollout_micro_batch}, log-probs {batching.logps_micro_batch}"
    )


def make(
    planner: planning.Planner,
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
      A plan as `planning.make` gives it, of the recommended recipe, with what
      `recommend` returns as its `recommendation`; without programs and phases
      if nothing fits.
    """
    found = recommend(planner, allow=allow, certain=certain, progress=progress)
    if found["recipe"] is None:
        tree = {
            "schema": artifact.SCHEMA,
            "chip": planner.place.name,
            "chips": planner.place.count,
            "hbm_bytes": planner.place.chip.hbm_bytes,
            "upstream": planning.upstream_of(planner),
            "versions": store.versions(),
            "recipe": recipe_lib.to_dict(planner.recipe),
            "resident": [],
            "programs": [],
            "phases": [],
            "walls": [],
            "roofline": planning.bounds(planner.recipe, planner.place, planner.mends),
            "recommendation": found,
            "host": {"peak_bytes_of_a_compiler": planner.compiler.host_bytes},
            "fits": False,
        }
        return artifact.Plan.model_validate(tree).to_json()
    chosen = planning.Planner(recipe_lib.from_dict(found["recipe"]), planner.mode, planner.compiler)
    tree = {**planning.make(chosen), "recommendation": found}
    return artifact.Plan.model_validate(tree).to_json()


def recommend(
    planner: planning.Planner,
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
      then what was searched, then what would have to be allowed, each with
      `title`, `assignments`, `effects`, `searched`, `fits`,
      `seconds_per_global_step`, `phases`, `least_headroom_bytes`, `short_bytes`
      and `nearest`; `recommended`, the index of the row, None if nothing fits;
      `assignments`; `seconds_per_global_step` of reference and recommendation;
      `looked_at`; `stop_tokens`; `recipe`.

    Raises:
      HarnessError: `allow` names something unknown.
    """
    changes.check(allow)
    own = planner.recipe
    recommender = Recommender(planner, certain=certain, progress=progress)
    rows: list[dict[str, Any]] = []
    recipes: list[recipe_lib.Recipe | None] = []
    asked: dict[tuple[Any, ...], dict[str, Any]] = {}
    for combination in changes.combinations(own):
        changed = changes.apply(own, combination)
        if changes.allowed(changes.STOP_TOKENS, allow):
            changed = changes.with_stop_tokens(changed)
        if not all(changes.allowed(each.name, allow) for each in combination):
            if len(combination) == 1:
                rows.append(_not_searched(recommender, combination, changed))
                recipes.append(None)
            continue
        found = recommender.best_of(changed)
        rows.append(_searched(recommender, combination, changed, found))
        setting = found.chosen and found.chosen.candidate.subject
        recipes.append(setting.recipe if setting else None)
        _look(asked, found, planner.place.count > 1)
    # Last, so that an interrupted search has what matters most.
    rows.insert(0, _reference(recommender))
    recipes.insert(0, own)
    able = [index for index, row in enumerate(rows) if index and row["searched"] and row["fits"]]
    best = min(able, key=lambda index: rows[index]["seconds_per_global_step"], default=None)
    chosen = recipes[best] if best is not None else None
    return {
        "searched": True,
        "margin": planning.MARGIN,
        "comfort": COMFORT,
        "allowed": sorted(allow),
        "rows": rows,
        "recommended": best,
        "assignments": assignments(own, chosen) if chosen else [],
        "settings": _settings(own, chosen),
        "seconds_per_global_step": {
            "reference": rows[0]["seconds_per_global_step"],
            "recommended": rows[best]["seconds_per_global_step"] if best is not None else None,
        },
        "changes_the_algorithm": rows[best]["effects"] if best is not None else [],
        "looked_at": list(asked.values()),
        "stop_tokens": _stop_tokens(planner, chosen or own),
        "recipe": recipe_lib.to_dict(chosen) if chosen else None,
    }


def assignments(before: recipe_lib.Recipe, after: recipe_lib.Recipe) -> list[str]:
    """Return what makes one recipe of another, as `group.field=value`."""
    return _assignments(recipe_lib.to_dict(before), recipe_lib.to_dict(after), "")


def _assignments(old: dict[str, Any], new: dict[str, Any], above: str) -> list[str]:
    found = []
    for name, value in new.items():
        was, path = old.get(name), f"{above}{name}"
        if isinstance(value, dict):
            found += _assignments(was if isinstance(was, dict) else {}, value, f"{path}.")
        elif name not in old or value != was:
            found.append(f"{path}={_text(value)}")
    return found


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return "[" + ", ".join(f'"{each}"' for each in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _row(
    title: str,
    own: recipe_lib.Recipe,
    recipe: recipe_lib.Recipe,
    planner: planning.Planner,
    effects: Sequence[str],
) -> dict[str, Any]:
    bounds = planning.bounds(recipe, planner.place, planner.mends)
    return {
        "title": title,
        "assignments": assignments(own, recipe),
        "effects": list(effects),
        "allow": [],
        "searched": False,
        "fits": None,
        "seconds_per_global_step": bounds["seconds_per_global_step"],
        "phases": [
            {"name": each["name"], "seconds": each["seconds"], "peak_bytes": None}
            for each in bounds["phases"]
        ],
        "least_headroom_bytes": None,
        "short_bytes": None,
        "nearest": None,
    }


def _with_peaks(
    row: dict[str, Any], phases: Sequence[planning.Phase], limit: int
) -> dict[str, Any]:
    peaks = {phase.name: phase.peak_bytes for phase in phases}
    known = [peak for peak in peaks.values() if peak is not None]
    return {
        **row,
        "phases": [{**each, "peak_bytes": peaks.get(each["name"])} for each in row["phases"]],
        "least_headroom_bytes": limit - max(known) if len(known) == len(peaks) else None,
    }


def _reference(recommender: Recommender) -> dict[str, Any]:
    planner = recommender.planner
    own, limit = planner.recipe, planner.place.chip.hbm_bytes
    if own.sharding.fsdp * own.sharding.tp != planner.place.count:
        # As it is it lies on other chips; its bound here is still a comparison.
        return _row(f"{own.name} as it is", own, own, planner, ())
    row = _row(f"{own.name} as it is", own, own, planner, ())
    judged = recommender.judge(own)
    row = {**row, "searched": True, "fits": judged.fits, **_shortage(judged, limit)}
    if judged.fits:
        setting = recommender.candidate(own).subject
        return _with_peaks(row, recommender.peaks(setting), limit)
    return row


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


def _searched(
    recommender: Recommender,
    combination: Sequence[changes.Change],
    changed: recipe_lib.Recipe,
    found: search.Found,
) -> dict[str, Any]:
    planner = recommender.planner
    effects = [f"{each.title}: {each.effect}" for each in combination]
    if changed.rollout.end_tokens != planner.recipe.rollout.end_tokens:
        effects.append(_STOP_EFFECT)
    title = _title(combination)
    if found.chosen is None:
        assert found.nearest is not None
        row = _row(title, planner.recipe, changed, planner, effects)
        # By the room that is left free, not by the whole chip.
        row |= {"searched": True, "fits": False, **_shortage(found.nearest, found.room_bytes)}
        row["seconds_per_global_step"] = None
    else:
        setting = found.chosen.candidate.subject
        row = _row(title, planner.recipe, setting.recipe, planner, effects)
        row = _with_peaks(row, recommender.peaks(setting), planner.place.chip.hbm_bytes)
        row |= {"searched": True, "fits": True}
    row["allow"] = [each.name for each in combination]
    return row


def _not_searched(
    recommender: Recommender, combination: Sequence[changes.Change], changed: recipe_lib.Recipe
) -> dict[str, Any]:
    """Give the bound of the largest sizes, and whether what lives on the chip leaves any room."""
    planner = recommender.planner
    least = min(
        recommender.settings(changed),
        key=lambda each: planning.step_seconds(each, planner.place, planner.mends),
    )
    limit = int(planner.place.chip.hbm_bytes * (1 - planning.MARGIN))
    able = recommender.candidate(least).state_bytes <= limit
    effects = [f"{each.title}: {each.effect}" for each in combination]
    row = _row(_title(combination), planner.recipe, least, planner, effects)
    return row | {"allow": [each.name for each in combination], "fits": None if able else False}


def _title(combination: Sequence[changes.Change]) -> str:
    return " + ".join(["recommended, same algorithm"] if not combination else []) or "+ " + (
        ", ".join(each.title for each in combination)
    )


_STOP_EFFECT = (
    f"{changes.END_OF_TURN} ends a completion too: what is sampled and trained on is the model's "
    "turn alone"
)


def _settings(own: recipe_lib.Recipe, chosen: recipe_lib.Recipe | None) -> list[dict[str, Any]]:
    fields = ("train_micro_batch", "rollout_micro_batch", "logps_micro_batch")
    return [
        {
            "setting": f"batching.{field}",
            "reference": getattr(own.batching, field),
            "recommended": getattr(chosen.batching, field) if chosen else None,
        }
        for field in fields
    ]


def _look(asked: dict[tuple[Any, ...], dict[str, Any]], found: search.Found, several: bool) -> None:
    """Add what a search compiled, and what it only read off a line."""
    for question, answer in found.asked:
        peak = answer.peak_bytes
        asked[question.program, question.sequences, question.family] = {
            **_program(question, several),
            "source": "compiled",
            "accepted": answer.accepted,
            "peak_bytes": None if peak is None else peak + question.beside_bytes,
        }
    for judged in found.judged:
        if judged.source != "line":
            continue
        question = next(q for q in judged.candidate.questions if q.program == judged.program)
        asked.setdefault(
            (question.program, question.sequences, question.family),
            {
                **_program(question, several),
                "source": "line",
                "accepted": None,
                "peak_bytes": judged.peak_bytes,
            },
        )


def _program(question: search.Question, several: bool) -> dict[str, Any]:
    recipe: recipe_lib.Recipe = question.subject
    trains = question.program in _TRAINS
    return {
        "program": question.program,
        "sequences": question.sequences,
        "remat": recipe.model.remat if trains else None,
        "dtype": roofline.dtype_of(recipe, question.program),
        "mesh": [recipe.sharding.fsdp, recipe.sharding.tp] if several else None,
    }


def _stop_tokens(planner: planning.Planner, recipe: recipe_lib.Recipe) -> dict[str, Any]:
    """Say what completions that end with the model's turn would save."""
    work = roofline.work(recipe, "decode", shapes.rows(recipe, "decode", planner.mends))
    place = planner.place
    bound = roofline.bound(work, place.chip, roofline.dtype_of(recipe, "decode"), place.count)
    steps = max(1, recipe.rollout.max_new_tokens - 1)
    calls = roofline.calls(recipe, "decode", shapes.rows(recipe, "decode", planner.mends))
    return {
        "allow": changes.STOP_TOKENS,
        "stops": changes.stops_at_end_of_turn(recipe),
        "assignments": assignments(recipe, changes.with_stop_tokens(recipe)),
        "effect": _STOP_EFFECT,
        "seconds_saved_per_token_less": bound.seconds / steps * calls,
    }
