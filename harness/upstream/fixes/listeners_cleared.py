"""Closing a metrics logger clears the listeners of the whole process, and keeps its own.

Expected: after `MetricsLogger.close`, a listener that someone else registered still
receives events, and the closed backend is given no more values.
Got: the reverse. `jax.monitoring.clear_event_listeners` drops all but scalar listeners.
"""

import types

import jax
from tunix.sft import metrics_logger

from harness.upstream.fixes._prelude import logging_to
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="listeners-cleared",
    title="Closing the metrics logger clears every listener of the process.",
    where="tunix/sft/metrics_logger.py:190",
    effect="Monitoring of others is lost; the logger's own scalar listener stays.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    events: list[str] = []
    values: list[str] = []
    backend = types.SimpleNamespace(
        log_scalar=lambda name, value, **_: values.append(name), close=lambda: None
    )
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    metrics_logger.MetricsLogger(logging_to(backend)).close()
    jax.monitoring.record_event("/event")
    jax.monitoring.record_scalar("/value", 1.0, step=0)
    print("expected: the listener recorded ['/event'], the closed backend []")
    print(f"got: the listener recorded {events}, the closed backend {values}")
    return "/event" not in events and "/value" in values
