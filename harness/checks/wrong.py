"""Ways to observe the wrong thing: each property must refuse those that it names."""

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.checks.property import Observed


def each(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[Observed], Observed]:
    """Change every array of a list that was observed.

    Args:
      name: Key of the list.
      change: Gives the wrong array.

    Returns:
      A function from what was observed to what should have been refused.
    """

    def wrong(observed: Observed) -> Observed:
        return {**observed, name: [change(np.array(array)) for array in observed[name]]}

    return wrong


def value(name: str, change: Callable[[Any], Any]) -> Callable[[Observed], Observed]:
    """Change one thing that was observed."""

    def wrong(observed: Observed) -> Observed:
        return {**observed, name: change(observed[name])}

    return wrong


def late(array: np.ndarray) -> np.ndarray:
    """Move the last axis by one position."""
    return np.roll(array, 1, axis=-1)


def next_row(array: np.ndarray) -> np.ndarray:
    """Return each row what is its neighbour's."""
    return np.roll(array, 1, axis=0)
