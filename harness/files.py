"""Files that are there whole or not at all."""

import os
import pathlib

from harness import errors


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a text file under a temporary name, then gives it its own.

    Args:
      path: The file; its folder must exist.
      text: What it holds afterwards, in UTF-8.

    Raises:
      HarnessError: It cannot be written; what stood there still stands.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise errors.HarnessError(
            f"{path} cannot be written ({error.strerror}): make room or give another place"
        ) from None
