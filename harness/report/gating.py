"""Did it get worse: what the gate found, tier by tier."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.artifacts.gate import Finding, Gate
from harness.report import charts
from harness.report.page import Basis, Code, Figure, Gravity, Note, Part, Table
from harness.report.reading import Source


class _Look(NamedTuple):
    """How a verdict looks: its gravity, the colour of its mark, the class of its row."""

    gravity: Gravity
    tone: str
    row: str


# Gravest first.
LOOKS: Mapping[str, _Look] = {
    "FAIL": _Look("no", "no", "bad"),
    "NOT COMPARABLE": _Look("open", "open", "open"),
    "INCONCLUSIVE": _Look("open", "open", "open"),
    "PASS": _Look("yes", "s0", ""),
}
# How each tier comes to its figures.
TIER_BASIS: Mapping[str, Basis] = {"exact": "compiled", "time": "measured", "learning": "measured"}


def parts(source: Source, gate: Gate) -> list[Part]:
    """Show what a gate found."""
    named = f"{source.name}: {gate.candidate} against {gate.baseline}"
    if not gate.findings:
        return [Note(f"{named}: nothing was compared.")]
    found_parts: list[Part] = []
    if timed := [each for each in gate.findings if each.tier == "time" and each.figures.ratio]:
        found_parts.append(_ratios(named, timed))
    found = sorted(gate.findings, key=lambda each: list(LOOKS).index(each.verdict))
    for tier in dict.fromkeys([*TIER_BASIS, *(each.tier for each in found)]):
        here = [each for each in found if each.tier == tier]
        if not here:
            found_parts.append(Note(f"{source.name}: the {tier} tier was not run."))
        for passed in (False, True):
            rows = [each for each in here if (each.verdict == "PASS") == passed]
            if rows:
                found_parts.append(_findings(named, tier, rows, passed))
    return found_parts


def _findings(named: str, tier: str, findings: Sequence[Finding], passed: bool) -> Table:
    return Table(
        f"{tier} tier, {len(findings)} {'passed' if passed else 'not passed'} ({named})",
        (TIER_BASIS.get(tier, "measured"),),
        [
            {"verdict": each.verdict, "what": Code(each.subject), "why": each.text}
            for each in findings
        ],
        folded=passed,
        tones=[LOOKS[each.verdict].row for each in findings],
    )


def _ratios(named: str, timed: Sequence[Finding]) -> Figure:
    rows = []
    for each in timed:
        ratio = each.figures.ratio or 1.0
        ends = (each.figures.ratio_lower, ratio, each.figures.ratio_upper)
        known = [end for end in ends if end is not None]
        text, tone = f"{ratio - 1:+.1%} {each.verdict}", LOOKS[each.verdict].tone
        mark = charts.Mark(ratio, min(known), max(known), text, tone)
        rows.append(charts.Row(each.subject, (mark,)))
    clocks = {"CPU time" if each.figures.clock == "cpu" else "wall time" for each in timed}
    axis = charts.Axis(f"{' and '.join(sorted(clocks))}, candidate over baseline")
    rule, label = charts.Rule(1.0, "as before", tone="muted"), "Time over the baseline's"
    return Figure(
        f"Time over the baseline's, {named}",
        ("measured",),
        "Dot: mean over pairs of fresh processes. Line: the one-sided bounds by which the gate "
        "decides.",
        [charts.intervals(charts.WIDE, "", rows, axis, label=label, rule=rule)],
    )
