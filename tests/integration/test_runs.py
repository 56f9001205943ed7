"""Runs of other recipes than the one of `test_pipeline`, and recipes that cannot be run."""

import json
import pathlib

import jax
import numpy as np
import pytest

from harness import models, training
from harness import recipe as recipe_lib
from harness.artifacts import run as artifact
from harness.data import arithmetic
from harness.errors import HarnessError, RunStopped
from harness.models import checkpoint, gemma
from harness.upstream.engine import donation
from tests.conftest import run_small, small_recipe

PROBLEMS = arithmetic.problems(recipe_lib.Arithmetic(train_problems=80, test_problems=6, seed=7))


@pytest.fixture(scope="module")
def own_parts(own_cache, tmp_path_factory):
    """One run of everything a user can bring or switch on: data, weights, reward, KL, ..."""
    del own_cache
    folder = tmp_path_factory.mktemp("own")
    for split, problems in zip(("train", "test"), PROBLEMS, strict=True):
        lines = [json.dumps(problem._asdict()) for problem in problems]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    recipe = small_recipe()
    policy = models.make_policy(recipe, models.make_mesh(recipe.sharding))
    checkpoint.write(gemma.weights_of(policy), folder / "weights")
    return run_small(
        folder / "out",
        recipe_lib.replace(
            recipe,
            f"data.source=jsonl:{folder}",
            "model.weights=checkpoint",
            f"model.checkpoint={folder / 'weights'}",
            "reward.function=tests.integration.test_runs:always_two",
            "data.train_fraction=0.5",
            "data.num_batches=2",
            "evaluation.every_n_steps=1",
            "ppo.beta=0.05",
            "ppo.epsilon_c=3.0",
            "ppo.entropy_coef=0.01",
        ),
    )


def test_jsonl_in_gsm8ks_form_runs_end_to_end_through_array_record(own_parts, own_cache):
    assert own_parts.json["data"]["problems"] == {"train": 80, "test": 6}
    lines = (own_parts.out / "samples.jsonl").read_text().splitlines()
    asked = {json.loads(line)["question"] for line in lines}
    assert asked == {problem.question for problem in PROBLEMS[1]}
    assert list(own_cache.rglob("*.array_record*"))


def test_weights_from_a_checkpoint_need_no_warm_start(own_parts):
    assert own_parts.json["warm_start"] is None
    assert "warm_start" not in [phase["name"] for phase in own_parts.json["phases"]]


def test_a_reward_of_ones_own_is_the_reward_that_is_learned_from(own_parts):
    assert [row["reward_mean"] for row in own_parts.json["steps"]] == [2.0]


def test_a_reward_of_one_value_in_every_row_is_reported_in_the_result(own_parts):
    (found,) = own_parts.json["warnings"]
    assert found["id"] == "no-reward-spread"
    assert found["text"].startswith("in 1 of 1 batch(es) all sequences had one reward: every")
    page = artifact.Run.model_validate(own_parts.json)
    assert page.trained.accuracy == 1.0


def test_what_is_measured_is_the_reward_that_is_learned_from(own_parts):
    assert own_parts.json["baseline"]["accuracy"] == own_parts.json["trained"]["accuracy"] == 1.0
    lines = (own_parts.out / "samples.jsonl").read_text().splitlines()
    assert {json.loads(line)["score"] for line in lines} == {2.0}
    warnings = [each["id"] for each in own_parts.json["summary"]["warnings"]]
    assert "right-by-threshold" in warnings


def test_a_reference_model_validation_dual_clip_and_entropy_run(own_parts):
    assert all(np.isfinite(list(own_parts.json["steps"][0].values())))


def always_two(prompts, completions, **columns):
    """A reward that likes everything."""
    del prompts, columns
    return [2.0] * len(completions)


BAD = {
    "reward.function=nowhere:f": "cannot import nowhere",
    "data.source=jsonl:/no/such/folder": "/no/such/folder",
    "data.num_batches=500": "data.num_batches",
    "rollout.max_prompt_length=12": "rollout.max_prompt_length",
    "model.tokenizer=/no/such/file.model": "/no/such/file.model",
    'rollout.stop_tokens=["<over>"]': "<over>",
}


def test_a_device_that_fails_while_training_ends_the_run_in_one_sentence(
    ppo_recipe, tmp_path, monkeypatch
):
    plain = donation.TrainStep.__call__

    def failing(self, example):
        plain(self, example)
        raise jax.errors.JaxRuntimeError("INTERNAL: a core halted")

    monkeypatch.setattr(donation.TrainStep, "__call__", failing)
    with pytest.raises(RunStopped, match=r"device failed while training \(INTERNAL: a core halted"):
        training.run(ppo_recipe, tmp_path / "out")
    assert not (tmp_path / "out" / "result.json").exists()


def test_too_few_devices_leave_nothing_behind(ppo_recipe, tmp_path):
    sizes = (
        "batching.rollout_batch_size=16",
        "batching.mini_batch_size=16",
        "batching.train_micro_batch_size=16",
    )
    asked = recipe_lib.replace(ppo_recipe, *sizes, "sharding.fsdp=16")
    with pytest.raises(HarnessError, match="needs 16 devices"):
        training.run(asked, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("assignment", "output"), BAD.items())
@pytest.mark.parametrize("exists", [True, False])
def test_what_cannot_be_run_leaves_nothing_behind(assignment, output, exists, ppo_recipe, tmp_path):
    out = tmp_path / "deep" / "out"
    if exists:
        out.mkdir(parents=True)
    with pytest.raises(HarnessError, match=output.replace("(", r"\(")):
        training.run(recipe_lib.replace(ppo_recipe, assignment), out)
    assert out.exists() == exists
    assert not exists or not list(out.iterdir())


def test_a_reward_that_fails_in_training_leaves_nothing_behind(ppo_recipe, tmp_path):
    failing = recipe_lib.replace(
        ppo_recipe, "reward.function=tests.integration.test_runs:short_reward"
    )
    with pytest.raises(HarnessError, match="gave 1 numbers for 8 completions"):
        training.run(failing, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def short_reward(prompts, completions, **columns):
    """A reward that forgets all but one completion."""
    del prompts, completions, columns
    return [0.0]


def test_an_output_folder_that_cannot_be_written_is_named(ppo_recipe, tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="cannot be written"):
        training.run(ppo_recipe, tmp_path / "file" / "out")
