"""Files that are there whole or not at all."""

import contextlib
import os
import pathlib
import secrets
from collections.abc import Iterator
from typing import IO

from harness import errors

# Ends the hidden names under which files are written; what has it is no result.
TEMPORARY = ".tmp"


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of another once it is whole.

    Until then it has a name of its own beside it, so that two processes may write the same
    file at once; the later one stays.

    Args:
      path: The file; its folder must exist.
      durable: Whether to wait until the content is on the disk before the file takes the
        name, so that a machine that is taken away leaves the old file or the new one.

    Yields:
      The file to write to.

    Raises:
      OSError: It cannot be written; what stood there still stands.
    """
    # Not by `tempfile`, whose files are their owner's alone: this one keeps its permissions.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_whole(path: pathlib.Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a file so that it is there whole or not at all.

    Args:
      path: The file; its folder must exist.
      content: What it holds afterwards; text is written in UTF-8.
      durable: As for `replacing`.

    Raises:
      HarnessError: It cannot be written; what stood there still stands.
    """
    try:
        with replacing(path, durable=durable) as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise cannot_write(path, error) from None


def remove_temporaries(folder: pathlib.Path) -> None:
    """Remove what processes that were killed while they wrote left in a folder.

    Args:
      folder: The folder, in which nothing may be written meanwhile; it need not exist.
    """
    for path in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            path.unlink()


def append_line(path: pathlib.Path, line: str) -> None:
    """Append a line to a text file and wait until it is on the disk.

    Args:
      path: The file; it is made if it is not there.
      line: Without its end.

    Raises:
      HarnessError: It cannot be written; a part of the line may stand there,
        without an end.
    """
    try:
        with path.open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: pathlib.Path, error: OSError) -> errors.HarnessError:
    """Return the error for a file that cannot be written, with the reason."""
    return errors.HarnessError(
        f"{path} cannot be written ({error.strerror}): make room or give another folder"
    )
