"""Runs the properties and the reproductions, and report what they found."""

import concurrent.futures
import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from harness import checks, errors, upstream
from harness.artifacts import check as artifact
from harness.checks import property as property_lib
from harness.checks.context import Context


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What a defect's own script printed.

    Attributes:
      shows: Whether the defect shows; none if the script failed otherwise.
      output: What it printed, its last error line if it failed.
    """

    shows: bool | None
    output: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """What became of one known issue.

    Attributes:
      defect: The entry.
      present: Whether it is in this Tunix; none if nothing looked.
      fixed: Whether its fix was in place.
      reproduction: What its script printed, if it was run.
    """

    defect: upstream.KnownIssue
    present: bool | None
    fixed: bool
    reproduction: Reproduction | None


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
      mode: `patched` or `stock`.
      version: Of Tunix.
      outcomes: Of each property.
      findings: of each known issue.
    """

    mode: upstream.Mode
    version: str
    outcomes: list[property_lib.Outcome]
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong beyond what is a known issue."""
        return all(each.status in ("pass", "known-defect") for each in self.outcomes)

    @property
    def gone(self) -> list[str]:
        """Ids of fixes that this Tunix needs no more."""
        return [
            each.defect.id
            for each in self.findings
            if each.present is False and each.defect.fix and upstream.expected(each.defect.id)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values of `harness.artifacts.check.Check`."""
        return artifact.Check(
            schema=artifact.SCHEMA,
            mode=self.mode,
            version=self.version,
            properties=[
                artifact.Property(
                    id=each.property.id,
                    area=each.property.area,
                    status=each.status,
                    tolerance=str(each.property.tolerance),
                    statement=each.property.statement,
                    messages=list(each.messages),
                )
                for each in self.outcomes
            ],
            defects=[
                artifact.Defect(
                    id=each.defect.id,
                    present=each.present,
                    fixed=each.fixed,
                    title=each.defect.title,
                    where=each.defect.where,
                    releases=list(each.defect.releases),
                    shown_by=list(each.defect.shown_by),
                    reproduction=each.reproduction and each.reproduction.output,
                )
                for each in self.findings
            ],
        ).to_json()


def check(
    mode: upstream.Mode = "patched",
    *,
    fixes: str = "all",
    only: Sequence[str] = (),
    slow: bool = False,
    reproduce: bool = False,
    progress: Callable[[str], None] = lambda what: None,
) -> Report:
    """Hold the installed Tunix to the properties.

    Args:
      mode: `patched`, or `stock` for Tunix exactly as installed.
      fixes: Which fixes are in place: `all`, `none`, `all,-ID` or `ID,ID`.
      only: Ids of properties; none for all that are not slow.
      slow: Whether slow properties are looked at too.
      reproduce: Whether each entry's reproduction is run.
      progress: Receives what is looked at next.

    Returns:
      The report.

    Raises:
      HarnessError: There is no such property.
    """
    chosen = checks.select(only, slow=slow)
    context = Context(mode, fixes)
    outcomes = []
    try:
        for each in chosen:
            progress(each.id)
            outcomes.append(property_lib.run(each, context))
    finally:
        context.close()
    looked = {each.id for each in chosen}
    wanted = [d for d in upstream.KNOWN_ISSUES if not only or looked & set(d.shown_by)]
    shown = _reproduce([d.id for d in wanted], progress) if reproduce else {}
    probed = upstream.present()
    broken = {each.property.id for each in outcomes if each.status == "known-defect"}
    findings = [
        Finding(
            defect=defect,
            present=_present(defect, probed, looked, broken, shown.get(defect.id)),
            fixed=context.fixes.cover(defect.id),
            reproduction=shown.get(defect.id),
        )
        for defect in wanted
    ]
    return Report(mode, upstream.installed_version(), outcomes, findings)


def run_reproduction(name: str) -> Reproduction:
    """Run a defect's script on the installed Tunix, in a process of its own.

    Args:
      name: Id of the defect.

    Returns:
      What it printed.
    """
    ended = subprocess.run(
        [sys.executable, "-c", upstream.reproduction(name)],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    output = ended.stdout.strip()
    # A script that crashes ends with 1 too; only one that came to its end tells.
    if ended.returncode in (0, 1) and "got:" in output:
        return Reproduction(ended.returncode == 0, output)
    error = ended.stderr.strip().splitlines()
    return Reproduction(None, "\n".join([output, *error[-1:]]).strip())


def _reproduce(names: Collection[str], progress: Callable[[str], None]) -> dict[str, Reproduction]:
    found = {}
    with concurrent.futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 2)) as pool:
        started = {pool.submit(run_reproduction, name): name for name in names}
        for ended in concurrent.futures.as_completed(started):
            progress(f"reproduction of {started[ended]}")
            found[started[ended]] = ended.result()
    return found


def _present(
    defect: upstream.KnownIssue,
    probed: Collection[str],
    looked: Collection[str],
    broken: Collection[str],
    reproduction: Reproduction | None,
) -> bool | None:
    if defect.probe:
        return defect.id in probed
    if reproduction is not None:
        return reproduction.shows
    if set(looked) & set(defect.shown_by):
        return bool(set(defect.shown_by) & set(broken))
    return None


_TOLERANCES = """# Tolerances

Each property compares what Tunix did with what is right, within a tolerance. For the tolerance
to mean something, the noise of a right program must lie under it and the effect of a wrong one
above it. Both are given in tolerances, measured with Tunix {version}, {mode}, on a CPU in float32:
*noise* is the largest distance that a passing run showed; *smallest wrong* is the smallest
distance among the wrong observations that the property names (`check --explain ID` lists them),
each of which the tests feed to it. Under exact comparison the first is 0 and the second infinite.
`python -m harness check --tolerances docs/tolerances.md` measures them anew.

| property | tolerance | noise | smallest wrong | why |
| --- | --- | --- | --- | --- |
"""


def tolerances(mode: upstream.Mode = "patched") -> str:
    """Measure how far noise and wrong observations are from each tolerance.

    Args:
      mode: `patched`, or `stock` for Tunix exactly as installed.

    Returns:
      A page of Markdown, with a row for each property.
    """
    context = Context(mode)
    try:
        rows = [_tolerance(each, context) for each in checks.PROPERTIES]
    finally:
        context.close()
    return _TOLERANCES.format(version=upstream.installed_version(), mode=mode) + "".join(rows)


def _tolerance(each: property_lib.Property, context: Context) -> str:
    noise = smallest = "a yes or a no, in minutes"
    if not each.slow:
        observed, known = each.observe(context), context.unfixed(each.defects)
        wrong = [each.distance(change(observed), known) for change in each.wrong.values()]
        noise, smallest = (f"{x:.2g}" for x in (each.distance(observed, known), min(wrong)))
    return f"| `{each.id}` | {each.tolerance} | {noise} | {smallest} | {each.tolerance.why} |\n"


def explain(name: str) -> str:
    """Return a known issue in full, ready to be filed upstream.

    Args:
      name: Id of the defect.

    Returns:
      Markdown.

    Raises:
      HarnessError: There is none.
    """
    try:
        defect = upstream.known_issue(name)
    except errors.HarnessError:
        for each in checks.PROPERTIES:
            if each.id == name:
                return _explain_property(each)
        raise
    return "\n".join(
        [
            f"# {defect.title}",
            "",
            f"`{defect.where}` of google-tunix {defect.releases[-1]}; "
            f"in {' and '.join(defect.releases)} of {', '.join(upstream.SUPPORTED)}; "
            f"installed: {upstream.installed_version()}",
            "",
            defect.effect,
            "",
            f"Fix: {defect.fix or 'none.'}",
            "",
            f"Shown by: {', '.join(defect.shown_by) or 'its reproduction'}.",
            "",
            "Reproduction, on Tunix alone:",
            "",
            "```python",
            upstream.reproduction(defect.id).rstrip(),
            "```",
        ]
    )


def _explain_property(each: property_lib.Property) -> str:
    return "\n".join(
        [
            f"# {each.id} ({each.area})",
            "",
            each.statement,
            "",
            f"Tolerance: {each.tolerance}: {each.tolerance.why}.",
            "",
            "Refuses, among others: " + "; ".join(each.wrong) + ".",
            "",
            f"Known to break it: {', '.join(each.defects) or 'nothing'}.",
        ]
    )
