"""Results as tables and sentences that a person reads."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import recipe as recipe_lib


def line(console: Console, text: str) -> None:
    """Print a line that holds no markup and is not wrapped."""
    console.print(escape(text), soft_wrap=True)


def result(
    console: Console, recipe: recipe_lib.Recipe, mode: str, found: Any, out: pathlib.Path
) -> None:
    """Print what a run found.

    Args:
      console: Where to.
      recipe: What was run.
      mode: `patched` or `stock`.
      found: `harness.training.Result`.
      out: The run's folder.
    """
    table = Table("", "accuracy", "95% interval", "format accuracy", "problems")
    for name, each in (("before PPO", found.baseline), ("after PPO", found.trained)):
        low, high = each.accuracy_ci95
        table.add_row(
            name,
            f"{each.accuracy:.3f}",
            f"{low:.3f} .. {high:.3f}",
            f"{each.format_accuracy:.3f}",
            str(each.total),
        )
    console.print(table)
    console.print(_phases(found.phases))
    dropped = {split: count for split, count in found.long_prompts.items() if count}
    if dropped:
        console.print(
            f"dropped for prompts over {recipe.rollout.max_prompt_length} tokens: "
            + ", ".join(f"{count} {split}" for split, count in dropped.items())
        )
    for each in found.warnings:
        console.print(f"[bold]{each.id}[/bold]: {escape(each.text)}", soft_wrap=True)
    console.print(
        f"Tunix {found.to_dict()['upstream']['version']} ({mode}); fixes: "
        f"{', '.join(found.fixes) or 'none'}; checkpoint of step {found.checkpoint_step}"
    )
    line(console, f"written: {out / 'result.json'}")


def _phases(phases: Iterable[Mapping[str, Any]]) -> Table:
    table = Table("phase", "seconds", "of it compiling", "peak device memory")
    for phase in phases:
        peak = phase["peak_bytes"]
        table.add_row(
            phase["name"],
            f"{phase['seconds']:.1f}",
            f"{phase['compile_seconds']:.1f}",
            "not reported by this device" if peak is None else f"{peak / 2**30:.2f} GiB",
        )
    return table


def figures(found: Sequence[Any]) -> Table:
    """Return figures beside what they should be, from `harness.e2e.figures`."""
    table = Table("figure", "measured", "expected", "holds")
    for each in found:
        holds = {True: "yes", False: "NO", None: "-"}[each.holds]
        table.add_row(each.name, each.measured, each.expected or "-", holds)
    return table


def checks(report: Any) -> Table:
    """Return the checks of a `harness.doctor.Report`."""
    table = Table("check", "status", "detail")
    for check in report.checks:
        table.add_row(escape(check.name), check.status, escape(check.detail))
    return table


def rehearsal(found: Any) -> Table:
    """Return the parts of a rehearsal, from `harness.rehearse.run`."""
    table = Table(
        *("part", "calls", "seconds", "of it first call", "on processors"),
        *("peak GiB", "held after, GiB"),
    )
    depth: dict[str | None, int] = {None: 0}
    for each in found.parts:
        depth[each["name"]] = depth[each["within"]] + 1
        table.add_row(
            "  " * (depth[each["name"]] - 1) + each["name"],
            str(each["calls"]),
            f"{each['seconds']:.1f}",
            f"{each['first_seconds']:.1f}",
            f"{each['processor_seconds']:.1f}",
            f"{each['peak_bytes'] / 2**30:.2f}",
            f"{each['end_bytes'] / 2**30:.2f}",
        )
    return table


def account(tree: Mapping[str, Any]) -> Table:
    """Return the figures of a recipe's account, as plain JSON values."""
    table = Table("figure", "value")
    for name, value in tree.items():
        if name not in ("warnings", "prompt"):
            table.add_row(name.replace("_", " "), _readable(value))
    return table


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_readable(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_readable(inner) for inner in value) or "none"
    if value is None:
        return "not known"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def properties(report: Any) -> Table:
    """Return the properties of a report of `harness.checks.runner`."""
    table = Table("property", "area", "status", "tolerance", "used of it")
    for each in report.outcomes:
        table.add_row(
            each.property.id,
            each.property.area,
            each.status,
            str(each.property.tolerance),
            f"{each.distance:.2g}" if each.status == "pass" else "-",
        )
    return table


def known_issues(report: Any) -> Table:
    """Return the known issues of a report of `harness.checks.runner`."""
    table = Table("known issue", "present", "fixed", "what")
    for each in report.findings:
        present = {True: "yes", False: "no", None: "not looked at"}[each.present]
        table.add_row(each.defect.id, present, "yes" if each.fixed else "no", each.defect.title)
        if each.reproduction:
            table.add_row("", "", "", escape(each.reproduction.output))
    return table


def conformance(console: Console, report: Any, mode: str) -> None:
    """Print a report of `harness.checks.runner`.

    Args:
      console: Where to.
      report: What was found.
      mode: `patched` or `stock`.
    """
    console.print(properties(report))
    console.print(known_issues(report))
    for each in report.outcomes:
        if each.status in ("fail", "error"):
            console.print(f"[bold]{each.property.id}[/bold]: {escape(each.property.statement)}")
            for message in each.messages[:5]:
                console.print(f"  {escape(message)}")
    for name in report.gone:
        console.print(
            f"[bold]{name} is gone from Tunix {report.version}[/bold]: "
            "its fix was not applied and can go"
        )
    console.print(f"Tunix {report.version} ({mode}): {'as known' if report.ok else 'NOT as known'}")
