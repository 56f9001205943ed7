"""The borders between the rooms, the pinned set, and what no file may hold."""

import ast
import functools
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from harness.plan.sources import imports

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "harness"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def under(name: str, *prefixes: str) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in prefixes)


@functools.cache
def modules() -> dict[str, set[str]]:
    """Every module of the package, and what it imports."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        package = ".".join(parts[:-1])
        name = package if parts[-1] == "__init__" else ".".join(parts)
        found[name] = imports(path.read_text(), package)
    return found


def reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Modules that are loaded with the modules under `start`."""
    seen: set[str] = set()
    waiting = [name for name in graph if under(name, start)]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += [each for each in graph[name] if each in graph]
    return seen


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import tunix.rl.ppo", "tunix.rl.ppo"),
        ("from tunix import rl", "tunix.rl"),
        ("from tunix.rl import ppo", "tunix.rl"),
        ("def later():\n    import tunix.rl as x", "tunix.rl"),
        ("importlib.import_module('tunix.rl')", "tunix.rl"),
        ("from ..upstream import cluster", "harness.upstream.cluster"),
        ("from . import upstream", "harness.measure.upstream"),
    ],
)
def test_imports_are_seen_in_every_form(source, name):
    assert name in imports(source, "harness.measure")


def test_what_is_reached_through_others_is_seen():
    graph = {"a": {"b", "os"}, "b": {"c"}, "c": {"a"}, "d": set()}
    assert reached("a", graph) == {"a", "b", "c"}


def test_only_upstream_knows_the_trainer():
    past_the_largest = {
        name: sorted(each for each in names if under(each, "tunix.rl"))
        for name, names in modules().items()
        if not under(name, "harness.upstream")
    }
    assert {name: each for name, each in past_the_largest.items() if each} == {}


def test_the_oracle_rests_on_numpy_alone():
    allowed = ("numpy", "harness.oracle", "__future__", *sys.stdlib_module_names)
    others = {
        (name, each)
        for name, names in modules().items()
        if under(name, "harness.oracle")
        for each in names
        if not under(each, *allowed) and each != "harness"
    }
    assert others == set()


def test_the_artifacts_rest_on_pydantic_alone():
    allowed = ("harness.artifacts", "harness.errors", "harness.files", "pydantic")
    others = {
        (name, each)
        for name, names in modules().items()
        if under(name, "harness.artifacts")
        for each in names
        if not under(each, *allowed, *sys.stdlib_module_names) and each != "harness"
    }
    assert others == set()


def test_the_report_rests_on_artifacts_alone():
    allowed = ("harness.report", "harness.artifacts", "harness.errors", "harness.programs")
    allowed += ("jinja2", "matplotlib")
    others = {
        (name, each)
        for name, names in modules().items()
        if under(name, "harness.report")
        for each in names
        if not under(each, *allowed, *sys.stdlib_module_names) and each != "harness"
    }
    assert others == set()


@pytest.mark.parametrize(
    ("room", "closed"),
    [
        ("harness.measure", ("harness.models", "harness.upstream")),
        ("harness.rewards", ("harness.models", "harness.upstream")),
        ("harness.doctor", ("harness.upstream", "harness.training", "harness.evaluation")),
        ("harness.data", ("harness.models", "harness.upstream")),
        ("harness.models", ("harness.upstream", "harness.training", "harness.evaluation")),
        (
            "harness.upstream",
            (
                "harness.training",
                "harness.evaluation",
                "harness.checks",
                "harness.bench",
                "harness.gate",
                "harness.cli",
            ),
        ),
        ("harness.evaluation", ("harness.training", "harness.checks", "harness.cli")),
        ("harness.training", ("harness.checks", "harness.cli")),
        ("harness.checks", ("harness.cli", "harness.pytest_plugin", "harness.report")),
        ("harness.bench", ("harness.checks", "harness.gate", "harness.cli")),
        (
            "harness.plan",
            ("harness.cli", "harness.pytest_plugin", "harness.checks", "harness.report"),
        ),
        (
            "harness.report",
            ("harness.cli", "harness.pytest_plugin", "harness.models", "harness.upstream"),
        ),
    ],
)
def test_arrows_between_rooms_point_one_way(room, closed):
    found = reached(room, modules())
    assert found, f"there is no {room}"
    assert sorted(name for name in found if under(name, *closed)) == []


def test_the_gate_rests_on_measure_and_artifacts_alone():
    rooms = ("gate", "measure", "artifacts", "errors", "files", "hardware", "jsonlines", "programs")
    allowed = tuple(f"harness.{room}" for room in rooms)
    found = reached("harness.gate", modules())
    assert found, "there is no harness.gate"
    assert sorted(n for n in found if not under(n, *allowed) and n != "harness") == []


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.+!]+)", line) for line in lines]
    assert all(found), [line for line, each in zip(lines, found, strict=True) if not each]
    return {canonicalize_name(each[1]): Version(each[2]) for each in found if each}


def test_constraints_are_names_and_versions_only_each_once():
    assert len(pins()) == len((ROOT / "constraints.txt").read_text().splitlines())


def test_the_pinned_set_holds_no_torch():
    assert {"torch", "torchvision", "tensorflow", "tunix"}.isdisjoint(pins())


def test_the_hooks_run_the_pinned_ruff():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"ruff==([\d.]+)", text)) == {str(pins()["ruff"])}


def requirements() -> list[Requirement]:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    texts = [*PROJECT["build-system"]["requires"], *project["dependencies"]]
    # The two extras with libtpu exclude each other, so that neither is pinned.
    texts += [text for name in ("dev", "report", "docs") for text in extras[name]]
    return [Requirement(text) for text in texts]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_pinned_version_is_in_the_supported_range(requirement):
    pinned = pins()
    assert canonicalize_name(requirement.name) in pinned
    assert pinned[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("requirement", PROJECT["project"]["dependencies"])
def test_every_dependency_has_a_lower_bound(requirement):
    operators = {each.operator for each in Requirement(requirement).specifier}
    assert operators & {">=", "==", "~="}


def files() -> list[pathlib.Path]:
    """Files that are, or would be, in the repository; all of them in an unpacked archive."""
    if not (ROOT / ".git").exists():
        paths = (path for path in ROOT.rglob("*") if path.is_file())
        return [
            path
            for path in paths
            if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


# Put together here, so that this file does not hold them.
REGISTRIES = re.compile(
    rb"py" + rb"pi\.org|python" + rb"hosted\.org|registry\." + rb"npmjs|deb\." + rb"debian\.org"
)
HOMES = re.compile(rb"(?<![\w.])/(home|root|Users)/" + rb"\w")


@pytest.mark.parametrize("pattern", [REGISTRIES, HOMES], ids=["registry host", "home folder"])
def test_no_file_names(pattern):
    held = files()
    assert ROOT / "pyproject.toml" in held
    assert [str(path) for path in held if pattern.search(path.read_bytes())] == []


# What may be left out, and how often: by the reason that the call gives.
LEFT_OUT = {
    # The compiler's wheel is for Linux on x86-64 alone; `nox -s unit` installs it there.
    ("test_plan.py", "libtpu is not installed (extra tpu-compiler)"),
    # Two arms are pinned to a core each.
    ("test_gate_arms.py", "pinning needs two cores, and this machine has one"),
}
SKIPS = ("skip", "skipif", "xfail", "importorskip", "SkipTest", "skipIf", "skipUnless")


def skips(source: str) -> list[str]:
    """Reasons of the calls that leave a test out; what has none counts as an empty one."""
    found = []
    tree = ast.parse(source)
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)
        if name not in SKIPS:
            continue
        call = calls.get(id(node))
        texts = [each.value for each in (call.keywords if call else []) if each.arg == "reason"]
        constant = texts[0] if texts else None
        found.append(str(constant.value) if isinstance(constant, ast.Constant) else "")
    return found


@pytest.mark.parametrize(
    ("source", "reasons"),
    [
        ("@pytest.mark.skipif(x, reason='why')\ndef test(): pass", ["why"]),
        ("@pytest.mark.xfail\ndef test(): pass", [""]),
        ("pytest.importorskip('a')", [""]),
        ("from pytest import skip\nskip('why')", [""]),
        ("def test_a_skip(): assert found.skipped", []),
    ],
)
def test_skips_are_seen_in_every_form(source, reasons):
    assert skips(source) == reasons


def test_no_test_is_left_out_but_for_a_reason_that_is_listed():
    found = {
        (path.name, reason)
        for path in sorted((ROOT / "tests").glob("*.py"))
        for reason in skips(path.read_text(encoding="utf-8"))
    }
    assert found == LEFT_OUT
