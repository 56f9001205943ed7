"""One page that a person wants to open, from any number of results.

It needs no other file, no network and no script. It reads JSON alone, and so
imports nothing of the harness but its errors and files.
"""

import pathlib
from collections.abc import Sequence

from harness.report import (
    conformance,
    gating,
    learning,
    memory,
    page,
    reading,
    sizes,
    timing,
    verdicts,
)


def make(paths: Sequence[pathlib.Path]) -> tuple[str, reading.Sources]:
    """Make the page.

    The same results give the same page, byte for byte.

    Args:
      paths: Files with results, and folders that are searched for them.

    Returns:
      HTML, and what it was made from.

    Raises:
      HarnessError: A result cannot be used, there is none, or jinja2 is not
        installed.
    """
    sources = reading.read(paths)
    answers = verdicts.answers(sources)
    sections = (
        verdicts.environment(sources),
        learning.section(sources),
        conformance.section(sources),
        memory.section(sources),
        sizes.section(sources),
        timing.section(sources),
        gating.section(sources),
        _files(sources),
    )
    return page.render(verdicts.headline(answers), answers, sections), sources


def _files(sources: reading.Sources) -> page.Section:
    parts: list[page.Part] = [
        page.Table(
            head=("result", "file"),
            rows=tuple((each.name, str(each.path)) for each in sources.used),
            basis=(),
            caption="Used",
            code=frozenset({1}),
        )
    ]
    if sources.skipped:
        parts.append(
            page.Table(
                head=("file", "why it is no result"),
                rows=tuple((str(each.path), each.why) for each in sources.skipped),
                basis=(),
                caption=f"Skipped: {len(sources.skipped)} JSON files of the folders",
                folded=True,
                code=frozenset({0}),
            )
        )
    return page.Section("files", "What this page was made from", tuple(parts))
