"""One-sided inference on a few independent values: bounds, sizes, several at once."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import optimize, stats


def lower_bound(values: Sequence[float], alpha: float) -> float:
    """Return the one-sided lower confidence bound of a mean by Student's t.

    Args:
      values: [n] independent values, n of 2 or more.
      alpha: Chance that the true mean lies below the bound.

    Returns:
      mean - t(1 - alpha, n - 1) sd / sqrt(n); the mean itself where all values
      are equal.
    """
    found = np.asarray(values, float)
    spread = float(np.std(found, ddof=1)) / math.sqrt(len(found))
    return float(np.mean(found)) - float(stats.t.ppf(1 - alpha, len(found) - 1)) * spread


def upper_bound(values: Sequence[float], alpha: float) -> float:
    """Return the one-sided upper confidence bound of a mean; see `lower_bound`."""
    return -lower_bound([-value for value in values], alpha)


def p_value(values: Sequence[float], at_most: float) -> float:
    """Return the chance of such values if their true mean were at most a number.

    Args:
      values: [n] independent values, n of 2 or more.
      at_most: The largest mean under the hypothesis.

    Returns:
      The p-value of the one-sided t test; 0 or 1 where all values are equal.
    """
    found = np.asarray(values, float)
    spread = float(np.std(found, ddof=1)) / math.sqrt(len(found))
    above = float(np.mean(found)) - at_most
    if spread == 0:
        return 0.0 if above > 0 else 1.0
    return float(stats.t.sf(above / spread, len(found) - 1))


def holm(p_values: Mapping[str, float], alpha: float, family: int | None = None) -> frozenset[str]:
    """Return which hypotheses fall, with a chance of alpha at most that any falls wrongly.

    Holm 1979, A simple sequentially rejective multiple test procedure.

    Args:
      p_values: p by name.
      alpha: Chance of one or more wrong rejections.
      family: Number of hypotheses, those decided before counted; as many as
        there are p-values if None. A larger one is more careful.

    Returns:
      Names of those rejected.
    """
    size = max(len(p_values), family or 0)
    rejected = set()
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > alpha / (size - rank):
            break
        rejected.add(name)
    return frozenset(rejected)


def detectable(
    spread: float, count: int, *, margin: float, alpha: float, power: float = 0.95
) -> float:
    """Return the smallest true mean that a one-sided test would find.

    Args:
      spread: Standard deviation of one value.
      count: Number of values, 2 or more.
      margin: Mean up to which there is no alarm.
      alpha: The test's chance of a false alarm at the margin.
      power: Chance of the alarm asked for.

    Returns:
      The mean at which the noncentral t of the test, with count - 1 degrees of
      freedom, exceeds its critical value with that power.
    """
    if spread == 0:
        return margin
    freedom = count - 1
    critical = float(stats.t.ppf(1 - alpha, freedom))

    def missing(shift: float) -> float:
        return float(stats.nct.sf(critical, freedom, shift)) - power

    shift: Any = optimize.brentq(missing, 0.0, 4 * critical + 10)
    return margin + float(shift) * spread / math.sqrt(count)


def wilson(successes: int, total: int, alpha: float = 0.05) -> tuple[float, float]:
    """Return the two-sided Wilson interval of a share (Wilson 1927)."""
    found = stats.binomtest(successes, total).proportion_ci(1 - alpha, method="wilson")
    return float(found.low), float(found.high)
