"""The settings that are searched together for the fastest one that fits.

The sizes of all micro-batches, rematerialisation and, on a slice, the mesh: what
one of them takes another cannot have. A setting's worth is the lower bound of a
global step; whether it fits, with what else lives on the chip, is for the
compiler to say.
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any

from harness import errors, hardware, programs
from harness import recipe as recipe_lib
from harness.plan import bounds, estimate, roofline, search, shapes
from harness.plan.phases import Phase, argument_bytes, beside_bytes, phases, state_bytes
from harness.plan.planner import MARGIN, Compiled, Planner
from harness.programs import Program

GIB = 2**30
# Left free where it can be had: 2.5 GiB of a v6e's 31.25.
COMFORT = 0.08
_REMATS = (None, "light", "block", "decoder")
# The likeliest not to fit first: then the rest is not asked about.
_ORDER = (
    *(Program.CRITIC_STEP, Program.ACTOR_STEP, Program.DECODE, Program.PREFILL),
    *(Program.LOGPS, Program.REFERENCE_LOGPS, Program.VALUES),
)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is searched.

    Attributes:
      recipe: The recipe with it.
      resident: What lives on a chip, from `resident.describe`.
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
        if whole % size == 0 and recipe.batching.rollout_batch_size % size == 0
    ]


def meshes(recipe: recipe_lib.Recipe, slice_: hardware.Slice) -> list[tuple[int, int]]:
    """Return the meshes of a slice over which every array divides, as fsdp and tp.

    Args:
      recipe: Shapes.
      slice_: The chips.

    Returns:
      Meshes; on one chip the only one there is.
    """
    found = []
    for tp in range(1, slice_.count + 1):
        fsdp, rest = divmod(slice_.count, tp)
        if rest:
            continue
        try:
            recipe_lib.replace(
                recipe,
                f"sharding.fsdp={fsdp}",
                f"sharding.tp={tp}",
                # The largest there is: whether any size divides is the question.
                f"batching.train_micro_batch_size={recipe.batching.mini_batch_size}",
            )
        except errors.HarnessError:
            continue
        found.append((fsdp, tp))
    return found


def exchanged_bytes(recipe: recipe_lib.Recipe, fixes: Collection[str]) -> float:
    """Estimate what a chip receives from others in a global step, to order meshes by.

    Weights that are split over `fsdp` are gathered for each pass; activations
    are summed over `tp` after attention and after the feed-forward layer.

    Args:
      recipe: Shapes, sizes and mesh.
      fixes: Ids of the fixes of Tunix.

    Returns:
      Bytes, 0 on one chip.
    """
    model, mesh, rollout = recipe.model, recipe.sharding, recipe.rollout
    item = roofline.BYTES[model.dtype]
    weights = model.num_layers * roofline.layer_weights(model) + model.vocab_size * model.embed_dim
    gathered = (mesh.fsdp - 1) / mesh.fsdp * weights / mesh.tp * item
    passes = 0.0
    for program in shapes.of(recipe):
        calls = roofline.calls(recipe, program, shapes.sequences(recipe, program, fixes))
        if program == Program.DECODE:
            calls *= max(1, rollout.max_new_tokens - 1)
        passes += calls * (3 if program in programs.TRAIN else 1)
    summed = 2 * model.num_layers * 2 * (mesh.tp - 1) / mesh.tp * model.embed_dim * item
    tokens = sum(
        roofline.tokens(recipe, program) * (2 if program in programs.TRAIN else 1)
        for program in shapes.of(recipe)
    )
    return passes * gathered + summed * tokens / mesh.fsdp


class Recommender:
    """Searches the settings of one recipe on one slice."""

    def __init__(
        self,
        planner: Planner,
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
        limit = self.planner.slice.chip.hbm_bytes
        rooms = [int(limit * (1 - free)) for free in (COMFORT, MARGIN)]
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
        batching, group = recipe.batching, shapes.group(recipe, self.planner.fixes)
        for fsdp, tp in meshes(recipe, self.planner.slice):
            mesh = dataclasses.replace(recipe.sharding, fsdp=fsdp, tp=tp)
            train = sizes(batching.mini_batch_size, fsdp, recipe, batching.mini_batch_size)
            called = sizes(group, fsdp, recipe, batching.rollout_batch_size)
            for micro, remat, rollout, logps in itertools.product(train, _REMATS, called, called):
                yield dataclasses.replace(
                    recipe,
                    sharding=mesh,
                    model=dataclasses.replace(recipe.model, remat=remat),
                    batching=dataclasses.replace(
                        batching,
                        train_micro_batch_size=micro,
                        rollout_micro_batch_size=rollout,
                        compute_logps_micro_batch_size=logps,
                    ),
                )

    def candidate(self, recipe: recipe_lib.Recipe) -> search.Candidate:
        """Make a candidate of a recipe as it is."""
        fixes, slice_ = self.planner.fixes, self.planner.slice
        resident = self._resident(recipe)
        names = [name for name in _ORDER if name in shapes.of(recipe)]
        calls = sum(
            roofline.calls(recipe, name, shapes.sequences(recipe, name, fixes)) for name in names
        )
        own = recipe.sharding == self.planner.recipe.sharding
        cost = (
            # A bound is no finer than this; among equal ones fewer calls are better,
            # since each costs time that a bound does not see.
            round(bounds.step_seconds(recipe, slice_, fixes), 4),
            round(exchanged_bytes(recipe, fixes) / GIB, 1),
            float(calls),
            float(not own),
        )
        return search.Candidate(
            name=_describe(recipe, several=slice_.count > 1),
            cost=cost,
            state_bytes=state_bytes(resident),
            questions=tuple(self._questions(names, recipe, resident)),
            subject=Setting(recipe, resident),
        )

    def peaks(self, setting: Setting) -> list[Phase]:
        """Return each phase of a setting, compiled."""
        questions = self._questions(shapes.of(setting.recipe), setting.recipe, setting.resident)
        compiled = [self._compile(question) for question in questions]
        limit = self.planner.slice.chip.hbm_bytes
        return phases(compiled, setting.resident, limit, setting.recipe)

    def judge(self, recipe: recipe_lib.Recipe) -> search.Judgement:
        """Judge one recipe as it is, against the whole of the chip's memory."""
        limit = self.planner.slice.chip.hbm_bytes
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
            arguments = argument_bytes(name, resident, recipe)
            found.append(
                search.Question(
                    program=name,
                    sequences=shapes.sequences(recipe, name, self.planner.fixes),
                    family=_family(recipe, trains=name in programs.TRAIN),
                    beside_bytes=beside_bytes(name, resident, recipe),
                    argument_bytes=arguments,
                    guess_bytes=estimate.step_bytes(recipe, name, resident, arguments),
                    subject=recipe,
                )
            )
        return found

    def _ask(self, question: search.Question) -> search.Answer:
        figures = self._compile(question).figures
        return search.Answer(figures.refused is None, figures.peak_bytes)

    def _compile(self, question: search.Question) -> Compiled:
        return self.planner.ask(question.program, question.sequences, question.subject)

    def _resident(self, recipe: recipe_lib.Recipe) -> Sequence[dict[str, Any]]:
        """List what lives on a chip; it does not depend on sizes, but for an accumulator."""
        batching = recipe.batching
        whole = batching.mini_batch_size // batching.train_micro_batch_size == 1
        key = (_family(recipe, trains=False), whole)
        if key not in self._residents:
            self._residents[key] = self.planner.resident(recipe)
        return self._residents[key]

    def _report(self, judged: search.Judgement) -> None:
        if judged.fits:
            self._progress(f"fits: {judged.candidate.name}")
        elif judged.source == "compiled" and judged.program in programs.TRAIN:
            self._progress(f"does not fit: {judged.candidate.name} ({judged.program})")


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
        f"{where}train {batching.train_micro_batch_size}, remat {recipe.model.remat or 'none'}, "
        f"rollout {batching.rollout_micro_batch_size}, "
        f"log-probs {batching.compute_logps_micro_batch_size}"
    )
