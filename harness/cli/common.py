"""What several commands do: write JSON, keep libraries quiet, end on SIGTERM."""

import contextlib
import json
import pathlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from harness.files import write_whole


def write_json(path: pathlib.Path | None, tree: Mapping[str, Any]) -> None:
    """Write plain JSON values to a file, if there is one.

    Args:
      path: The file; None writes nothing.
      tree: Plain JSON values.

    Raises:
      HarnessError: It cannot be written.
    """
    if path is not None:
        write_whole(path, json.dumps(tree, indent=2) + "\n")


def quiet_libraries() -> None:
    """Keep the libraries' own log lines out of the way of what was asked."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)


@contextlib.contextmanager
def until_terminated(out: pathlib.Path, *, at_once: bool) -> Iterator[Callable[[], bool]]:
    """Take SIGTERM for the wish to end.

    Args:
      out: The run's folder, for the message.
      at_once: Whether the first signal ends the run; if not, the second does.

    Yields:
      A function that returns whether there is the wish.
    """
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        del frame
        if at_once or asked:
            raise terminated(out)
        asked.append(number)
        click.echo("stopping once the batch in hand is done and saved", err=True)

    from harness.training.run_dir import terminated

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)
