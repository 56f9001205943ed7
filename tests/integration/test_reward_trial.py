"""A user's reward function tried at the start, and recorded when it fails later."""

import asyncio
import pathlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from harness import errors, reward_call, reward_trial, rewards, training
from harness import recipe as recipe_lib
from harness.training import guards, run_dir
from tests.conftest import SMALL_OPTIONS, small_recipe
from tests.support.cli import call
from tests.support.resuming import Recorded

BATCH = {
    "prompts": np.array(["a", "b", "c", "d"]),
    "question": np.array(["qa", "qb", "qc", "qd"]),
    "answer": np.array(["1", "2", "3", "4"]),
}
FAILING = threading.Event()
RELEASED = threading.Event()
SEEN: list[dict[str, Any]] = []


def reward(name: str, **settings: Any) -> recipe_lib.Reward:
    return recipe_lib.Reward(function=f"{__name__}:{name}", **settings)


def records(prompts, completions, answer, **columns):
    SEEN.append({"prompts": prompts, "completions": completions, "answer": answer, **columns})
    return rewards.gsm8k_reward(prompts, completions, answer)


def brevity(prompts, completions):
    return [-float(len(text)) for text in completions]


def wants_more(prompts, completions, teacher, **columns):
    return [0.0] * len(completions)


async def coroutine(prompts, completions, **columns):
    return [0.0] * len(completions)


def returns_coroutine(prompts, completions, **columns):
    return asyncio.sleep(0)


def nothing(prompts, completions, **columns):
    return None


def wrong_rank(prompts, completions, **columns):
    return np.zeros((len(completions), 1))


def too_few(prompts, completions, **columns):
    return [0.0]


def raises(prompts, completions, **columns):
    return [float(text) for text in completions]


def leaves(prompts, completions, **columns):
    raise SystemExit(3)


def hangs(prompts, completions, **columns):
    RELEASED.wait()
    return [0.0] * len(completions)


def not_finite(prompts, completions, **columns):
    return [float("nan")] * len(completions)


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    """End the threads of the functions that hang."""
    RELEASED.clear()
    FAILING.clear()
    SEEN.clear()
    yield
    RELEASED.set()


def test_the_builtin_rule_is_not_called():
    assert reward_trial.try_out(recipe_lib.Reward(), {}) is None


def test_a_function_is_tried_on_one_real_batch_and_that_is_reported():
    output = reward_trial.try_out(reward("records"), BATCH)
    assert output == (
        f"reward.function '{__name__}:records' was tried on 4 prompts of the data with made-up "
        "completions: rewards of 0 to 1"
    )
    (seen,) = SEEN
    assert seen["prompts"].tolist() == ["a", "b", "c", "d"]
    assert seen["answer"].tolist() == ["1", "2", "3", "4"]
    assert seen["mode"] == "train"
    assert seen["completions"] == ["#### 1", "#### 20", "", "#### 4"]


def test_a_function_that_must_not_be_called_in_vain_is_not():
    output = reward_trial.try_out(reward("records", trial="signature"), BATCH)
    assert output is not None
    assert "not called" in output
    assert SEEN == []


@pytest.mark.parametrize("trial", [None, "signature"])
@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("brevity", "and the columns question, answer, mode (got an unexpected keyword argument"),
        ("wants_more", "(missing a required argument: 'teacher')"),
        ("coroutine", "is a coroutine function"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(name, what, trial):
    with pytest.raises(errors.HarnessError, match=re.escape(what)):
        reward_trial.try_out(reward(name, trial=trial), BATCH)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("returns_coroutine", "not a coroutine"),
        ("nothing", "not None"),
        ("wrong_rank", r"one per completion, not array\("),
        ("too_few", "gave 1 numbers for 4 completions"),
        (
            "raises",
            r"raised ValueError: could not convert .* \(.*test_reward_trial\.py, line \d+\)",
        ),
        ("leaves", "raised SystemExit: 3"),
    ],
)
def test_what_would_fail_in_training_is_refused_at_the_start(name, what):
    with pytest.raises(errors.HarnessError, match=what) as refusal:
        reward_trial.try_out(reward(name), BATCH)
    assert "made-up completions" in str(refusal.value)
    assert not isinstance(refusal.value, errors.RunStopped)


def test_rewards_that_are_not_finite_for_made_up_completions_are_reported_alone():
    output = reward_trial.try_out(reward("not_finite"), BATCH)
    assert output is not None
    assert output.endswith("not all are finite")


def test_a_function_that_hangs_is_refused_when_its_time_is_up():
    with pytest.raises(errors.HarnessError, match=r"longer than reward.timeout_seconds = 0\.05"):
        reward_trial.try_out(reward("hangs", timeout_seconds=0.05), BATCH)


def test_a_time_limit_changes_neither_rewards_nor_errors():
    limited, free = (
        rewards.build(reward("records", timeout_seconds=limit)) for limit in (60.0, None)
    )
    arguments = {**BATCH, "completions": ["#### 1", "", "#### 4", "#### 4"]}
    assert limited(**arguments) == free(**arguments) == [1.0, 0.0, 0.1, 1.0]
    with pytest.raises(reward_call.RewardFailedError, match="ValueError") as failed:
        rewards.build(reward("raises", timeout_seconds=60.0))(**arguments)
    assert failed.value.traceback is not None
    # The user's own frames, none of the harness's.
    assert "test_reward_trial.py" in failed.value.traceback
    assert reward_call.__file__ not in failed.value.traceback


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> Iterator[run_dir.RunDirectory]:
    with run_dir.claim(tmp_path / "out", small_recipe(), "patched", {}) as made:
        yield made


def guarded(folder: run_dir.RunDirectory, name: str, step: int = 2, **settings: Any) -> Callable:
    recorded: Any = Recorded([])
    watch = guards.Guard(folder, recorded, training.Options(), (), lambda: step)
    return watch.guarded(rewards.build(reward(name, **settings)))


@pytest.mark.parametrize(
    ("name", "settings", "what", "kept"),
    [
        ("raises", {}, "raised ValueError: could not", "could not convert string to float"),
        ("nothing", {}, "not None", "not None"),
        ("too_few", {}, "gave 1 numbers for 4 completions", "gave 1 numbers"),
        ("hangs", {"timeout_seconds": 0.05}, "took longer than", "RELEASED.wait()"),
    ],
)
def test_a_function_that_fails_in_training_leaves_its_traceback_and_the_batch(
    name, settings, what, kept, folder
):
    score = guarded(folder, name, **settings)
    completions = ["w", "x", "y", "z"]
    with pytest.raises(errors.RunStopped) as stopped:
        score(**BATCH, completions=completions, mode="train")
    output = str(stopped.value)
    assert stopped.value.exit_code == 2
    assert "\n" not in output
    assert what in output
    assert "in global step 3, sequences 0 to 3: " in output
    assert f"go on by --resume --out {folder.out}" in output
    text, batch = (folder.out / "reward_failed" / f"rollout-3.{end}" for end in ("txt", "npz"))
    assert str(text) in output
    assert str(batch) in output
    assert kept in text.read_text()
    with np.load(batch) as saved:
        assert saved["completions"].tolist() == completions
        assert {each: saved[each].tolist() for each in BATCH} == {
            each: column.tolist() for each, column in BATCH.items()
        }


def fails_when_asked(prompts, completions, answer, **columns):
    if FAILING.is_set():
        raise ValueError("asked to")
    return rewards.gsm8k_reward(prompts, completions, answer)


def test_sequences_are_counted_within_a_global_step_and_validation_is_named(folder):
    score = guarded(folder, "fails_when_asked")
    arguments = {**BATCH, "completions": ["w", "x", "y", "z"]}
    score(**arguments, mode="train")
    score(**arguments, mode="eval")
    FAILING.set()
    with pytest.raises(errors.RunStopped, match="in global step 3, sequences 4 to 7: "):
        score(**arguments, mode="train")
    with pytest.raises(errors.RunStopped, match="in validation in global step 3, 4 sequences: "):
        score(**arguments, mode="eval")


def fails_in_the_second_batch(prompts, completions, answer, mode, **columns):
    """Fail once in training, at the third call: the first is the trial."""
    SEEN.append(columns)
    trained = sum(each.get("trained", False) for each in SEEN)
    SEEN[-1]["trained"] = mode == "train"
    if trained == 2 and FAILING.is_set():
        raise ValueError("the second\nbatch")
    return rewards.gsm8k_reward(prompts, completions, answer)


def test_a_run_whose_reward_fails_goes_on_once_it_is_fixed(tmp_path, capsys):
    out = tmp_path / "out"
    function = f"{__name__}:fails_in_the_second_batch"
    options = (*SMALL_OPTIONS, "--set", f"reward.function={function}")
    FAILING.set()
    code, output, err = call(capsys, "run", *options, "--out", out)
    (line,) = err.splitlines()
    assert code == 2
    assert line.startswith(f"error: reward.function '{function}' raised ValueError: the second ")
    assert "in global step 2, sequences 0 to 7: " in line
    assert "was tried on 8 prompts" in " ".join(output.split())
    text = (out / "reward_failed" / "rollout-2.txt").read_text()
    assert text.rstrip().endswith("ValueError: the second\nbatch")
    FAILING.clear()
    code, output, err = call(capsys, "run", "--resume", "--out", out)
    assert (code, err) == (0, "")
    assert "training goes on from optimizer step 2" in " ".join(output.split())
    assert (out / "result.json").exists()
