"""What measurement files hold, in one form: benchmarks, plans, baselines.

A record holds the conditions under which figures were taken, what was judged,
and the figures. Conditions must be equal for two records to be compared; what
is judged (Tunix's version, the project's commit) need not.
"""

import dataclasses
import pathlib
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from harness.artifacts import bench, gate, plan, reading
from harness.errors import HarnessError

_PLAN_FIGURES = ("argument_bytes", "output_bytes", "alias_bytes", "temp_bytes", "flops")
_PLAN_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "qwix", "optax")


@dataclasses.dataclass(frozen=True)
class Record:
    """What one file, or one process, measured.

    Attributes:
      label: Its name in sentences.
      kind: `benchmarks`, `plan` or `baseline`; a baseline is of either other kind.
      conditions: What the figures depend on besides the code that is judged,
        flat, names joined by dots.
      judged: What is judged: `google-tunix`, `commit`.
      exact: Benchmark -> figure -> value.
      seconds: Benchmark -> seconds of each round, all of one process.
      history: Of a baseline: why it was changed, first to last.
    """

    label: str
    kind: str
    conditions: Mapping[str, Any]
    judged: Mapping[str, Any]
    exact: Mapping[str, Mapping[str, int]]
    seconds: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()


def read(path: pathlib.Path, figures: tuple[str, ...]) -> Record:
    """Read a measurement file of any kind.

    Args:
      path: JSON of `pytest --benchmark-json`, of `plan --json`, or a baseline.
      figures: Names of the exact figures to take.

    Returns:
      The record.

    Raises:
      HarnessError: It is not there, is no JSON, lacks a part, or is of a kind,
        schema or tool version that is not known.
    """
    _, found = reading.read_any(path, ("bench", "plan", "baseline", "exact figures"))
    match found:
        case bench.Bench():
            return _benchmarks(path, found, figures)
        case plan.Plan():
            return _plan(path.name, found)
        case bench.Measured():
            return from_measured(path.name, found, figures)
        case gate.Baseline(kind=kind, conditions=conditions, judged=judged, exact=exact):
            history = tuple(found.history)
            return Record(path.name, kind, conditions, judged, exact, history=history)
        case _:
            typing.assert_never(found)


def from_measured(label: str, found: bench.Measured, figures: tuple[str, ...]) -> Record:
    """Make a record of what a benchmark process measured.

    Args:
      label: Name in sentences.
      found: Its answer.
      figures: Names of the exact figures to take.
    """
    exact = {name: each.chosen(figures) for name, each in found.benchmarks.items()}
    conditions = {**found.conditions, **flat(found.recipe, "recipe")}
    return Record(label, "benchmarks", conditions, found.judged, _filled(exact))


def differences(one: Record, other: Record) -> list[str]:
    """Name why two records cannot be compared.

    Args:
      one: A record.
      other: Another.

    Returns:
      A clause for each condition that is not the same; empty if all are.
    """
    if one.kind != other.kind:
        return [f"{one.label} holds {one.kind}, {other.label} holds {other.kind}"]
    absent = object()
    found = []
    for name in sorted({*one.conditions, *other.conditions}):
        left, right = one.conditions.get(name, absent), other.conditions.get(name, absent)
        if left != right:
            text = ["not reported" if each is absent else str(each) for each in (left, right)]
            found.append(f"{name} is {text[0]} in {one.label} and {text[1]} in {other.label}")
    return found


def flat(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Lay a nested mapping out flat, names joined by dots.

    A field that is off is left out: one that a later version adds, and that is
    off, makes no difference.
    """
    return dict(_leaves(tree, prefix))


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}.{name}")
        elif value is not None:
            yield f"{prefix}.{name}", value


def _filled(exact: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    return {name: figures for name, figures in exact.items() if figures}


def _benchmarks(path: pathlib.Path, found: bench.Bench, figures: tuple[str, ...]) -> Record:
    ours = found.harness
    if ours is None:
        raise HarnessError(
            f"{path} does not hold the conditions of its figures: write it with the benchmarks "
            "of this version of the harness"
        )
    return Record(
        label=path.name,
        kind="benchmarks",
        conditions={**ours.conditions, **flat(ours.recipe, "recipe")},
        judged=ours.judged,
        exact=_filled({each.name: each.extra_info.chosen(figures) for each in found.benchmarks}),
        seconds={each.name: each.stats.data or [each.stats.median] for each in found.benchmarks},
    )


def _plan(label: str, found: plan.Plan) -> Record:
    """Return compiled programs, and for each the largest micro-batch that fits."""
    conditions: dict[str, Any] = {"chip": found.chip, "hbm_bytes": found.hbm_bytes}
    conditions |= flat(found.recipe, "recipe")
    conditions |= {
        f"packages.{name}": found.versions[name]
        for name in _PLAN_PACKAGES
        if name in found.versions
    }
    exact: dict[str, dict[str, int]] = {}
    largest: dict[str, int] = {}
    for program in found.programs:
        name, size = program.name, program.micro_batch
        figures = {figure: getattr(program, figure) for figure in _PLAN_FIGURES}
        exact[f"plan/{name}[{size}]"] = {
            figure: int(value) for figure, value in figures.items() if value is not None
        }
        largest[name] = max(largest.get(name, 0), size if program.fits else 0)
    # What was searched for is closer than what was asked for by size.
    largest |= {each.name: each.compiles or 0 for each in found.largest_micro_batches}
    exact |= {
        f"plan/largest/{name}": {"largest_micro_batch": size} for name, size in largest.items()
    }
    version = found.upstream.version if found.upstream else None
    judged = {"google-tunix": version, "commit": found.commit}
    return Record(label, "plan", conditions, judged, _filled(exact))
