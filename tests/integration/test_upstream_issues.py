"""Files of the known issues: the registry that finds them, and the scripts that it writes."""

import ast
import builtins
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from harness import upstream
from harness.upstream import fixes
from harness.upstream.fixes import registry
from tests.support.cli import ROOT

MADE_UP = '''"""A batch has a prompt.

Expected: no prompts.
Got: one.
"""

from harness.upstream.fixes._prelude import toy_batch
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether the issue is there."""
    return True


ISSUE = KnownIssue(
    id="made-up",
    title="A batch has a prompt.",
    where="tunix/rl/rl_learner.py:1",
    effect="None at all.",
    probe=probe,
)


def prompts() -> list[str]:
    """Return the prompts of a batch."""
    return toy_batch("a")["prompts"].tolist()


def reproduce() -> bool:
    """Return whether the issue shows."""
    print("expected: []")
    print(f"got: {prompts()}")
    return bool(prompts())
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder whose files are issues too."""
    monkeypatch.setattr(fixes, "__path__", [*fixes.__path__, str(tmp_path)])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(f"{fixes.__name__}.made_up")]:
        del sys.modules[name]
        delattr(fixes, name.rpartition(".")[2])


def test_issues_are_sorted_by_id_and_each_is_in_the_file_of_its_name():
    names = [each.id for each in registry.ISSUES]
    assert names == sorted(set(names))
    files = {path.stem for path in pathlib.Path(fixes.__path__[0]).glob("[!_]*.py")}
    assert {name.replace("-", "_") for name in names} == files - {"known_issue", "registry"}


def test_a_new_known_issue_needs_one_new_file(folder):
    before = registry.collect()
    assert before == registry.ISSUES
    file = folder / "made_up.py"
    file.write_text(MADE_UP)
    found = registry.collect()
    assert [each.id for each in found if each not in before] == ["made-up"]
    assert len(found) == len(before) + 1
    (issue,) = (each for each in found if each.id == "made-up")
    assert issue.probe
    assert issue.probe()
    file.unlink()
    assert registry.collect() == before


def test_adding_and_deleting_a_file_is_all_that_the_commands_need(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "harness", tmp_path / "harness", ignore=ignored)
    package = tmp_path / "harness" / "upstream" / "fixes"
    (package / "made_up.py").write_text(MADE_UP)
    (package / "nan_reward_zero.py").unlink()

    asked = subprocess.run(
        [sys.executable, "-m", "harness", "check", "--explain", "nan-reward-zero"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": "cpu"},
    )
    assert asked.returncode == 2
    _, _, known = asked.stderr.partition("no known issue 'nan-reward-zero': use one of ")
    names = {each.id for each in upstream.KNOWN_ISSUES}
    assert set(known.strip().split(", ")) == names - {"nan-reward-zero"} | {"made-up"}


def test_an_issue_in_a_file_of_another_name_is_refused(folder):
    (folder / "made_up_too.py").write_text(MADE_UP)
    with pytest.raises(ValueError, match=r"made_up_too\.py holds the issue 'made-up'"):
        registry.collect()


def test_an_issue_that_defines_a_name_of_the_prelude_is_refused(folder):
    text = MADE_UP.replace("def prompts(", "def toy_learner(").replace("prompts()", "toy_learner()")
    (folder / "made_up.py").write_text(text)
    with pytest.raises(ValueError, match=r"'made-up' defines \['toy_learner'\]"):
        registry.script("made-up")


def test_a_script_holds_what_its_reproduction_reaches_and_nothing_else(folder):
    (folder / "made_up.py").write_text(MADE_UP)
    script = registry.script("made-up")
    tree = ast.parse(script)
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert defined == ["toy_batch", "prompts", "reproduce"]
    assert "KnownIssue" not in script
    assert script.startswith('"""A batch has a prompt.\n')
    assert "\nimport numpy as np\n" in script
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "expected: []\ngot: ['a']\n")


@pytest.mark.parametrize("each", upstream.KNOWN_ISSUES, ids=lambda each: each.id)
def test_a_script_stands_alone(each):
    script = upstream.reproduction(each.id)
    compile(script, each.id, "exec")
    tree = ast.parse(script)
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    allowed = {"flax", "jax", "numpy", "optax", "orbax", "tunix", *sys.stdlib_module_names}
    assert imported <= allowed - {"unittest"}
    # Each name that it reads is bound in it, and each at its top level only once.
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert read <= _bound(tree) | set(dir(builtins)) | {"__name__"}
    top = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(top) == len(set(top))


def _bound(tree):
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.ExceptHandler(name=str(name)):
                names.add(name)
            case ast.alias(name=name, asname=alias):
                names.add(alias or name.partition(".")[0])
    return names


def test_every_issue_is_reproduced_by_a_function_that_says_whether_it_shows():
    for each in upstream.KNOWN_ISSUES:
        script = upstream.reproduction(each.id)
        assert "def reproduce() -> bool:" in script, each.id
        assert "expected:" in script, each.id
        assert "got:" in script, each.id
        assert script.endswith("raise SystemExit(0 if reproduce() else 1)\n"), each.id
