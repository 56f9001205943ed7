"""Did it get worse: what the gate found, tier by tier."""

from harness.artifacts.gate import Finding, Gate
from harness.report import charts, forms
from harness.report.page import WIDE, Figure, Note, Part, Table, picture
from harness.report.reading import Source
from harness.report.verdicts import TIER_BASIS

# Gravest first, each with a colour and a class of a table's row.
_TONES = {"FAIL": "no", "NOT COMPARABLE": "open", "INCONCLUSIVE": "open", "PASS": "s0"}
_CLASSES = {"FAIL": "bad", "NOT COMPARABLE": "open", "INCONCLUSIVE": "open", "PASS": ""}
_TIERS = ("exact", "time", "learning")


def parts(source: Source, gate: Gate) -> list[Part]:
    """Show what a gate found."""
    named = f"{source.name}: {gate.candidate} against {gate.baseline}"
    if not gate.findings:
        return [Note(f"{named}: nothing was compared.")]
    found_parts: list[Part] = []
    timed = [
        each
        for each in gate.findings
        if each.tier == "time" and each.figures.ratio and each.figures.ratio_lower is not None
    ]
    if timed:
        found_parts.append(_ratios(named, timed))
    found = sorted(gate.findings, key=lambda each: list(_TONES).index(each.verdict))
    for tier in dict.fromkeys([*_TIERS, *(each.tier for each in found)]):
        here = [each for each in found if each.tier == tier]
        if not here:
            found_parts.append(Note(f"{source.name}: the {tier} tier was not run."))
        for passed in (False, True):
            rows = [each for each in here if (each.verdict == "PASS") == passed]
            if rows:
                found_parts.append(_findings(named, tier, rows, passed))
    return found_parts


def _findings(named: str, tier: str, rows: list[Finding], passed: bool) -> Table:
    return Table(
        ("verdict", "what", "why"),
        [(each.verdict, each.subject, each.text) for each in rows],
        (TIER_BASIS.get(tier, "measured"),),
        f"{tier} tier, {len(rows)} {'passed' if passed else 'not passed'} ({named})",
        folded=passed,
        code={1},
        tones=[_CLASSES[each.verdict] for each in rows],
    )


def _ratios(named: str, timed: list[Finding]) -> Figure:
    rows = []
    for each in timed:
        ratio = each.figures.ratio or 1.0
        low = each.figures.ratio_lower or ratio
        high = ratio if each.figures.ratio_upper is None else each.figures.ratio_upper
        text = f"{ratio - 1:+.1%} {each.verdict}"
        mark = charts.Mark(ratio, min(low, ratio), max(high, ratio), text, _TONES[each.verdict])
        rows.append(charts.Row(each.subject, (mark,)))
    label = "Time over the baseline's: " + "; ".join(
        f"{row.name} {row.marks[0].text}" for row in rows
    )
    clocks = sorted(
        {"CPU time" if each.figures.clock == "cpu" else "wall-clock time" for each in timed}
    )
    axis = charts.Axis(f"{' and '.join(clocks)}, candidate over baseline", forms.number)
    rule = charts.Rule(1.0, "as before", tone="muted")
    return Figure(
        title=f"Time over the baseline's, {named}",
        basis=("measured",),
        pictures=[
            picture(lambda w: charts.intervals(rows, axis, label=label, width=w, rule=rule), WIDE)
        ],
        caption="Dot: mean over pairs of fresh processes. Line: the one-sided bounds by which the "
        "gate decides.",
    )
