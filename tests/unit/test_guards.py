"""What stops a run: figures that are not finite."""

from typing import Any

import numpy as np
import pytest

from harness import errors, training, upstream
from harness.training import guards, run_dir
from tests.conftest import SMALL_OPTIONS, small_recipe
from tests.support.resuming import Recorded, refusal


@pytest.fixture
def folder(tmp_path):
    with run_dir.claim(tmp_path / "out", small_recipe(), "patched", {}) as made:
        yield made


def test_a_reward_that_is_not_finite_stops_the_run_and_keeps_the_batch(tmp_path, capsys):
    out = tmp_path / "out"
    failing = ("--set", "reward.function=tests.support.resuming:nan_at_the_third")
    message = refusal(capsys, "run", *SMALL_OPTIONS, *failing, "--out", out)
    assert message.startswith(
        "the reward is not finite in global step 1, rollout: the batch is in "
    )
    (path,) = (out / "not_finite").iterdir()
    with np.load(path) as batch:
        assert np.flatnonzero(~np.isfinite(batch["scores"])).tolist() == [2]
        assert len(batch["prompts"]) == len(batch["completions"]) == len(batch["answer"]) == 8
    assert not list(out.glob("checkpoints/sealed/*"))


EXAMPLE = upstream.TrainExample(
    **{
        name: np.arange(2.0)
        for name in (
            *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"),
            *("ref_per_token_logps", "old_per_token_logps", "returns", "old_values"),
        )
    }
)


@pytest.mark.parametrize(
    ("event", "what"),
    [
        ("actor/train/loss", "the policy loss"),
        ("critic/train/loss", "the value loss"),
        ("actor/train/grad_norm", "the actor's gradient"),
        ("critic/train/grad_norm", "the critic's gradient"),
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_stops_the_run_and_keeps_the_batch(event, what, value, folder):
    recorded: Any = Recorded(
        [("actor/train/loss", 1.0, 2), ("rewards/train/score/max", float("nan"), 1)]
    )
    output: list[str] = []
    patient = guards.Guard(
        folder, recorded, training.Options(continue_on_nan=True, report=output.append)
    )
    watch = guards.Guard(folder, recorded, training.Options())
    for each in (watch, patient):
        each.doing("train", 4)
        each.mini_batch_ended([EXAMPLE, EXAMPLE])
    assert output == []
    recorded.figures.append((event, value, 3))
    with pytest.raises(errors.RunStopped) as stopped:
        watch.mini_batch_ended([EXAMPLE, EXAMPLE])
    begins = f"{what} is not finite in global step 5, optimizer step 3"
    assert str(stopped.value).startswith(f"{begins}: the batch is in {folder.out}")
    assert "--resume --continue-on-nan" in str(stopped.value)
    with np.load(folder.out / "not_finite" / "step-3.npz") as batch:
        assert batch["advantages"].tolist() == [0.0, 1.0, 0.0, 1.0]
    patient.mini_batch_ended([EXAMPLE, EXAMPLE])
    assert output == [f"{begins}; going on"]
