"""A recipe on a slice, as questions to the compiler."""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

from harness import recipe as recipe_lib
from harness import upstream
from harness.plan import shapes, store
from harness.plan.compiler import Compiler

# Left free: the runtime's own buffers, and holes between arrays.
MARGIN = 0.05


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program at a size.

    Attributes:
      program: Its name.
      sequences: Sequences in one call.
      figures: What the compiler reported.
      cached: Whether the store had them.
    """

    program: str
    sequences: int
    figures: store.Figures
    cached: bool


class Planner:
    """Asks the compiler what a recipe needs on a slice."""

    def __init__(
        self,
        recipe: recipe_lib.Recipe,
        mode: upstream.Mode,
        compiler: Compiler,
        *,
        fixes: str = "all",
        any_mesh: bool = False,
    ):
        """Prepare; nothing is compiled yet.

        Args:
          recipe: What is planned.
          mode: `patched`, or `stock` for Tunix exactly as installed.
          compiler: Compiles for the slice.
          fixes: Which fixes are in place: `all`, `none`, `all,-ID` or `ID,ID`.
          any_mesh: Whether the recipe's mesh may lie over other chips, because
            it is going to be chosen.

        Raises:
          HarnessError: The recipe's mesh does not lie over the slice.
        """
        if not any_mesh:
            shapes.check_mesh(compiler.slice, recipe.sharding)
        self.recipe, self.compiler = recipe, compiler
        self.mode: upstream.Mode = mode
        self.slice = compiler.slice
        self.selection = fixes
        self.fixes = upstream.choose_fixes(mode, fixes)

    def sequences(self, program: str) -> int:
        """Return the recipe's own size of a program."""
        return shapes.sequences(self.recipe, program, self.fixes)

    def ask(
        self, program: str, sequences: int, recipe: recipe_lib.Recipe | None = None
    ) -> Compiled:
        """Ask about one program at one size.

        Args:
          program: Its name.
          sequences: Sequences in one call.
          recipe: The planner's, if None.

        Returns:
          What the compiler reported.
        """
        figures, cached = self.compiler.figures(self._job(program, sequences, recipe))
        return Compiled(program, sequences, figures, cached)

    def resident(self, recipe: recipe_lib.Recipe | None = None) -> list[dict[str, Any]]:
        """List what lives on a chip, from the abstract state.

        Args:
          recipe: The planner's, if None.

        Returns:
          As `resident.describe`.
        """
        recipe = recipe or self.recipe
        sequences = shapes.sequences(recipe, "decode", self.fixes)
        return self.compiler.ask(self._job("resident", sequences, recipe))[0]["resident"]

    def _job(self, program: str, sequences: int, recipe: recipe_lib.Recipe | None) -> store.Job:
        return store.Job(recipe or self.recipe, self.fixes, self.slice.name, program, sequences)

    def at_once(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Make calls side by side, as many as there are compilers.

        Args:
          calls: Functions of nothing.

        Returns:
          Their results, in order.
        """
        with futures.ThreadPoolExecutor(self.compiler.workers) as pool:
            waiting = [pool.submit(call) for call in calls]
            try:
                return [each.result() for each in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self.compiler.__exit__()
                raise
