"""Closing a metrics logger clears the listeners of the whole process, and keeps its own.

Expected: after `MetricsLogger.close`, a listener that someone else registered still
hears of events, and the closed backend is given no more values.
Got: the reverse. `jax.monitoring.clear_event_listeners` drops all but scalar listeners.
"""

import types
from typing import Any

import jax
from tunix.sft import metrics_logger


def main() -> bool:
    """Gives whether the defect shows."""
    events: list[str] = []
    values: list[str] = []
    backend: Any = types.SimpleNamespace(
        log_scalar=lambda name, value, **_: values.append(name), close=lambda: None
    )
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    make: Any = metrics_logger.MetricsLoggerOptions  # 0.1.7 named the argument anew
    try:
        options = make(log_dir="", backend_kwargs={"custom_backend": [lambda: backend]})
    except TypeError:
        options = make(log_dir="", backend_factories=[lambda: backend])
    metrics_logger.MetricsLogger(options).close()
    jax.monitoring.record_event("/event")
    jax.monitoring.record_scalar("/value", 1.0, step=0)
    print("expected: the listener heard ['/event'], the closed backend []")
    print(f"got: the listener heard {events}, the closed backend {values}")
    return "/event" not in events and "/value" in values


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
