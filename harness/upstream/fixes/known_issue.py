"""What is known of one issue in Tunix's PPO."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class KnownIssue:
    """A known issue of Tunix, as the file of its name declares it.

    Attributes:
      id: Short name, used in results; the file's name with dashes.
      title: What is wrong, in a line.
      where: File and line in the last of `releases`.
      effect: What it does to learning, or to a run.
      fix: How it is corrected here, if it is.
      probe: Run Tunix's own code and return whether the issue is there; a fix is applied only
        then. None where nothing cheap tells.
      shown_by: Ids of the properties that it breaks; empty if only its reproduction shows it.
      releases: Supported releases of Tunix that have it.
      engine: Whether the engine of this harness never meets it, so that there is no fix to
        choose: what it takes is needed whatever is fixed.
      fixed_with: Id of the issue whose fix corrects this one too; None if it has its own.
    """

    id: str
    title: str
    where: str
    effect: str
    fix: str | None = None
    probe: Callable[[], bool] | None = None
    shown_by: tuple[str, ...] = ()
    releases: tuple[str, ...] = ("0.1.6", "0.1.7")
    engine: bool = False
    fixed_with: str | None = None

    @property
    def fix_id(self) -> str:
        """Id of the issue that its fix is named after."""
        return self.fixed_with or self.id
