"""The borders between the rooms, the pinned set, and what no file may hold."""

import ast
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from harness.plan.sources import imports

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "harness"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def under(name: str, *prefixes: str) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in prefixes)


@functools.cache
def modules() -> dict[str, frozenset[str]]:
    """Every module of the package, and what it imports."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        package = ".".join(parts[:-1])
        name = package if parts[-1] == "__init__" else ".".join(parts)
        found[name] = imports(path.read_text(), package)
    return found


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


def test_only_upstream_knows_the_trainer():
    found = {
        name: sorted(each for each in names if under(each, "tunix.rl"))
        for name, names in modules().items()
        if not under(name, "harness.upstream")
    }
    assert {name: each for name, each in found.items() if each} == {}


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


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> pathlib.Path:
    """A copy of the package and its settings, to plant an import in."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copytree(PACKAGE, folder / "harness", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def broken_contracts(folder: pathlib.Path) -> list[str]:
    """Run import-linter on a folder, and return the names of the contracts that are broken."""
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    ended = subprocess.run(
        [sys.executable, "-c", command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert "Contracts" in ended.stdout, ended.stdout + ended.stderr
    found = re.findall(r"^(.+?) BROKEN", ended.stdout, re.MULTILINE)
    assert bool(found) == bool(ended.returncode), ended.stdout
    return found


def test_the_contracts_between_the_rooms_hold(copied):
    assert broken_contracts(copied) == []


@pytest.mark.parametrize(
    ("module", "imported", "contract"),
    [
        ("models/lora.py", "harness.upstream", "Rooms point one way"),
        ("checks/runner.py", "harness.cli", "Rooms point one way"),
        ("checks/wrong.py", "harness.plan.table", "Rooms point one way"),
        ("measure/memory.py", "harness.models", "Measure rests on neither models nor upstream"),
        ("gate/exact.py", "harness.recipe", "The gate reads JSON, and measures"),
        ("report/page.py", "jax", "The report reads JSON alone"),
        ("oracle/kl.py", "harness.errors", "The oracle imports none of what it judges"),
    ],
)
def test_an_import_against_a_contract_is_seen(copied, module, imported, contract):
    path = copied / "harness" / module
    before = path.read_text()
    try:
        path.write_text(f"{before}\nimport {imported}\n")
        assert contract in broken_contracts(copied)
    finally:
        path.write_text(before)


# Private names of others than Tunix, each for a reason that stands beside its use.
_OTHERS = {"_asdict", "_current_frames", "_exit", "_replace", "_URLS"}


def private(source: str) -> set[str]:
    """Private attributes that a module takes of other objects than itself, or imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found |= {each.name for each in node.names if each.name.startswith("_")}
        elif isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found |= set() if own else {node.attr}
    return found


def defined(source: str) -> set[str]:
    """Names that a module defines, as functions, classes, variables or attributes."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


def outside_upstream() -> list[pathlib.Path]:
    folders = (PACKAGE, ROOT / "benchmarks", ROOT / "examples")
    found = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return [path for path in found if not path.is_relative_to(PACKAGE / "upstream")]


def test_private_names_of_tunix_are_used_by_upstream_alone():
    sources = {path: path.read_text() for path in outside_upstream()}
    own = set().union(*map(defined, sources.values())) | _OTHERS
    found = {str(path): private(source) - own for path, source in sources.items()}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("learner._prepare_data()", {"_prepare_data"}),
        ("from tunix.rl.rl_learner import _helper", {"_helper"}),
        ("self._mine = cls._other", set()),
        ("thing.__class__", set()),
    ],
)
def test_private_names_are_seen(source, names):
    assert private(source) == names


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
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for reason in skips(path.read_text(encoding="utf-8"))
    }
    assert found == LEFT_OUT
