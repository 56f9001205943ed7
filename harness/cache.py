"""Where prepared data, warm starts and compiled answers are saved between runs."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import IO

from harness import errors, files

_VARIABLE = "PPO_HARNESS_CACHE"
_NAME = "tunix-ppo-harness"


def cache_root() -> pathlib.Path:
    """Return the cache folder, which need not exist.

    It is the environment variable `PPO_HARNESS_CACHE`, or where that is unset or empty
    `tunix-ppo-harness` in the user's cache folder, on Linux `~/.cache`.
    """
    chosen = os.environ.get(_VARIABLE)
    if chosen:
        return pathlib.Path(chosen).expanduser()
    # A program whose packages are broken asks for this folder too, to report that.
    import platformdirs

    return platformdirs.user_cache_path(_NAME, appauthor=False)


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """Open a file of the cache that takes the place of another once it is whole.

    Args:
      path: The file; folders above it are made.

    Yields:
      The file to write to.

    Raises:
      HarnessError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What is lost with the machine is computed again.
        with files.replacing(path, durable=False) as file:
            yield file
    except OSError as error:
        raise cannot_write(path.parent, error.strerror) from None


def cannot_write(folder: pathlib.Path, reason: str | None) -> errors.HarnessError:
    """Return the error for a folder of the cache that cannot be written."""
    return errors.HarnessError(
        f"the cache folder {folder} cannot be written ({reason}): set {_VARIABLE} to one that can"
    )
