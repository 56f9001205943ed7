"""What measurement files say, in one form: benchmarks, plans, baselines.

A record holds the conditions under which figures were taken, what was judged,
and the figures. Conditions must be equal for two records to be compared; what
is judged (Tunix's version, the project's commit) need not.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from harness.errors import HarnessError

BENCH_SCHEMA = "tunix-ppo-harness/bench/1"
BASELINE_SCHEMA = "tunix-ppo-harness/baseline/1"
_PLAN_SCHEMA = "tunix-ppo-harness/plan/"
# The layout of pytest-benchmark's JSON has not changed within these.
_PYTEST_BENCHMARK = ("5",)
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
      HarnessError: It is not there, is no JSON, or is of a kind, schema or
        tool version that is not known.
    """
    tree = read_json(path)
    schema = tree.get("schema")
    if schema == BASELINE_SCHEMA:
        return _baseline(path, tree)
    if schema == BENCH_SCHEMA:
        return from_bench(path.name, tree, figures)
    if (
        "programs" in tree
        and "chip" in tree
        and str(schema or _PLAN_SCHEMA).startswith(_PLAN_SCHEMA)
    ):
        return _plan(path, tree)
    if schema is None and "benchmarks" in tree and "machine_info" in tree:
        return _pytest_benchmark(path, tree, figures)
    said = f"its schema is '{schema}'" if schema else "it names no schema"
    raise HarnessError(
        f"{path} is nothing that the gate reads ({said}): give a file of "
        "`pytest --benchmark-json`, of `plan --json`, or a baseline of this version"
    )


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object.

    Args:
      path: The file.

    Returns:
      The object.

    Raises:
      HarnessError: It is not there or is no JSON object.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(f"{path} cannot be read ({error.strerror}): give a JSON file") from None
    except ValueError as error:
        raise HarnessError(f"{path} is not JSON ({error}): write it anew") from None
    if not isinstance(tree, dict):
        raise HarnessError(f"{path} holds no JSON object: write it anew")
    return tree


def from_bench(label: str, tree: Mapping[str, Any], figures: tuple[str, ...]) -> Record:
    """Make a record of what a benchmark process printed.

    Args:
      label: Name in sentences.
      tree: Of schema `BENCH_SCHEMA`: `conditions`, `recipe`, `judged`, and
        `benchmarks` as name -> figures.
      figures: Names of the exact figures to take.

    Returns:
      The record.

    Raises:
      HarnessError: It is of another schema or lacks a part.
    """
    if tree.get("schema") != BENCH_SCHEMA:
        raise HarnessError(
            f"{label} is of schema '{tree.get('schema')}', not '{BENCH_SCHEMA}': "
            "measure it with this version of the harness"
        )
    try:
        conditions = {**tree["conditions"], **flat(tree["recipe"], "recipe")}
        exact = {name: _chosen(each, figures) for name, each in tree["benchmarks"].items()}
        return Record(label, "benchmarks", conditions, dict(tree["judged"]), _filled(exact))
    except (KeyError, TypeError, AttributeError) as error:
        raise HarnessError(f"{label} lacks a part ({error}): measure it anew") from None


def differences(one: Record, other: Record) -> list[str]:
    """Name what keeps two records from being compared.

    Args:
      one: A record.
      other: Another.

    Returns:
      A clause for each condition that is not the same; none if all are.
    """
    if one.kind != other.kind:
        return [f"{one.label} holds {one.kind}, {other.label} holds {other.kind}"]
    absent = object()
    found = []
    for name in sorted({*one.conditions, *other.conditions}):
        left, right = one.conditions.get(name, absent), other.conditions.get(name, absent)
        if left != right:
            said = ["not told" if each is absent else str(each) for each in (left, right)]
            found.append(f"{name} is {said[0]} in {one.label} and {said[1]} in {other.label}")
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


def _chosen(found: Mapping[str, Any], figures: tuple[str, ...]) -> dict[str, int]:
    return {name: int(found[name]) for name in figures if found.get(name) is not None}


def _filled(exact: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    return {name: figures for name, figures in exact.items() if figures}


def _baseline(path: pathlib.Path, tree: Mapping[str, Any]) -> Record:
    try:
        return Record(
            label=path.name,
            kind=tree["kind"],
            conditions=tree["conditions"],
            judged=tree["judged"],
            exact=tree["exact"],
            history=tuple(tree["history"]),
        )
    except (KeyError, TypeError) as error:
        raise HarnessError(
            f"{path} lacks a part ({error}): make it anew with `gate --update-baseline`"
        ) from None


def _pytest_benchmark(
    path: pathlib.Path, tree: Mapping[str, Any], figures: tuple[str, ...]
) -> Record:
    version = str(tree.get("version"))
    if version.split(".")[0] not in _PYTEST_BENCHMARK:
        raise HarnessError(
            f"{path} was written by pytest-benchmark {version}; this gate reads those of "
            f"{' and '.join(_PYTEST_BENCHMARK)}.x: run the benchmarks again with one of them"
        )
    ours = tree.get("harness")
    if not isinstance(ours, Mapping) or ours.get("schema") != BENCH_SCHEMA:
        said = ours.get("schema") if isinstance(ours, Mapping) else None
        raise HarnessError(
            f"{path} does not tell the conditions of its figures (schema '{said}', not "
            f"'{BENCH_SCHEMA}'): write it with the benchmarks of this version of the harness"
        )
    exact = {each["name"]: _chosen(each["extra_info"], figures) for each in tree["benchmarks"]}
    return Record(
        label=path.name,
        kind="benchmarks",
        conditions={**ours["conditions"], **flat(ours["recipe"], "recipe")},
        judged=ours["judged"],
        exact=_filled(exact),
        seconds={
            each["name"]: list(each["stats"].get("data") or [each["stats"]["median"]])
            for each in tree["benchmarks"]
        },
    )


def _plan(path: pathlib.Path, tree: Mapping[str, Any]) -> Record:
    """Read compiled programs, and for each the largest micro-batch that fits."""
    conditions: dict[str, Any] = {"chip": tree["chip"], "hbm_bytes": tree.get("hbm_bytes")}
    if isinstance(recipe := tree.get("recipe"), Mapping):
        conditions |= flat(recipe, "recipe")
    packages = _plan_packages(tree)
    conditions |= {
        f"packages.{name}": packages[name] for name in _PLAN_PACKAGES if name in packages
    }
    exact: dict[str, dict[str, int]] = {}
    walls: dict[str, int] = {}
    for program in tree["programs"]:
        name, rows = program["name"], int(program["micro_batch"])
        exact[f"plan/{name}[{rows}]"] = _chosen(program, _PLAN_FIGURES)
        walls[name] = max(walls.get(name, 0), rows if program.get("fits") else 0)
    for wall in tree.get("walls") or ():
        # Looked for, and so closer than what was asked for by size.
        walls[wall["name"]] = int(wall["compiles"] or 0)
    exact |= {f"plan/wall/{name}": {"wall_micro_batch": rows} for name, rows in walls.items()}
    upstream = tree.get("upstream") or {}
    judged = {"google-tunix": upstream.get("version"), "commit": tree.get("commit")}
    return Record(path.name, "plan", conditions, judged, _filled(exact))


def _plan_packages(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    for place in (tree.get("environment"), tree.get("compiler"), tree):
        if isinstance(place, Mapping):
            for name in ("packages", "versions"):
                if isinstance(found := place.get(name), Mapping):
                    return found
    return {}
