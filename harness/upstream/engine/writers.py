"""TensorBoard's writers, kept from hanging a run when the disk takes no more."""

from collections.abc import Callable
from typing import Any


def watch(logger: Any) -> list[OSError]:
    """Keep the threads that write a logger's figures alive when a write fails.

    They would die of it, and logging would wait for ever once their queue is full.

    Args:
      logger: Of a cluster; it is watched once, however often this is asked.

    Returns:
      The errors met so far; the list grows. What comes after one is not written.
    """
    failed: list[OSError] | None = getattr(logger, "failed_writes", None)
    if failed is None:
        failed = logger.failed_writes = []
        for backend in logger._backends:
            _watch(backend, failed)
    return failed


def _watch(backend: Any, failed: list[OSError]) -> None:
    writer = getattr(getattr(backend, "_writer", None), "file_writer", None)
    if writer is None:
        return
    events = writer.event_writer._ev_writer

    def safely(act: Callable[..., Any]) -> Callable[..., Any]:
        def acting(*arguments: Any) -> Any:
            if failed:
                return None
            try:
                return act(*arguments)
            except OSError as error:
                failed.append(error)

        return acting

    events.write_event, events.flush = safely(events.write_event), safely(events.flush)
    events.close = safely(events.close)
