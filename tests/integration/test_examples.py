"""The scripts of `examples/` and of the README, at the shapes of the other tests."""

import ast
import importlib.util
import pathlib
import re
import sys
import types

import pytest

from harness import pytest_plugin
from harness import recipe as recipe_lib
from tests.conftest import SMALL

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
# No longer than it takes to learn that every stage runs.
SHORT = (*SMALL, "data.num_batches=1", "data.num_test_batches=1", "warm_start.max_steps=0")


def load(name: str) -> types.ModuleType:
    """Import a script under its own name, as a run imports what it names."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def own_modules(monkeypatch):
    """Leave no script behind as a module."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (EXAMPLES / f"{name}.py").exists():
            del sys.modules[name]


def test_a_reward_function_of_ones_own(own_cache, tmp_path):
    del own_cache
    module = load("own_reward")
    assert module.brevity(["p", "p"], ["", "abc"]) == [1.0, 0.25]
    result = module.main(tmp_path / "out", *SHORT)
    (step,) = result.steps
    assert 0 < step["reward_mean"] < 1
    assert result.recipe.reward.function == "own_reward:brevity"


def test_problems_of_ones_own(own_cache, tmp_path):
    del own_cache
    module = load("own_data")
    result = module.main(tmp_path, *SHORT, "rollout.max_new_tokens=8")
    assert result.problems == {"train": 122, "test": 14}
    asked = {sample.question for sample in result.trained.samples}
    assert asked
    assert all(question.startswith("Ann has") for question in asked)


def test_a_conftest_that_overrides_a_fixture(pytester: pytest.Pytester):
    pytester.makeconftest((EXAMPLES / "conftest.py").read_text())
    pytester.makepyfile((EXAMPLES / "test_own_fixture.py").read_text())
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


def snippets(path: pathlib.Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S)


def test_the_script_of_the_readme(own_cache, monkeypatch, capsys):
    del own_cache
    script = snippets(ROOT / "README.md")[0]
    load_as_written = recipe_lib.load
    monkeypatch.setattr(
        recipe_lib,
        "load",
        lambda preset, *, assignments: load_as_written(preset, assignments=(*assignments, *SHORT)),
    )
    names: dict[str, object] = {}
    exec(compile(script, "README.md", "exec"), names)
    before, after = map(float, capsys.readouterr().out.split()[-2:])
    assert 0 <= before <= 1
    assert 0 <= after <= 1


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = {
    f"{path.stem}-{number}": text
    for path in PAGES
    for number, text in enumerate(snippets(path))
    if (path.name, number) != ("README.md", 0)
}


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_of_the_documentation_runs(name):
    """Each as it stands; one that defines a fixture or a test has to define it alone."""
    names: dict[str, object] = {}
    exec(compile(SNIPPETS[name], name, "exec"), names)
    assert names.keys() > {"__builtins__"}


@pytest.mark.parametrize("name", [name for name, text in SNIPPETS.items() if "@pytest" in text])
def test_what_the_documentation_overrides_is_a_fixture(name):
    made = [node for node in ast.parse(SNIPPETS[name]).body if isinstance(node, ast.FunctionDef)]
    assert made
    assert all(hasattr(pytest_plugin, node.name) for node in made)


@pytest.mark.parametrize("name", [name for name, text in SNIPPETS.items() if "def test_" in text])
def test_what_a_test_of_the_documentation_takes_is_a_fixture(name):
    tests = [node for node in ast.parse(SNIPPETS[name]).body if isinstance(node, ast.FunctionDef)]
    assert all(hasattr(pytest_plugin, each.arg) for node in tests for each in node.args.args)
