"""Seconds and peak host memory of the named parts of a command."""

import contextlib
import dataclasses
import pathlib
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from harness.measure import memory

Part = Callable[[str], contextlib.AbstractContextManager[None]]


def unmeasured(name: str) -> contextlib.AbstractContextManager[None]:
    """Return a context that measures nothing: the default wherever a `Part` is taken."""
    del name
    return contextlib.nullcontext()


@dataclasses.dataclass
class Measured:
    """One part.

    Attributes:
      name: Name of the part.
      within: Name of the part in which it ran, `None` at the top.
      calls: How often it ran.
      seconds: Wall time of all calls, the parts within it included.
      processor_seconds: Time of all threads of the process on its processors, of all calls: on a
        busy machine it shows what the wall time cannot.
      first_seconds: Wall time of the first call, in which programs are compiled.
      start_bytes: Resident set when it first began.
      peak_bytes: Largest resident set during any call.
      end_bytes: Resident set when it last ended.
    """

    name: str
    within: str | None
    calls: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    first_seconds: float = 0.0
    start_bytes: int = 0
    peak_bytes: int = 0
    end_bytes: int = 0


class Parts:
    """Records parts, which may run one within another: `with parts("load"): ...`.

    The peak of the resident set is the kernel's, which Linux lets a process reset; elsewhere it
    is the peak since the process began, and `peaks_are_reset` is false. Parts that run at one
    time on several threads share a peak. Parts are nested by the order in which they begin, so a
    part on another thread must lie within the part that waits for it.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.perf_counter,
        processor: Callable[[], float] = time.process_time,
        resident: Callable[[], int] = memory.process_memory,
        peak: Callable[[], int] | None = None,
        reset: Callable[[], bool] | None = None,
    ) -> None:
        """Begin without parts.

        Args:
          clock: Returns seconds from any fixed moment.
          processor: Returns seconds that the process had on its processors.
          resident: Returns the bytes of the resident set.
          peak: Returns its peak in bytes since `reset`.
          reset: Resets the peak; returns whether it could.
        """
        self._clock, self._processor, self._resident = clock, processor, resident
        self._read_peak, self._reset = peak or peak_resident, reset or reset_peak
        self._lock = threading.RLock()
        self._running: list[Measured] = []
        self._parts: dict[tuple[str, str | None], Measured] = {}
        self.peaks_are_reset = True

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure the block as a part.

        Args:
          name: Name of the part; calls of one name within one part are summed.

        Yields:
          Nothing.
        """
        with self._lock:
            self._note_peak()
            within = self._running[-1].name if self._running else None
            part = self._parts.setdefault((name, within), Measured(name, within))
            if not part.calls:
                part.start_bytes = self._resident()
            self._running.append(part)
            start, worked = self._clock(), self._processor()
        try:
            yield
        finally:
            with self._lock:
                seconds = self._clock() - start
                part.processor_seconds += self._processor() - worked
                part.end_bytes = self._note_peak()
                self._running.remove(part)
                part.first_seconds = part.first_seconds if part.calls else seconds
                part.calls += 1
                part.seconds += seconds

    def _note_peak(self) -> int:
        """Add the peak so far to every running part, and begin a new one; return what is held."""
        held = self._resident()
        peak = max(self._read_peak(), held)  # the kernel's counters lag behind each other
        for part in self._running:
            part.peak_bytes = max(part.peak_bytes, peak)
        self.peaks_are_reset &= self._reset()
        return held

    @property
    def running(self) -> tuple[str, ...]:
        """Name of the parts that run now, the outermost first."""
        return tuple(part.name for part in self._running)

    def to_list(self) -> list[dict[str, Any]]:
        """Return the parts as plain JSON values, in the order in which they first began."""
        with self._lock:
            return [dataclasses.asdict(part) for part in self._parts.values()]


def peak_resident() -> int:
    """Return the peak of this process's resident set in bytes, since `reset_peak` on Linux."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        line = next(each for each in status.splitlines() if each.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return found if sys.platform == "darwin" else found * 1024


def reset_peak() -> bool:
    """Let the peak of the resident set begin anew; return whether the system can."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
