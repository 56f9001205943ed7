"""One page that a person wants to open, from any number of results.

It needs no other file, no network and no script. It reads JSON through
`harness.artifacts` alone.
"""

import importlib
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.report.reading import Sources


def make(paths: Sequence[pathlib.Path]) -> tuple[str, "Sources"]:
    """Make the page.

    The same results give the same page, byte for byte.

    Args:
      paths: Files with results, and folders that are searched for them.

    Returns:
      HTML, and what it was made from.

    Raises:
      HarnessError: A result cannot be used, there is none, or what the page is
        made with is not installed.
    """
    for name in ("jinja2", "matplotlib"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise HarnessError(
                f"the page is made with {name}, which is not installed: "
                "pip install 'tunix-ppo-harness[report]'"
            ) from None
    from harness.report import reading, sections

    sources = reading.read(paths)
    return sections.page(sources), sources
