"""The page's sections, in their order."""

from harness.report import conformance, gating, learning, memory, sizes, timing, verdicts
from harness.report.page import Part, Section, Table, render
from harness.report.reading import Sources


def page(sources: Sources) -> str:
    """Return the page of some results as HTML."""
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
    return render(verdicts.headline(answers), answers, sections)


def _files(sources: Sources) -> Section:
    used = [(each.name, str(each.path)) for each in sources.used]
    parts: list[Part] = [Table(("result", "file"), used, (), "Used", code={1})]
    if sources.skipped:
        parts.append(
            Table(
                ("file", "why it is no result"),
                [(str(each.path), each.why) for each in sources.skipped],
                (),
                f"Skipped: {len(sources.skipped)} JSON files of the folders",
                folded=True,
                code={0},
            )
        )
    return Section("files", "What this page was made from", parts)
