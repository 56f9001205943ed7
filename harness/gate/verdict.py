"""The answer of the gate: findings, the verdict over them, and how they are written."""

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from harness.artifacts import gate as artifact
from harness.artifacts import parts

Tier = Literal["exact", "time", "learning"]
TIERS: tuple[Tier, ...] = ("exact", "time", "learning")

AS_BEFORE = "as before"  # of equal figures


class Verdict(enum.StrEnum):
    """The four answers."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    NOT_COMPARABLE = "NOT COMPARABLE"


# What one answer means for the whole: a failure is certain whatever else is
# open, and where nothing could be compared nothing was decided either.
_GRAVITY = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.NOT_COMPARABLE, Verdict.FAIL)


def worst(verdicts: Any) -> Verdict:
    """Return the gravest of several verdicts; of none, NOT COMPARABLE: nothing was looked at."""
    return max(verdicts, key=_GRAVITY.index, default=Verdict.NOT_COMPARABLE)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
      tier: `exact`, `time` or `learning`.
      subject: The benchmark, or what else was looked at.
      verdict: The answer.
      text: One sentence of reasons.
      figures: The numbers behind it, as plain JSON values.
    """

    tier: Tier
    subject: str
    verdict: Verdict
    text: str
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def artifact(self) -> artifact.Finding:
        """Return the finding as it is written."""
        return artifact.Finding(
            tier=self.tier,
            subject=self.subject,
            verdict=self.verdict.value,
            text=self.text,
            figures=artifact.Figures(**self.figures),
        )


@dataclasses.dataclass(frozen=True)
class Report:
    """The gate's answer.

    Attributes:
      baseline: What the candidate was compared with, in words.
      candidate: What was judged, in words.
      findings: In the order in which they were made.
      environment: Where it was measured; see `harness.measure.environment`.
      evidence: What was measured, as plain JSON values.
    """

    baseline: str
    candidate: str
    findings: tuple[Finding, ...]
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    evidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """The gravest verdict of all findings."""
        return worst(finding.verdict for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0 for PASS, 1 for FAIL, 2 where no answer could be given."""
        return {Verdict.PASS: 0, Verdict.FAIL: 1}.get(self.verdict, 2)

    def of(self, tier: Tier) -> tuple[Finding, ...]:
        """Return the findings of one tier."""
        return tuple(finding for finding in self.findings if finding.tier == tier)

    def with_findings(self, findings: Iterable[Finding], **evidence: Any) -> "Report":
        """Return the report with more findings, and what was measured for them."""
        return dataclasses.replace(
            self,
            findings=(*self.findings, *findings),
            evidence={**self.evidence, **evidence},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values of `harness.artifacts.gate.Gate`."""
        return artifact.Gate(
            schema=artifact.SCHEMA,
            verdict=self.verdict.value,
            baseline=self.baseline,
            candidate=self.candidate,
            tiers={
                tier: str(worst(each.verdict for each in found))
                for tier in TIERS
                if (found := self.of(tier))
            },
            findings=[finding.artifact() for finding in self.findings],
            environment=parts.Environment.model_validate(self.environment),
            evidence=dict(self.evidence),
        ).to_json()

    def to_markdown(self) -> str:
        """Write the summary for a continuous-integration page.

        What did not pass comes first and one by one; what passed is counted,
        and shown too where more is known than that it is as before.
        """
        lines = [
            f"## Gate: {self.verdict}",
            "",
            f"{_cell(self.candidate)} against {_cell(self.baseline)}",
            "",
            "| tier | verdict | looked at | passed |",
            "| --- | --- | --- | --- |",
        ]
        for tier in TIERS:
            found = self.of(tier)
            passed = sum(finding.verdict == Verdict.PASS for finding in found)
            answer = worst(each.verdict for each in found) if found else "not asked"
            lines.append(f"| {tier} | {answer} | {len(found)} | {passed} |")
        open_ = [finding for finding in self.findings if finding.verdict != Verdict.PASS]
        open_.sort(key=lambda finding: -_GRAVITY.index(finding.verdict))
        if open_:
            lines += ["", "| verdict | tier | what | why |", "| --- | --- | --- | --- |"]
            lines += [
                f"| **{each.verdict}** | {each.tier} | `{_cell(each.subject)}` "
                f"| {_cell(each.text)} |"
                for each in open_
            ]
        shown = [finding for finding in self.findings if finding.text != AS_BEFORE]
        passed_ones = [finding for finding in shown if finding.verdict == Verdict.PASS]
        if passed_ones:
            lines += ["", "| passed | what | |", "| --- | --- | --- |"]
            lines += [
                f"| {each.tier} | `{_cell(each.subject)}` | {_cell(each.text)} |"
                for each in passed_ones
            ]
        return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
