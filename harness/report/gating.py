"""Did it get worse: what the gate found, tier by tier."""

from harness.report import charts, kinds, svg
from harness.report.page import WIDE, Basis, Figure, Note, Part, Section, Table, picture
from harness.report.reading import Source, Sources
from harness.report.verdicts import TIER_BASIS

_COMMAND = "python -m harness gate --against REF --json gate.json"
_ORDER = ("FAIL", "NOT COMPARABLE", "INCONCLUSIVE", "PASS")
_TONES = {"FAIL": "bad", "NOT COMPARABLE": "open", "INCONCLUSIVE": "open", "PASS": "s0"}
_TIERS = ("exact", "time", "learning")


def section(sources: Sources) -> Section:
    """Show what the gates found."""
    title = "Did it get worse?"
    gates = sources.of(kinds.Gate)
    if not gates:
        missing = Note("No gate was given: nothing was compared.", _COMMAND, True)
        return Section("gate", title, (missing,))
    return Section("gate", title, tuple(part for gate in gates for part in _gate(*gate)))


def _gate(source: Source, gate: kinds.Gate) -> list[Part]:
    named = f"{source.name}: {gate.candidate} against {gate.baseline}"
    parts: list[Part] = []
    if not gate.findings:
        return [Note(f"{named}: nothing was looked at.", missing=True)]
    timed = [
        each
        for each in gate.findings
        if each.tier == "time" and each.figures.ratio and each.figures.ratio_lower is not None
    ]
    if timed:
        parts.append(_ratios(named, timed))
    found = sorted(gate.findings, key=lambda each: _ORDER.index(each.verdict))
    for tier in dict.fromkeys([*_TIERS, *(each.tier for each in found)]):
        here = [each for each in found if each.tier == tier]
        if not here:
            parts.append(Note(f"{source.name}: the {tier} tier was not asked.", missing=True))
            continue
        for passed in (False, True):
            rows = [each for each in here if (each.verdict == "PASS") == passed]
            if rows:
                parts.append(_findings(named, tier, rows, passed))
    return parts


def _findings(named: str, tier: str, rows: list[kinds.GateFinding], passed: bool) -> Table:
    basis: Basis = TIER_BASIS.get(tier, "measured")
    word = "passed" if passed else "not passed"
    return Table(
        head=("verdict", "what", "why"),
        rows=tuple((each.verdict, each.subject, each.text) for each in rows),
        basis=(basis,),
        caption=f"{tier} tier, {len(rows)} {word} ({named})",
        folded=passed,
        code=frozenset({1}),
        tones=tuple(_TONES[each.verdict] for each in rows),
    )


def _ratios(named: str, timed: list[kinds.GateFinding]) -> Figure:
    rows = []
    for each in timed:
        ratio = each.figures.ratio or 1.0
        low = each.figures.ratio_lower or ratio
        high = ratio if each.figures.ratio_upper is None else each.figures.ratio_upper
        said = f"{ratio - 1:+.1%} {each.verdict}"
        mark = charts.Mark(ratio, min(low, ratio), max(high, ratio), said, _TONES[each.verdict])
        rows.append(charts.Row(each.subject, (mark,)))
    label = "Time over the baseline's: " + "; ".join(
        f"{row.name} {row.marks[0].said}" for row in rows
    )
    clocks = sorted({"CPU time" if each.figures.clock == "cpu" else "wall time" for each in timed})
    return Figure(
        title=f"Time over the baseline's, {named}",
        basis=("measured",),
        pictures=(
            picture(
                lambda w: charts.intervals(
                    rows,
                    charts.Axis(f"{' and '.join(clocks)}, candidate over baseline", svg.number),
                    label=label,
                    width=w,
                    rules=(charts.Rule(1.0, "as before", "x", "zero"),),
                ),
                WIDE,
            ),
        ),
        caption="Dot: mean over pairs of fresh processes. Line: the one-sided bounds by which the "
        "gate decides.",
    )
