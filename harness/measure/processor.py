"""The cores that a process may use, and what it has used of them."""

import dataclasses
import os
import time
from types import TracebackType

from harness.errors import HarnessError


def cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may run on, in order."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def choose(core: int | None = None) -> int:
    """Choose the core to which both arms of a comparison are pinned.

    Args:
      core: The one asked for; the last one if None, since the first serves
        most interrupts.

    Returns:
      Its number.

    Raises:
      HarnessError: Processes cannot be pinned here, there are fewer than two
        cores, so that everything else would share the one, or it is not one of
        them.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise HarnessError(
            "processes cannot be pinned to a core on this system: use Linux, or --tier exact"
        )
    free = cores()
    if len(free) < 2:
        raise HarnessError(
            f"this process may use {len(free)} core: the time tier pins both arms to one and "
            "leaves another to all else; give it two, or use --tier exact"
        )
    if core is None:
        return free[-1]
    if core not in free:
        raise HarnessError(
            f"core {core} is not one that this process may use "
            f"({', '.join(map(str, free))}): give one of them to --core"
        )
    return core


def pin(core: int) -> None:
    """Pin this process, and every thread that it starts from now on, to one core."""
    os.sched_setaffinity(0, {core})


@dataclasses.dataclass
class Stopwatch:
    """Wall time and the process's CPU time of a block, in seconds.

    Attributes:
      wall_clock: Set when the block ends.
      cpu: Of all threads of this process, user and system; set likewise.
    """

    wall_clock: float = 0.0
    cpu: float = 0.0

    def __enter__(self) -> "Stopwatch":
        """Start both clocks."""
        self._cpu = time.process_time()
        self._wall_clock = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop both clocks."""
        self.wall_clock = time.perf_counter() - self._wall_clock
        self.cpu = time.process_time() - self._cpu
