"""Files that are there whole or not at all."""

import os
import pathlib

from harness import errors


def write_whole(path: pathlib.Path, content: str | bytes) -> None:
    """Writes a file under a temporary name, then gives it its own.

    What is written is on the disk before the name is given, so that a machine
    that is taken away leaves the old file or the new one.

    Args:
      path: The file; its folder must exist.
      content: What it holds afterwards; text is written in UTF-8.

    Raises:
      HarnessError: It cannot be written; what stood there still stands.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from None


def append_line(path: pathlib.Path, line: str) -> None:
    """Adds a line to a text file and sees it onto the disk.

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
    """Says that a file cannot be written, and why."""
    return errors.HarnessError(
        f"{path} cannot be written ({error.strerror}): make room or give another place"
    )
