"""Seconds, seconds of compilation and peak memory of each phase of a run."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax.monitoring

from harness.measure import memory, parts

COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(frozen=True)
class Phase:
    """What one phase took.

    Attributes:
      name: Name of the phase.
      seconds: Wall time. Work that is still running on a device when the phase
        ends is not waited for.
      compile_seconds: Sum of XLA's compile times, over all threads; a program
        taken from the persistent cache counts with the time to load it.
      peak_bytes: Largest peak of a device since the process began; None where
        no device reports it.
    """

    name: str
    seconds: float
    compile_seconds: float
    peak_bytes: int | None


class Phases:
    """Records phases in their order: `with phases("train"): ...`.

    A phase that raises is recorded too. Upstream's metrics logger, when it is
    closed, removes every listener of `jax.monitoring`. Each phase listens anew,
    so that costs at most the compile seconds between the closing and the end of
    the phase in which it happens; what was recorded before remains.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        part: parts.Part = parts.unmeasured,
    ) -> None:
        """Begin without phases.

        Args:
          clock: Returns seconds from any fixed moment.
          part: Measures each phase too, by its name.
        """
        self._clock = clock
        self._part = part
        self._phases: list[Phase] = []
        self._running: str | None = None

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Record the block as a phase.

        Args:
          name: Name of the phase; names may repeat.

        Yields:
          Nothing.

        Raises:
          ValueError: Another phase is running.
        """
        if self._running is not None:
            raise ValueError(f"phase '{name}' begins inside phase '{self._running}'")
        # A list, because programs may be compiled on several threads at once.
        compiled: list[float] = []

        def listen(event: str, duration_secs: float, **_: str | int) -> None:
            if event == COMPILE_EVENT:
                compiled.append(duration_secs)

        self._running = name
        jax.monitoring.register_event_duration_secs_listener(listen)
        start = self._clock()
        try:
            with self._part(name):
                yield
        finally:
            seconds = self._clock() - start
            # JAX asserts that the listener is there; without assertions,
            # removing it from the list fails.
            with contextlib.suppress(AssertionError, ValueError):
                jax.monitoring.unregister_event_duration_listener(listen)
            self._running = None
            self._phases.append(Phase(name, seconds, math.fsum(compiled), memory.peak_bytes()))

    def to_list(self) -> list[dict[str, Any]]:
        """Return the phases so far as plain JSON values, first to last."""
        return [dataclasses.asdict(phase) for phase in self._phases]
