"""A plan: each program's memory, each phase's peak, walls, bounds, and a better choice."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any

from harness import recipe as recipe_lib
from harness import upstream
from harness.artifacts import plan as artifact
from harness.plan import chips, roofline, shapes, store, wall
from harness.plan.compiler import Compiler
from harness.upstream import programs as upstream_programs

# Left free: the runtime's own buffers, and holes between arrays.
MARGIN = 0.05
# Nobody rolls out more sequences at once on one host.
_MOST_ROWS = 4096
# The longest compilations first.
_WALLS = {
    "critic_step": ("critic_step",),
    "actor_step": ("actor_step",),
    "logps": ("logps",),
    "values": ("values",),
    "rollout": ("prefill", "decode"),
}
# What each setting sizes.
_SETTINGS = {
    "rollout_micro_batch": ("prefill", "decode"),
    "logps_micro_batch": ("logps", "reference_logps", "values"),
    "train_micro_batch": ("actor_step", "critic_step"),
}
_RUNS_APART = 0.01


@dataclasses.dataclass(frozen=True)
class Row:
    """A program at a size.

    Attributes:
      name: The program.
      rows: Sequences in one call.
      figures: What the compiler said.
      cached: Whether it had said so before.
    """

    name: str
    rows: int
    figures: store.Figures
    cached: bool


@dataclasses.dataclass(frozen=True)
class Phase:
    """The devices' memory while one phase runs, on the chip that holds most.

    Attributes:
      name: The phase.
      program: The program with the peak.
      parts: Bytes by what they are of; their sum is the peak.
      peak_bytes: HBM taken, none if the compiler refused without a figure.
      fits: Whether it is within the chip's.
    """

    name: str
    program: str
    parts: Mapping[str, int]
    peak_bytes: int | None
    fits: bool


class Planner:
    """Asks the compiler what a recipe needs on a slice."""

    def __init__(
        self,
        recipe: recipe_lib.Recipe,
        mode: upstream.Mode,
        compiler: Compiler,
        *,
        any_mesh: bool = False,
    ):
        """Prepares; nothing is compiled yet.

        Args:
          recipe: What is planned.
          mode: `mended`, or `stock` for Tunix exactly as installed.
          compiler: Compiles for the slice.
          any_mesh: Whether the recipe's mesh may lie over other chips, because
            it is going to be chosen.

        Raises:
          HarnessError: The recipe's mesh does not lie over the slice.
        """
        if not any_mesh:
            chips.check_mesh(compiler.place, recipe.sharding)
        self.recipe, self.compiler = recipe, compiler
        self.mode: upstream.Mode = mode
        self.place = compiler.place
        self.mends = upstream.mends(mode)

    def rows(self, program: str) -> int:
        """Gives the recipe's own size of a program."""
        return shapes.rows(self.recipe, program, self.mends)

    def ask(self, program: str, rows: int, recipe: recipe_lib.Recipe | None = None) -> Row:
        """Asks about one program at one size."""
        found, cached = self.compiler.figures(self._job(program, rows, recipe))
        return Row(program, rows, found, cached)

    def resident(self, recipe: recipe_lib.Recipe | None = None) -> list[dict[str, Any]]:
        """Lists what lives on a chip, from the abstract state."""
        recipe = recipe or self.recipe
        rows = shapes.rows(recipe, "decode", self.mends)
        return self.compiler.ask(self._job("resident", rows, recipe))[0]["resident"]

    def _job(self, program: str, rows: int, recipe: recipe_lib.Recipe | None) -> store.Job:
        return store.Job(recipe or self.recipe, self.mends, self.place.name, program, rows)

    def at_once(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Makes calls side by side, as many as there are compilers."""
        with futures.ThreadPoolExecutor(self.compiler.workers) as pool:
            waiting = [pool.submit(call) for call in calls]
            try:
                return [each.result() for each in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.compiler.__exit__()
                raise


def make(
    planner: Planner,
    *,
    names: Sequence[str] = (),
    sizes: Sequence[int] = (),
    sweep: bool = False,
) -> dict[str, Any]:
    """Makes a plan.

    Args:
      planner: The recipe and the compiler.
      names: Programs to look at; all of the recipe's if none.
      sizes: Sequences in one call, instead of the recipe's own.
      sweep: Whether to look for the walls and for better sizes.

    Returns:
      The plan as plain JSON values.
    """
    shapes.check(names)
    recipe, chip = planner.recipe, planner.place.chip
    chosen = [name for name in shapes.of(recipe) if not names or name in names]
    asked = [(name, size) for name in chosen for size in sizes or (planner.rows(name),)]
    # The longest compilations first, so that no core is idle at the end.
    asked.sort(key=lambda each: not each[0].endswith("_step"))
    calls: list[Callable[[], Any]] = [planner.resident]
    calls += [lambda name=name, size=size: planner.ask(name, size) for name, size in asked]
    resident, *rows = planner.at_once(calls)
    rows.sort(key=lambda row: (chosen.index(row.name), row.rows))
    found = phases(rows, resident, chip.hbm_bytes, recipe)
    walls = _walls(planner, resident, chosen) if sweep else []
    tree = {
        "schema": artifact.SCHEMA,
        "chip": planner.place.name,
        "chips": planner.place.count,
        "hbm_bytes": chip.hbm_bytes,
        "upstream": upstream_of(planner),
        "versions": store.versions(),
        "recipe": recipe_lib.to_dict(recipe),
        "resident": resident,
        "programs": [program_to_dict(row, planner) for row in rows],
        "phases": [phase_to_dict(phase, chip.hbm_bytes) for phase in found],
        "walls": walls,
        "roofline": bounds(recipe, planner.place, planner.mends),
        "recommendation": recommend(planner, resident, sweep),
        "host": {"peak_bytes_of_a_compiler": planner.compiler.host_bytes},
        "fits": all(phase.fits for phase in found),
    }
    return artifact.Plan.model_validate(tree).to_json()


def upstream_of(planner: Planner) -> dict[str, Any]:
    """Return which Tunix is planned for, as plain JSON values."""
    return {
        "mode": planner.mode,
        "version": upstream.installed_version(),
        "mends": list(planner.mends),
    }


def phases(
    rows: Sequence[Row],
    resident: Sequence[Mapping[str, Any]],
    limit: int,
    recipe: recipe_lib.Recipe | None = None,
) -> list[Phase]:
    """Adds to each program what else lives on a chip meanwhile.

    Args:
      rows: The programs.
      resident: What lives there, as `resident.describe` gives it.
      limit: The chip's bytes.
      recipe: Whose programs they are; None for a full critic and a rollout by the policy itself.

    Returns:
      The phases that have a program among `rows`, in the order of a step; each
      with its worst program.
    """
    found = []
    for name, members in shapes.PHASES.items():
        candidates = [
            _phase(name, row, resident, limit, recipe) for row in rows if row.name in members
        ]
        if candidates:
            found.append(max(candidates, key=lambda each: each.peak_bytes or math.inf))
    return found


def given(
    program: str,
    resident: Sequence[Mapping[str, Any]],
    recipe: recipe_lib.Recipe | None = None,
) -> int:
    """Return the bytes of what lives on a chip and is given to a program of a recipe."""
    names = upstream_programs.arguments_of(program, recipe)  # type: ignore[arg-type]
    return sum(each["bytes"] for each in resident if each["name"] in names)


def beside(
    program: str,
    resident: Sequence[Mapping[str, Any]],
    recipe: recipe_lib.Recipe | None = None,
) -> int:
    """Return the bytes of what lives on a chip while a program runs and is not given to it."""
    names = upstream_programs.arguments_of(program, recipe)  # type: ignore[arg-type]
    return sum(
        each["bytes"]
        for each in resident
        if not each["pinned"] and "phase" not in each and each["name"] not in names
    )


def _phase(
    name: str,
    row: Row,
    resident: Sequence[Mapping[str, Any]],
    limit: int,
    recipe: recipe_lib.Recipe | None,
) -> Phase:
    parts = {
        each["name"]: each["bytes"]
        for each in resident
        if not each["pinned"] and "phase" not in each
    }
    figures = row.figures
    if figures.refused is None:
        rest = figures.argument_bytes - given(row.name, resident, recipe)
        if name == "rollout":
            # The sampler's state is made for the call, and all of it grows with the rows.
            state = [each["bytes"] for each in resident if each.get("phase") == "rollout"]
            cache = next(each for each in resident if each["name"] == "key-value cache")
            parts["key-value cache"] = rest * cache["bytes"] // sum(state)
            rest -= parts["key-value cache"]
        parts["inputs, and padding of arguments"] = rest
        parts["results"] = figures.output_bytes - figures.alias_bytes
        parts["temporaries"] = figures.temp_bytes
        parts["code"] = figures.code_bytes
        peak: int | None = sum(parts.values())
    elif figures.peak_bytes is None:
        peak = None
    else:
        parts["the program, by the compiler"] = figures.peak_bytes - given(
            row.name, resident, recipe
        )
        peak = sum(parts.values())
    fits = figures.refused is None and peak is not None and peak <= limit
    return Phase(name, row.name, {k: v for k, v in parts.items() if v}, peak, fits)


def phase_to_dict(phase: Phase, limit: int) -> dict[str, Any]:
    """Gives a phase as plain JSON values."""
    return {
        "name": phase.name,
        "program": phase.program,
        "peak_bytes": phase.peak_bytes,
        "headroom_bytes": None if phase.peak_bytes is None else limit - phase.peak_bytes,
        "fits": phase.fits,
        "parts": [{"name": name, "bytes": size} for name, size in phase.parts.items()],
    }


def program_to_dict(row: Row, planner: Planner) -> dict[str, Any]:
    """Gives a program as plain JSON values; what a refused one lacks is null."""
    figures, place = row.figures, planner.place
    refused = figures.refused
    least = roofline.work(planner.recipe, row.name, row.rows)
    dtype = roofline.dtype_of(planner.recipe, row.name)
    bound = roofline.bound(least, place.chip, dtype, place.count)

    def said(value: float) -> float | None:
        return None if refused else value

    return {
        "name": row.name,
        "micro_batch": row.rows,
        "argument_bytes": said(figures.argument_bytes),
        "output_bytes": said(figures.output_bytes),
        "alias_bytes": said(figures.alias_bytes),
        "temp_bytes": said(figures.temp_bytes),
        "code_bytes": said(figures.code_bytes),
        "peak_bytes": figures.peak_bytes,
        "flops": said(figures.flops),
        "bytes_accessed": said(figures.bytes_accessed),
        "fits": refused is None and (figures.peak_bytes or 0) <= place.chip.hbm_bytes,
        "refused": dataclasses.asdict(refused) if refused else None,
        "compile_seconds": round(figures.compile_seconds, 1),
        "cached": row.cached,
        "least_flops": least.flops,
        "least_bytes": least.bytes,
        "least_seconds": bound.seconds,
        "bound_by": bound.limit,
    }


def bounds(recipe: recipe_lib.Recipe, place: chips.Slice, mends: Sequence[str]) -> dict[str, Any]:
    """Gives lower bounds of the times of a global step, as plain JSON values.

    Args:
      recipe: Shapes and sizes.
      place: The chips; others are compared one for one.
      mends: Ids of the mends of Tunix.

    Returns:
      `phases` (`name`, `seconds` in a global step, `tokens_per_second`,
      `bound_by`), `seconds_per_global_step`, `seconds`, `dominated_by`, and
      `other_chips`.
    """
    found = _step_bounds(recipe, place.chip, place.count, mends)
    total = sum(each["seconds"] for each in found)
    others = {
        chip.name: sum(each["seconds"] for each in _step_bounds(recipe, chip, place.count, mends))
        for chip in (chips.V5E, chips.V6E, chips.V5P, *chips.BOUNDS_ONLY)
    }
    return {
        "note": "lower bounds: matrix products at the published rate, unavoidable traffic at "
        "the published bandwidth; nothing was run",
        "phases": found,
        "seconds_per_global_step": total,
        "seconds": total * roofline.global_steps(recipe),
        "dominated_by": max(found, key=lambda each: each["seconds"])["name"],
        "other_chips": [
            {"chip": name, "chips": place.count, "seconds_per_global_step": seconds}
            for name, seconds in others.items()
        ],
    }


def _step_bounds(
    recipe: recipe_lib.Recipe, chip: chips.Chip, count: int, mends: Sequence[str]
) -> list[dict[str, Any]]:
    found = []
    for name, members in shapes.PHASES.items():
        here = [member for member in members if member in shapes.of(recipe)]
        if not here:
            continue
        times = {}
        for member in here:
            rows = shapes.rows(recipe, member, mends)
            work = roofline.work(recipe, member, rows)
            bound = roofline.bound(work, chip, roofline.dtype_of(recipe, member), count)
            times[member] = (bound.seconds * roofline.calls(recipe, member, rows), bound.limit)
        seconds = sum(each for each, _ in times.values())
        longest = max(times, key=lambda member: times[member][0])
        # What a rollout yields is the tokens that it makes.
        tokens = roofline.tokens(recipe, here[-1])
        found.append(
            {
                "name": name,
                "seconds": seconds,
                "tokens_per_second": tokens / seconds,
                "bound_by": times[longest][1],
            }
        )
    return found


def _walls(
    planner: Planner, resident: Sequence[Mapping[str, Any]], chosen: Sequence[str]
) -> list[dict[str, Any]]:
    wanted = [
        (name, [member for member in members if member in chosen])
        for name, members in _WALLS.items()
    ]
    searches = [
        lambda name=name, members=members: _wall(planner, resident, name, members)
        for name, members in wanted
        if members
    ]
    return planner.at_once(searches)


def _wall(
    planner: Planner, resident: Sequence[Mapping[str, Any]], name: str, members: Sequence[str]
) -> dict[str, Any]:
    """Finds the wall of a program that has the chip to itself, as the compiler judges it.

    Beside what else lives on the chip fewer sequences fit, and no compiler
    looks at that: the size is read off the line through compiled ones.
    """
    limit, step = planner.place.chip.hbm_bytes, planner.recipe.sharding.fsdp
    start = max(planner.rows(member) for member in members)
    seen: dict[str, dict[int, int]] = {member: {} for member in members}
    refusals: dict[int, dict[str, Any]] = {}

    def judge(rows: int) -> wall.Verdict:
        worst = 0
        for member in members:
            figures = planner.ask(member, rows).figures
            if figures.refused:
                refusals[rows] = {"program": member, **dataclasses.asdict(figures.refused)}
                return wall.Verdict(False, figures.peak_bytes)
            seen[member][rows] = figures.peak_bytes or 0
            worst = max(worst, figures.peak_bytes or 0)
        return wall.Verdict(True, worst)

    found = wall.find(
        judge,
        start=start,
        step=step,
        limit=_MOST_ROWS // step * step,
        capacity=limit,
        floor=given(members[0], resident, planner.recipe),
    )
    estimates = [
        wall.estimate(seen[member], limit - beside(member, resident, planner.recipe))
        for member in members
    ]
    known = [min(each, found.fits) // step * step for each in estimates if each is not None]
    return {
        "name": name,
        "programs": list(members),
        "reference": start,
        "compiles": found.fits,
        "refused": found.refused,
        "refusal": refusals.get(found.refused or 0),
        "fits_beside_the_rest_about": min(known) if known else None,
    }


def recommend(
    planner: Planner, resident: Sequence[Mapping[str, Any]], sweep: bool
) -> dict[str, Any]:
    """Chooses sizes that fit with a margin and have the best bound.

    Args:
      planner: The recipe and the compiler.
      resident: What lives on a chip.
      sweep: Whether to ask the compiler; if not, only the bounds of larger
        sizes are given.

    Returns:
      Plain JSON values: `searched`, `margin`, `settings` (each with the
      reference's and the recommended size, and both bounds of a global step),
      `seconds_per_global_step` before and after, `changes_the_algorithm`, and
      `what_else`.
    """
    recipe, place = planner.recipe, planner.place
    largest = shapes.group(recipe, planner.mends)
    settings, assignments = [], []
    for setting, members in _SETTINGS.items():
        members = [member for member in members if member in shapes.of(recipe)]
        own = getattr(recipe.batching, setting)
        step = recipe.sharding.fsdp if setting == "train_micro_batch" else 1
        sizes = [
            size
            for size in range(step, largest + 1, step)
            if recipe.batching.mini_batch % size == 0 and recipe.batching.batch % size == 0
        ]
        times = {size: _seconds(planner, members, size) for size in {*sizes, min(own, largest)}}
        fitting = {own}
        if sweep:
            fitting = _fitting(planner, resident, setting, members, sizes)
        best = min((times[size] for size in fitting if size in times), default=math.inf)
        # Each call costs time that a bound does not see: of sizes alike, the largest.
        choice = max(
            (s for s in fitting if s in times and times[s] <= best * (1 + _RUNS_APART)),
            default=None,
        )
        settings.append(
            {
                "setting": f"batching.{setting}",
                "reference": own,
                "recommended": choice if sweep else None,
                "reference_seconds": times.get(own, times[min(own, largest)]),
                "recommended_seconds": times[choice] if sweep and choice else None,
                "bounds": {str(size): times[size] for size in sorted(times)},
                "fit": sorted(fitting) if sweep else None,
            }
        )
        if sweep and choice and choice != own:
            assignments.append(f"batching.{setting}={choice}")
    better = recipe_lib.replace(recipe, *assignments) if assignments else recipe
    total = [
        sum(each["seconds"] for each in _step_bounds(one, place.chip, place.count, planner.mends))
        for one in (recipe, better)
    ]
    return {
        "searched": sweep,
        "margin": MARGIN,
        "settings": settings,
        "assignments": assignments,
        "nothing_fits": [
            each["setting"] for each in settings if sweep and each["recommended"] is None
        ],
        "seconds_per_global_step": {
            "reference": total[0],
            "recommended": total[1] if sweep else None,
        },
        "changes_the_algorithm": _changes(planner.mends),
        "what_else": _what_else(planner, better, sweep),
    }


def _seconds(planner: Planner, members: Sequence[str], rows: int) -> float:
    """The bound of programs in one global step, at a size."""
    recipe, place = planner.recipe, planner.place
    return sum(
        roofline.bound(
            roofline.work(recipe, member, rows),
            place.chip,
            roofline.dtype_of(recipe, member),
            place.count,
        ).seconds
        * roofline.calls(recipe, member, rows)
        for member in members
    )


def _fitting(
    planner: Planner,
    resident: Sequence[Mapping[str, Any]],
    setting: str,
    members: Sequence[str],
    sizes: Sequence[int],
) -> set[int]:
    """Tells which sizes fit beside the rest with the margin, by as few questions as can be."""
    room = planner.place.chip.hbm_bytes * (1 - MARGIN)
    # Unmended, values are computed for the whole group, whatever the setting.
    asked = [
        member
        for member in members
        if member != "values" or "values-not-micro-batched" in planner.mends
    ]

    def fits(size: int) -> bool:
        figures = {member: planner.ask(member, size).figures for member in asked}
        return all(
            each.refused is None
            and (each.peak_bytes or 0) + beside(member, resident, planner.recipe) <= room
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


def _changes(mends: Sequence[str]) -> list[str]:
    """Says what micro-batch sizes change beside speed and memory."""
    found = []
    if "whitening-group" not in mends:
        found.append(
            "rollout_micro_batch and logps_micro_batch: advantages are whitened over groups of "
            "their least common multiple"
        )
    if "micro-batch-token-mean" not in mends:
        found.append(
            "train_micro_batch: the loss is a token mean of each micro-batch, so the gradient "
            "depends on it where completions differ in length"
        )
    return found


_ELSE = (
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


def _what_else(planner: Planner, better: recipe_lib.Recipe, sweep: bool) -> list[dict[str, Any]]:
    """Tells what other changes would give: bounds, and with a sweep the critic step's HBM."""
    place = planner.place
    half = better.rollout.max_prompt_length // 2
    words = {"half": half, "cache": better.rollout.cache_size - better.rollout.max_prompt_length}
    words["cache"] += half
    before = step_seconds(better, place, planner.mends)
    found = []
    for name, templates, changes in _ELSE:
        assignments = [template.format(**words) for template in templates]
        if all(_holds(better, assignment) for assignment in assignments):
            continue
        other = recipe_lib.replace(better, *assignments)
        entry: dict[str, Any] = {
            "change": name,
            "assignments": assignments,
            "changes": changes,
            "seconds_per_global_step": step_seconds(other, place, planner.mends),
            "from_seconds_per_global_step": before,
            "critic_step_bytes": None,
            "from_critic_step_bytes": None,
        }
        if sweep:
            rows = shapes.rows(better, "critic_step", planner.mends)
            entry["critic_step_bytes"] = planner.ask("critic_step", rows, other).figures.peak_bytes
            entry["from_critic_step_bytes"] = planner.ask(
                "critic_step", rows, better
            ).figures.peak_bytes
        found.append(entry)
    if "<end_of_turn>" not in better.rollout.end_tokens:
        rows = shapes.rows(better, "decode", planner.mends)
        work = roofline.work(better, "decode", rows)
        dtype = roofline.dtype_of(better, "decode")
        bound = roofline.bound(work, place.chip, dtype, place.count)
        per_token = bound.seconds / max(1, better.rollout.max_new_tokens - 1)
        found.append(
            {
                "change": "stopping where the model ends its turn",
                "assignments": ['rollout.end_tokens=["<eos>", "<end_of_turn>"]'],
                "changes": "what is trained on: completions end with the turn",
                "seconds_per_global_step": None,
                "seconds_saved_per_token_less": per_token * roofline.calls(better, "decode", rows),
                "from_seconds_per_global_step": before,
                "critic_step_bytes": None,
                "from_critic_step_bytes": None,
            }
        )
    return found


def _holds(recipe: recipe_lib.Recipe, assignment: str) -> bool:
    return recipe_lib.replace(recipe, assignment) == recipe


def step_seconds(recipe: recipe_lib.Recipe, place: chips.Slice, mends: Sequence[str]) -> float:
    """Return the lower bound of a global step, in seconds."""
    return sum(each["seconds"] for each in _step_bounds(recipe, place.chip, place.count, mends))


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Tells in what two plans differ: the bytes of everything, exactly.

    Args:
      old: A plan as JSON.
      new: The same plan made again.

    Returns:
      A line for each difference; none if they are the same.
    """
    said = []
    for key in ("chip", "hbm_bytes"):
        if old[key] != new[key]:
            said.append(f"{key}: {old[key]} became {new[key]}")
    for kind, fields in (
        ("resident", ("bytes",)),
        (
            "programs",
            (
                *("micro_batch", "argument_bytes", "output_bytes", "alias_bytes", "temp_bytes"),
                *("code_bytes", "peak_bytes", "fits"),
            ),
        ),
        ("phases", ("peak_bytes", "fits")),
        ("walls", ("compiles", "refused", "fits_beside_the_rest_about")),
    ):
        tables = [{_name(each): each for each in plan.get(kind, ())} for plan in (old, new)]
        if kind == "walls" and not all(tables):
            continue  # only a sweep looks for them
        for name in dict.fromkeys(itertools.chain(*tables)):
            before, after = (table.get(name) for table in tables)
            if before is None or after is None:
                said.append(f"{kind} {name}: {'new' if before is None else 'gone'}")
                continue
            said += [
                f"{kind} {name}: {field} {before[field]:,} became {after[field]:,}"
                if isinstance(before[field], int) and isinstance(after[field], int)
                else f"{kind} {name}: {field} {before[field]} became {after[field]}"
                for field in fields
                if before[field] != after[field]
            ]
    return said


def _name(each: Mapping[str, Any]) -> str:
    return f"{each['name']} of {each['micro_batch']}" if "micro_batch" in each else each["name"]
