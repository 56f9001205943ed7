"""The page's sections, in their order: what each is made from, and how to get what is missing."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from harness.artifacts.bench import Bench
from harness.artifacts.check import Check
from harness.artifacts.gate import Gate
from harness.artifacts.plan import Plan
from harness.artifacts.run import Run
from harness.report import conformance, gating, learning, memory, sizes, timing, verdicts
from harness.report.page import Note, Part, Section, Table, render
from harness.report.reading import Source, Sources

_RUN = "python -m harness run --preset tiny --out DIR"
_PLAN = "python -m harness plan --preset gemma3-1b --chip v6e-1 --json plan.json"
_BENCH = "pytest benchmarks --benchmark-only --benchmark-json bench.json"
_CHECK = "python -m harness check --json check.json"
_GATE = "python -m harness gate --against REF --json gate.json"
Found = Sequence[tuple[Source, Any]]


@dataclasses.dataclass(frozen=True)
class Given:
    """What a section makes of one kind of result.

    Attributes:
      model: The kind.
      make: Makes parts of all results of the kind.
      missing: Said where there is none; nothing is if it is empty.
      command: What would make one.
    """

    model: type
    make: Callable[[Found], list[Part]]
    missing: str = ""
    command: str = ""


def _each(make: Callable[[Source, Any], list[Part]]) -> Callable[[Found], list[Part]]:
    return lambda found: [part for source, tree in found for part in make(source, tree)]


_LEARNING = Given(Run, learning.parts, "No run was given: nothing is known of learning.", _RUN)
_RIGHT = Given(
    Check, _each(conformance.parts), "No check was given: no property was checked.", _CHECK
)
_HBM = Given(Plan, _each(memory.planned), "No plan was given: nothing is known of HBM.", _PLAN)
_SPEED = Given(Bench, _each(sizes.of_bench), "No benchmarks were given: no throughput.", _BENCH)
_LARGEST = Given(
    Plan, _each(sizes.of_plan), "No plan was given: no largest micro-batch.", sizes.SWEEP
)
_TIME = Given(
    Run, _each(timing.of_run), "No run was given: where a run's time goes is not known.", _RUN
)
_COMPARED = Given(Gate, _each(gating.parts), "No gate was given: nothing was compared.", _GATE)
_SECTIONS = (
    ("learning", "Did it learn?", [_LEARNING]),
    ("properties", "Is it right?", [_RIGHT]),
    ("memory", "Does it fit?", [_HBM, Given(Run, _each(memory.measured))]),
    ("sizes", "How large a micro-batch?", [_SPEED, _LARGEST]),
    (
        "time",
        "Where does the time go?",
        [_TIME, Given(Bench, _each(timing.of_bench)), Given(Plan, _each(timing.of_plan))],
    ),
    ("gate", "Did it get worse?", [_COMPARED]),
)


def page(sources: Sources) -> str:
    """Return the page of some results as HTML."""
    sections = [verdicts.environment(sources)]
    for anchor, title, given in _SECTIONS:
        parts: list[Part] = []
        for each in given:
            if found := sources.of(each.model):
                parts += each.make(found)
            elif each.missing:
                parts.append(Note(each.missing, each.command))
        sections.append(Section(anchor, title, parts))
    answers = verdicts.answers(sources)
    return render(verdicts.headline(answers), answers, [*sections, _files(sources)])


def _files(sources: Sources) -> Section:
    used = [(each.name, str(each.path)) for each in sources.used]
    parts: list[Part] = [Table(("result", "file"), used, (), "Used", code={1})]
    if sources.skipped:
        rows = [(str(each.path), each.why) for each in sources.skipped]
        caption = f"Skipped: {len(rows)} JSON files of the folders"
        head = ("file", "why it is no result")
        parts.append(Table(head, rows, (), caption, folded=True, code={0}))
    return Section("files", "What this page was made from", parts)
