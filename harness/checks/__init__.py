"""Properties of PPO: what must hold of the installed Tunix, and how it is seen."""

from collections.abc import Sequence

from harness import errors
from harness.checks.properties import PROPERTIES
from harness.checks.property import Property


def select(only: Sequence[str] = (), *, slow: bool = False) -> list[Property]:
    """Choose properties.

    Args:
      only: Ids; none for all.
      slow: Whether slow ones are among all.

    Returns:
      The properties, in order.

    Raises:
      HarnessError: There is no property of an id.
    """
    known = {each.id: each for each in PROPERTIES}
    for name in only:
        if name not in known:
            raise errors.HarnessError(
                f"there is no property '{name}': use one of {', '.join(known)}"
            )
    if only:
        return [each for each in PROPERTIES if each.id in only]
    return [each for each in PROPERTIES if slow or not each.slow]


__all__ = ["PROPERTIES", "Property", "select"]
