"""Command line of the reference pages: `python -m harness.docs [--check] [FOLDER]`."""

import argparse
import pathlib
import sys

from harness import docs


def main(argv: list[str] | None = None) -> int:
    """Write the pages, or say which are out of date.

    Args:
      argv: Arguments; those of the process if None.

    Returns:
      Exit code: 0 if the pages were written or are up to date, 1 if `--check`
      found a page that is not.
    """
    parser = argparse.ArgumentParser(prog="python -m harness.docs", description=docs.__doc__)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default="docs/reference")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args(argv)
    if not arguments.check:
        for path in docs.write(arguments.folder):
            print(f"written: {path}")
        return 0
    found = docs.stale(arguments.folder)
    for name in found:
        print(f"out of date: {arguments.folder / name}; run python -m harness.docs")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
