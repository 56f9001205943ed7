"""What JAX traced and compiled meanwhile, recorded from `jax.monitoring`."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax.monitoring

TRACED = "/jax/core/compile/jaxpr_trace_duration"
LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
COMPILED = "/jax/core/compile/backend_compile_duration"
CACHE_HIT = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass(frozen=True)
class CompileStatistics:
    """Counts and seconds over a stretch of time, over all threads.

    Attributes:
      traces: Functions traced; one that is traced again counts again.
      compiles: Programs compiled. A program from the persistent cache was
        not, though JAX times it as if it were.
      cache_hits: Programs taken from the persistent cache.
      trace_seconds: Seconds of tracing to a jaxpr; those of a function that is
        called while another is traced are in both.
      lower_seconds: Seconds from jaxpr to StableHLO.
      compile_seconds: Seconds in XLA, and those of loading from the cache.
      names: Function name -> programs compiled or loaded.
    """

    traces: int
    compiles: int
    cache_hits: int
    trace_seconds: float
    lower_seconds: float
    compile_seconds: float
    names: Mapping[str, int]

    def since(self, before: "CompileStatistics") -> "CompileStatistics":
        """Return what came after an earlier reading of the same listener."""
        names = Counter(self.names)
        names.subtract(before.names)
        return CompileStatistics(
            traces=self.traces - before.traces,
            compiles=self.compiles - before.compiles,
            cache_hits=self.cache_hits - before.cache_hits,
            trace_seconds=self.trace_seconds - before.trace_seconds,
            lower_seconds=self.lower_seconds - before.lower_seconds,
            compile_seconds=self.compile_seconds - before.compile_seconds,
            names={name: count for name, count in names.items() if count},
        )


class Listener(contextlib.AbstractContextManager["Listener"]):
    """Listens while its block runs; `statistics` may be read at any time.

    Only its own listeners are removed at the end: `clear_event_listeners`
    would remove those of others too.
    """

    def __init__(self) -> None:
        """Register nothing yet; entering the block does."""
        # Lists, because programs may be compiled on several threads at once.
        self._durations: list[tuple[str, float, str]] = []
        self._hits: list[str] = []

    def __enter__(self) -> "Listener":
        """Begin to listen."""
        jax.monitoring.register_event_duration_secs_listener(self._record_duration)
        jax.monitoring.register_event_listener(self._record_event)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening; listeners cleared meanwhile are no error."""
        with contextlib.suppress(AssertionError, ValueError):
            jax.monitoring.unregister_event_duration_listener(self._record_duration)
        with contextlib.suppress(AssertionError, ValueError):
            jax.monitoring.unregister_event_listener(self._record_event)

    @property
    def statistics(self) -> CompileStatistics:
        """What was recorded so far."""
        durations, hits = list(self._durations), len(self._hits)
        seconds = {
            event: [spent for each, spent, _ in durations if each == event]
            for event in (TRACED, LOWERED, COMPILED)
        }
        return CompileStatistics(
            traces=len(seconds[TRACED]),
            # The backend's duration is reported for a cache hit too.
            compiles=len(seconds[COMPILED]) - hits,
            cache_hits=hits,
            trace_seconds=sum(seconds[TRACED]),
            lower_seconds=sum(seconds[LOWERED]),
            compile_seconds=sum(seconds[COMPILED]),
            names=Counter(name for each, _, name in durations if each == COMPILED),
        )

    def _record_duration(self, event: str, duration_secs: float, **details: Any) -> None:
        if event in (TRACED, LOWERED, COMPILED):
            self._durations.append((event, duration_secs, str(details.get("fun_name", ""))))

    def _record_event(self, event: str, **_: Any) -> None:
        if event == CACHE_HIT:
            self._hits.append(event)
