"""The arms: processes that compute, their environments and their checkouts."""

import json
import random
import subprocess
import sys
import textwrap
from typing import Any

import jax
import pytest

from harness.artifacts import bench
from harness.errors import HarnessError
from harness.gate import (
    Verdict,
    arms,
    command,
    runner,
    timing,
)
from harness.measure import processor

WORKER = """
import json, os, sys, time
arguments = sys.argv[1:]
if "--core" in arguments:
    os.sched_setaffinity(0, {int(arguments[arguments.index("--core") + 1])})
def write(tree):
    print(json.dumps(tree), flush=True)
head = {"schema": "tunix-ppo-harness/bench/2", "conditions": {"backend": "cpu"},
        "recipe": {}, "judged": {"google-tunix": "1"}, "environment": {"cpu": {"count": 1}}}
def work(passes):
    total = 0
    for _ in range(passes):
        for number in range(2000):
            total += number * number
    return total
PASSES
if arguments[0] == "exact":
    write({**head, "benchmarks": {"step": {"flops": passes}}})
else:
    write(head)
    for line in sys.stdin:
        calls = json.loads(line)["calls"]
        wall_clock, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            work(passes)
        write({"wall_clock": (time.perf_counter() - wall_clock) / calls,
             "cpu": (time.process_time() - cpu) / calls})
"""


def stand_in(folder, passes):
    """A checkout whose worker does real arithmetic instead of a training step."""
    package = folder / "harness" / "bench"
    package.mkdir(parents=True)
    (folder / "harness" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "worker.py").write_text(textwrap.dedent(WORKER).replace("PASSES", passes))
    return folder


def arm(folder, name, passes="passes = 20"):
    return arms.Arm(name, name, stand_in(folder / name, passes), sys.executable, None)


RULES_OF_TEST = timing.Rules((5, 8), (0.001, 0.001))


PLAN_OF_TEST = runner.Plan(
    timed=("step",), rounds=5, most_rounds=5, round_seconds=0.0, rules=RULES_OF_TEST
)


needs_two_cores = pytest.mark.skipif(
    len(processor.cores()) < 2, reason="pinning needs two cores, and this machine has one"
)


@needs_two_cores
def test_real_processes_that_do_the_same_raise_no_alarm(tmp_path):
    report = runner.against(arm(tmp_path, "baseline"), arm(tmp_path, "candidate"), PLAN_OF_TEST)
    output = {each.tier: each.verdict for each in report.findings}
    assert output["exact"] == Verdict.PASS
    assert output["time"] != Verdict.FAIL
    assert len(report.evidence["time"]["pairs"]) in RULES_OF_TEST.looks
    json.dumps(report.to_dict())


@needs_two_cores
def test_real_work_that_was_injected_is_caught(tmp_path):
    slow = arm(tmp_path, "candidate", "passes = 30")
    report = runner.against(arm(tmp_path, "baseline"), slow, PLAN_OF_TEST)
    output = {each.tier: each for each in report.findings}
    assert output["time"].verdict == Verdict.FAIL
    assert output["exact"].verdict == Verdict.FAIL
    assert report.exit_code == 1
    # Half as much again, plus what a call costs besides; noise of a few percent.
    assert 1.3 < output["time"].figures["ratio"] < 1.7


def test_short_benchmarks_take_more_rounds_and_long_ones_the_fewest():
    class Instant:
        def __init__(self, seconds):
            self.seconds = seconds

        def ask(self, order):
            return bench.Seconds(wall_clock=self.seconds, cpu=self.seconds)

    rounds = {}
    for seconds in (0.001, 0.1, 5.0):
        live: Any = {"baseline": Instant(seconds), "candidate": Instant(seconds)}
        plan = runner.Plan(rounds=9, most_rounds=61, seconds=2.0, round_seconds=0.05)
        found = runner.time_rounds(live, "step", plan, random.Random(0))
        rounds[seconds] = len(found["cpu"]["candidate"])
    # 50 calls of 1 ms fill a round of 0.05 s; 40 such rounds fill 2 s.
    assert rounds == {0.001: 40, 0.1: 20, 5.0: 9}


def test_an_arm_that_does_not_run_is_reported_with_its_last_lines(tmp_path):
    broken = arm(tmp_path, "baseline", "raise ImportError('no such name in this Tunix')")
    report = runner.against(broken, arm(tmp_path, "candidate"), PLAN_OF_TEST, tiers=("exact",))
    (finding,) = report.findings
    assert finding.verdict == Verdict.NOT_COMPARABLE
    assert "ImportError: no such name in this Tunix" in finding.text
    assert "the baseline arm" in finding.text
    assert report.exit_code == 2


def test_a_silent_arm_is_given_up(tmp_path):
    silent = arm(tmp_path, "baseline", "sys.stdin.read()")
    with (
        arms.Process(silent, [arms.WORKER, "serve"], timeout=0.2) as process,
        pytest.raises(arms.ArmFailedError, match="was silent for"),
    ):
        process.wait(bench.Header)


def test_environments_that_differ_in_more_than_what_is_judged_are_named(tmp_path, monkeypatch):
    found = {
        "baseline": {"google-tunix": "0.1.6", "jax": "1"},
        "candidate": {"google-tunix": "0.1.7"},
    }
    monkeypatch.setattr(arms, "freeze", lambda arm: found[arm.name])
    report = runner.against(
        arm(tmp_path, "baseline"), arm(tmp_path, "candidate"), PLAN_OF_TEST, tiers=("exact",)
    )
    (finding,) = report.findings
    assert finding.verdict == Verdict.NOT_COMPARABLE
    assert finding.text == "jax is 1 in the baseline's environment and absent in the candidate's"


def test_names_of_packages_are_compared_as_installers_do():
    assert arms.canonical("Array_Record") == arms.canonical("array-record") == "array-record"
    here = arms.Arm("candidate", "here", command.ROOT, sys.executable, None)
    found = arms.freeze(here)
    assert found["jax"] == jax.__version__
    assert {"tunix-ppo-harness", "pip"}.isdisjoint(found)


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.example"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    root = stand_in(tmp_path / "checkout", "passes = 20")
    for part in arms.MEASUREMENT_CODE[1:]:
        path = root / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("") if part.endswith(".py") else path.mkdir()
    (root / "constraints.txt").write_text("jax==1.0\nnumpy==2.0\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def test_a_reference_that_does_not_exist_is_refused(checkout):
    with pytest.raises(HarnessError, match="git knows no reference 'nowhere'"):
        arms.resolve(checkout, "nowhere")
    assert arms.resolve(checkout, "HEAD") == git(checkout, "rev-parse", "HEAD")


def test_a_worktree_with_changes_is_refused_unless_asked_for(checkout):
    assert arms.candidate(checkout).label.startswith("commit ")
    (checkout / "harness" / "new.py").write_text("x = 1\n")
    with pytest.raises(HarnessError, match=r"harness/new\.py.*--dirty"):
        arms.candidate(checkout)
    assert "uncommitted" in arms.candidate(checkout, dirty=True).label


def test_the_measurement_code_is_there():
    assert [each for each in arms.MEASUREMENT_CODE if not (command.ROOT / each).exists()] == []


def test_the_other_arm_has_the_old_code_and_the_new_measurement_code(checkout, monkeypatch):
    old = git(checkout, "rev-parse", "HEAD")
    (checkout / "harness" / "judged.py").write_text("new = True\n")
    (checkout / "harness" / "bench" / "worker.py").write_text("measured = 2\n")
    (checkout / "constraints.txt").write_text("jax==1.1\nnumpy==2.0\n")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "second")
    wanted = {}
    monkeypatch.setattr(arms, "freeze", lambda arm: {"jax": "1.1", "numpy": "2.0"})
    monkeypatch.setattr(
        arms, "environment", lambda pins, folder: wanted.update(pins) or sys.executable
    )
    here = arms.candidate(checkout)
    with arms.against(old, here, checkout / "none") as other:
        assert not (other.root / "harness" / "judged.py").exists()
        assert (other.root / "harness" / "bench" / "worker.py").read_text() == "measured = 2\n"
        assert other.commit == old
        tree = other.root
    assert not tree.exists()
    assert git(checkout, "worktree", "list").count("\n") == 0
    # It is to run with what it pinned itself.
    assert wanted == {"jax": "1.0", "numpy": "2.0"}


def test_another_tunix_runs_under_this_checkout(checkout, monkeypatch):
    wanted = {}
    monkeypatch.setattr(arms, "freeze", lambda arm: {"jax": "1.1", "google-tunix": "0.1.7"})
    monkeypatch.setattr(
        arms, "environment", lambda pins, folder: wanted.update(pins) or sys.executable
    )
    with arms.against("tunix==0.1.6", arms.candidate(checkout), checkout / "none") as other:
        assert other.root == checkout
        assert wanted == {"jax": "1.1", "google-tunix": "0.1.6"}


def test_an_environment_that_cannot_be_made_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(HarnessError, match="environment cannot be made"):
        arms.environment({"no-such-distribution-at-all": "1.0"}, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_too_few_cores_are_refused_and_a_foreign_core_too(monkeypatch):
    monkeypatch.setattr(processor, "cores", lambda: (3,))
    with pytest.raises(HarnessError, match="may use 1 core"):
        processor.choose()
    monkeypatch.setattr(processor, "cores", lambda: (3, 5))
    assert processor.choose() == 5
    assert processor.choose(3) == 3
    with pytest.raises(HarnessError, match="core 4 is not one"):
        processor.choose(4)


def test_a_process_sees_its_own_code_first_and_one_set_of_instructions(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("XLA_FLAGS", "--one")
    found = arms.settings(arm(tmp_path, "candidate"), tmp_path / "programs")
    assert found["PYTHONPATH"] == str(tmp_path / "candidate")
    assert found["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "programs")
    assert found["XLA_FLAGS"].startswith("--one")
    assert "JAX_COMPILATION_CACHE_DIR" not in arms.settings(arm(tmp_path, "b"), None)
