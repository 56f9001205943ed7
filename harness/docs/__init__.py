"""Reference pages written from the code: the recipe, known issues, properties, fixtures, ...

`python -m harness.docs` writes them to `docs/reference/`, where they are
committed; `python -m harness.docs --check` says which are out of date.
"""

import pathlib
from collections.abc import Callable, Mapping

from harness.docs import (
    commands,
    committed_plan,
    fixtures,
    known_issues,
    properties,
    recipe_fields,
)

PAGES: Mapping[str, Callable[[], str]] = {
    "recipe.md": recipe_fields.page,
    "known_issues.md": known_issues.page,
    "properties.md": properties.page,
    "fixtures.md": fixtures.page,
    "commands.md": commands.page,
    "plan.md": committed_plan.page,
}


def write(folder: pathlib.Path) -> list[pathlib.Path]:
    """Write every page to a folder, which is made if it does not exist.

    Args:
      folder: Where the pages go.

    Returns:
      Paths of the pages whose text changed.

    Raises:
      OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changed = []
    for name in stale(folder):
        (folder / name).write_text(PAGES[name](), encoding="utf-8")
        changed.append(folder / name)
    return changed


def stale(folder: pathlib.Path) -> list[str]:
    """Return the names of the pages that are missing or out of date.

    Args:
      folder: Where the pages are.

    Returns:
      Names in `PAGES`, in its order; empty if all are up to date.
    """
    return [name for name, page in PAGES.items() if _read(folder / name) != page()]


def _read(path: pathlib.Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
