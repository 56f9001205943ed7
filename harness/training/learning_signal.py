"""Whether a training had anything to learn from: rewards that differ, gradients above zero."""

import math
from collections.abc import Iterable, Sequence

from harness.run_warning import RunWarning

# Batches after which a run without signal is reported.
PATIENCE = 3

_LOWEST = "rewards/train/score/min"
_HIGHEST = "rewards/train/score/max"
_GRADIENT = "actor/train/grad_norm"


def look(
    scalars: Iterable[tuple[str, float, int]], *, patience: int = PATIENCE
) -> tuple[RunWarning, ...]:
    """Look for batches that cannot teach anything.

    Where all sequences of a batch have one reward, no completion is better than
    another: advantages are then the critic's error alone. That is reported for
    the first batches, and for later ones where better rewards were seen before;
    a policy that has learned all there is to learn is not reported. Where the
    actor's gradient is zero, its weights do not move.

    Args:
      scalars: Event, value and step of each figure that training logged, from
        its beginning; steps of rewards are global steps from 0.
      patience: Batches in a row without spread that are reported; a training of
        fewer batches is reported if none of them has any.

    Returns:
      Warnings, none of them if there is signal.
    """
    lowest: dict[int, float] = {}
    highest: dict[int, float] = {}
    gradients: list[float] = []
    for event, value, step in scalars:
        if event == _LOWEST:
            lowest[step] = min(value, lowest.get(step, value))
        elif event == _HIGHEST:
            highest[step] = max(value, highest.get(step, value))
        elif event == _GRADIENT:
            gradients.append(value)
    batches = [(lowest[step], highest[step]) for step in sorted(lowest.keys() & highest.keys())]
    found = []
    if batches and _without_spread(batches, min(patience, len(batches))):
        found.append(_no_spread(batches))
    if gradients and not any(gradients):
        found.append(
            RunWarning(
                "no-gradient",
                f"the actor's gradient was zero in all of {len(gradients)} optimizer step(s): its "
                "weights did not move; look at the rewards and at the length of completions",
            )
        )
    return tuple(found)


def _without_spread(batches: Sequence[tuple[float, float]], patience: int) -> bool:
    """Return whether `patience` batches in a row say that nothing is learned."""
    best = -math.inf
    run = 0
    for number, (low, high) in enumerate(batches, start=1):
        best = max(best, high)
        run = run + 1 if low == high and (run == number - 1 or high < best) else 0
        if run >= patience:
            return True
    return False


def _no_spread(batches: Sequence[tuple[float, float]]) -> RunWarning:
    flat = [low for low, high in batches if low == high]
    every = f": every reward was {flat[0]:g}" if len({*flat}) == 1 else ""
    return RunWarning(
        "no-reward-spread",
        f"in {len(flat)} of {len(batches)} batch(es) all sequences had one reward{every}; a batch "
        "without spread teaches nothing: look at the samples, and at whether the reward can tell "
        "completions of this model apart",
    )
