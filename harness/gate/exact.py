"""The exact tier: figures that are the same at every run, so that any change is one.

More of what costs is a regression. Less of it fails too where the baseline is
a stored one: it is then stale, and the next regression could hide below it. A
baseline that is measured at the same time cannot be stale.
"""

from collections.abc import Mapping
from typing import Literal

from harness.gate import records
from harness.gate.verdict import AS_BEFORE, Finding, Verdict

Better = Literal["less", "more"]

# Every figure that is gated, and which way is better.
FIGURES: Mapping[str, Better] = {
    "compile_count": "less",
    "retraces": "less",
    "argument_bytes": "less",
    "output_bytes": "less",
    "alias_bytes": "more",
    "temp_bytes": "less",
    "donated_bytes": "more",
    "flops": "less",
    "largest_micro_batch": "more",
}
UPDATE = "run `gate --update-baseline --reason WHY`"


def compare(
    baseline: records.Record, candidate: records.Record, *, stored: bool = True
) -> tuple[Finding, ...]:
    """Compare a candidate's figures with a baseline's.

    Args:
      baseline: What was measured before.
      candidate: What is judged.
      stored: Whether the baseline is stored for later candidates too, and so must
        be renewed when a candidate is better.

    Returns:
      A finding per benchmark. If the two were not measured under like
      conditions there is one, NOT COMPARABLE, that names what differs.
    """
    differing = records.differences(baseline, candidate)
    if differing:
        return (Finding("exact", "conditions", Verdict.NOT_COMPARABLE, "; ".join(differing)),)
    if not baseline.exact and not candidate.exact:
        return (
            Finding(
                "exact",
                "figures",
                Verdict.NOT_COMPARABLE,
                f"neither {baseline.label} nor {candidate.label} holds an exact figure",
            ),
        )
    return tuple(
        _compare_one(name, baseline.exact.get(name), candidate.exact.get(name), stored)
        for name in sorted({*baseline.exact, *candidate.exact})
    )


def _compare_one(
    name: str, old: Mapping[str, int] | None, new: Mapping[str, int] | None, stored: bool
) -> Finding:
    stale = f"stale baseline, {UPDATE}: " if stored else ""
    if_meant = f"; if it is meant, {UPDATE}" if stored else ""
    if new is None:
        return Finding(
            "exact",
            name,
            Verdict.FAIL,
            f"missing: only the baseline has it{if_meant}",
        )
    if old is None:
        return Finding(
            "exact",
            name,
            Verdict.FAIL,
            f"new: no baseline holds it, so that nothing watches it{if_meant}",
        )
    worse, better, other = [], [], []
    for figure in [each for each in FIGURES if each in old or each in new]:
        before, after = old.get(figure), new.get(figure)
        text = f"{figure} {_count(before)} -> {_count(after)}"
        if before is None or after is None:
            other.append(text)
        elif before != after:
            text += f" ({_change(before, after)})"
            more_is_worse = FIGURES[figure] == "less"
            (worse if (after > before) == more_is_worse else better).append(text)
    figures = {"baseline": dict(old), "candidate": dict(new)}
    if not (worse or better or other):
        return Finding("exact", name, Verdict.PASS, AS_BEFORE, figures)
    parts = []
    if worse:
        parts.append(f"worse: {', '.join(worse)}")
    if better:
        parts.append(f"{stale}better by {', '.join(better)}")
    if other:
        parts.append(f"a figure came or went: {', '.join(other)}{if_meant}")
    verdict = Verdict.FAIL if worse or other or stored else Verdict.PASS
    return Finding("exact", name, verdict, "; ".join(parts), figures)


def _count(value: int | None) -> str:
    return "nothing" if value is None else f"{value:,}"


def _change(before: int, after: int) -> str:
    return f"{after / before - 1:+.2%}" if before else "from 0"
