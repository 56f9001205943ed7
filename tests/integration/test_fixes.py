"""Fixes are a list that may be empty; what a run needs is there without any."""

import json
import pathlib

import numpy as np
import pytest

from harness import errors, training, upstream
from harness.training import run_dir
from tests.conftest import small_recipe
from tests.support import killing
from tests.support.cli import call
from tests.support.resuming import Killed, at


def test_all_fixes_are_those_of_the_issues_that_are_here():
    fixes = upstream.choose_fixes("patched")
    assert set(fixes.ids).isdisjoint(fixes.avoided)
    here = set(upstream.present())
    assert {*fixes.ids, *fixes.avoided} == {
        each.id for each in upstream.KNOWN_ISSUES if each.fix and each.id in here
    }
    assert upstream.choose_fixes("patched", "none") == upstream.Fixes((), fixes.avoided)


def test_a_selection_takes_issues_with_one_fix_together():
    everything = upstream.choose_fixes("patched").ids
    without = upstream.choose_fixes("patched", "all,-noise-repeats, -values-not-micro-batched")
    assert set(everything) - set(without.ids) == {
        "noise-repeats",
        "noise-shared-by-micro-batches",
        "values-not-micro-batched",
    }
    some = upstream.choose_fixes("patched", "top-p-none-greedy,end-token-dropped")
    assert set(some.ids) == {
        "end-token-dropped",
        "empty-completion-reward-lost",
        "top-p-none-greedy",
    }
    # In the registry's order, whatever the order in which they were named.
    assert list(some.ids) == [each for each in everything if each in some]


@pytest.mark.parametrize(
    ("mode", "selection", "message"),
    [
        ("stock", "none", "cannot be chosen for stock Tunix"),
        ("patched", "all,-no-such", "there is no known issue 'no-such'"),
        ("patched", "eval-repeated", "'eval-repeated' has no fix"),
        ("patched", "all,-resume-skips-data", "is avoided by the engine"),
        ("patched", "all,top-p-none-greedy", "takes nothing away"),
        ("patched", "none,top-p-none-greedy", "there is no known issue 'none'"),
        ("patched", "", "there is no known issue ''"),
    ],
)
def test_a_selection_that_cannot_be_is_refused_by_name(mode, selection, message):
    with pytest.raises(errors.HarnessError, match=message):
        upstream.choose_fixes(mode, selection)


def test_a_fix_for_what_this_tunix_does_not_have_is_refused():
    absent = [
        each.id
        for each in upstream.KNOWN_ISSUES
        if each.fix and not each.engine and each.id not in upstream.present()
    ]
    for name in absent:
        with pytest.raises(errors.HarnessError, match=f"does not have '{name}'"):
            upstream.choose_fixes("patched", name)


# What reward-truncated gives itself away by.
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning")
def test_without_any_fix_a_run_is_stopped_killed_and_gone_on_with_bit_for_bit(
    own_cache, tmp_path, monkeypatch
):
    del own_cache
    recipe = small_recipe("checkpoints.save_interval_steps=2")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    want = training.run(recipe, whole, fixes="none")
    assert want.fixes == ()
    assert want.to_dict()["upstream"]["fixes"] == []

    journal = broken / "progress" / "journal.jsonl"
    with pytest.raises(errors.Terminated):
        training.run(recipe, broken, fixes="none", stop=journal.exists)
    identity = run_dir.identity_of(broken)
    assert identity is not None
    assert upstream.latest(broken, identity.id) == upstream.Point(2, 1)
    with monkeypatch.context() as patch:
        at(patch, "train", 2, _kill)
        with pytest.raises(Killed):
            training.run(recipe, broken, fixes="none", resume=True)
    with pytest.raises(errors.HarnessError, match="has fixes = none, not all"):
        training.run(recipe, broken, resume=True)
    got = training.run(recipe, broken, fixes="none", resume=True)
    assert got.resumed_at == 2
    assert killing.differences(broken, whole) == []


def _kill() -> None:
    raise Killed


def test_without_any_fix_a_reward_that_is_not_finite_stops_the_run(own_cache, tmp_path):
    del own_cache
    recipe = small_recipe("reward.function=tests.support.resuming:nan_at_the_third")
    with pytest.raises(errors.RunStopped, match="the reward is not finite in global step 1"):
        training.run(recipe, tmp_path / "out", fixes="none")
    (saved,) = pathlib.Path(tmp_path / "out" / "not_finite").iterdir()
    with np.load(saved) as batch:
        assert np.flatnonzero(~np.isfinite(batch["scores"])).tolist() == [2]


@pytest.mark.parametrize("command", ["run", "check", "plan"])
def test_a_command_refuses_fixes_that_cannot_be_chosen(command, capsys, tmp_path):
    out = ("--out", tmp_path / "out") if command == "run" else ()
    code, _, err = call(capsys, command, *out, "--fixes", "all,-no-such")
    *_, line = err.splitlines()  # a plan says first which variables it does not pass on
    assert (code, line[:7]) == (2, "error: ")
    assert "no-such" in line
    assert not (tmp_path / "out").exists()


def test_a_check_without_a_fix_finds_the_issue_and_no_other(capsys, tmp_path):
    path = tmp_path / "check.json"
    code, _, _ = call(
        capsys,
        *("check", "--only", "top-p-none", "--only", "seeds-are-kept"),
        *("--fixes", "all,-top-p-none-greedy", "--json", path),
    )
    assert code == 0
    found = json.loads(path.read_text())
    assert {each["id"]: each["status"] for each in found["properties"]} == {
        "top-p-none": "known-defect",
        "seeds-are-kept": "pass",
    }
