"""The page's sections, in their order: what each is made from, and how to get what is missing."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from harness.artifacts.bench import Bench
from harness.artifacts.check import Check
from harness.artifacts.gate import Gate
from harness.artifacts.plan import Plan
from harness.artifacts.run import Run
from harness.report import conformance, gating, learning, memory, sizes, timing, verdicts
from harness.report.page import Code, Note, Part, Section, Table, render
from harness.report.reading import Source, Sources

_RUN = "python -m harness run --preset tiny --out DIR"
_PLAN = "python -m harness plan --preset gemma3-1b --chip v6e-1 --json plan.json"
_BENCH = "pytest benchmarks --benchmark-only --benchmark-json bench.json"
_CHECK = "python -m harness check --json check.json"
_GATE = "python -m harness gate --against REF --json gate.json"
_Maker = Callable[[Sequence[tuple[Source, Any]]], list[Part]]


class _Given(NamedTuple):
    """What a section makes of all results of a kind, and the note and command where none is."""

    model: type
    make: _Maker
    missing: str = ""
    command: str = ""


def _each(make: Callable[[Source, Any], list[Part]]) -> _Maker:
    return lambda found: [part for source, tree in found for part in make(source, tree)]


_SECTIONS = {
    ("learning", "Did it learn?"): [
        _Given(Run, learning.parts, "No run was given: nothing is known of learning.", _RUN)
    ],
    ("properties", "Is it right?"): [
        _Given(
            Check, _each(conformance.parts), "No check was given: no property was checked.", _CHECK
        )
    ],
    ("memory", "Does it fit?"): [
        _Given(Plan, _each(memory.planned), "No plan was given: nothing is known of HBM.", _PLAN),
        _Given(Run, _each(memory.measured)),
    ],
    ("sizes", "How large a micro-batch?"): [
        _Given(Bench, _each(sizes.of_bench), "No benchmarks were given: no throughput.", _BENCH),
        _Given(
            Plan, _each(sizes.of_plan), "No plan was given: no largest micro-batch.", sizes.SWEEP
        ),
    ],
    ("time", "Where does the time go?"): [
        _Given(
            Run,
            _each(timing.of_run),
            "No run was given: where a run's time goes is not known.",
            _RUN,
        ),
        _Given(Bench, _each(timing.of_bench)),
        _Given(Plan, _each(timing.of_plan)),
    ],
    ("gate", "Did it get worse?"): [
        _Given(Gate, _each(gating.parts), "No gate was given: nothing was compared.", _GATE)
    ],
}


def page(sources: Sources) -> str:
    """Return the page of some results as HTML."""
    sections = [verdicts.environment(sources)]
    for (anchor, title), given in _SECTIONS.items():
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
    used = [{"result": each.name, "file": Code(each.path)} for each in sources.used]
    parts = [Table("Used", (), used)]
    if sources.skipped:
        rows = [
            {"file": Code(each.path), "why it is no result": each.why} for each in sources.skipped
        ]
        caption = f"Skipped: {len(rows)} JSON files of the folders"
        parts.append(Table(caption, (), rows, folded=True))
    return Section("files", "What this page was made from", parts)
