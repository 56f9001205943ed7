"""Runs of other recipes than the one of `test_pipeline`, and recipes that cannot be run."""

import json
import pathlib

import numpy as np
import pytest

from harness import models, pipeline
from harness import recipe as recipe_lib
from harness.data import arithmetic
from harness.errors import HarnessError
from harness.models import checkpoint, gemma
from tests.conftest import run_small, small_recipe


def test_a_reference_model_validation_dual_clip_and_entropy_run(tmp_path):
    recipe = small_recipe(
        "ppo.beta=0.05",
        "data.train_fraction=0.5",
        "ppo.epsilon_c=3.0",
        "ppo.entropy_coef=0.01",
        "evaluation.every_n_steps=1",
        "data.num_batches=2",
    )
    found = run_small(tmp_path / "out", recipe)
    assert len(found.json["steps"]) == 1
    assert all(np.isfinite(list(found.json["steps"][0].values())))


def test_jsonl_in_gsm8ks_form_runs_end_to_end_through_array_record(tmp_path, own_cache):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    splits = arithmetic.problems(recipe_lib.Arithmetic(train_problems=80, test_problems=6, seed=7))
    for split, problems in zip(("train", "test"), splits, strict=True):
        lines = [json.dumps(problem._asdict()) for problem in problems]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    recipe = recipe_lib.replace(small_recipe(), f"data.source=jsonl:{folder}")
    found = run_small(tmp_path / "out", recipe)
    assert found.json["data"]["problems"] == {"train": 80, "test": 6}
    lines = (found.out / "samples.jsonl").read_text().splitlines()
    asked = {json.loads(line)["question"] for line in lines}
    assert asked == {problem.question for problem in splits[1]}
    assert list(own_cache.rglob("*.array_record*"))


def test_weights_from_a_checkpoint_and_a_reward_of_ones_own(recipe, tmp_path):
    mesh = models.make_mesh(recipe.sharding)
    folder = tmp_path / "weights"
    checkpoint.write(gemma.weights_of(pipeline.make_policy(recipe, mesh)), folder)
    given = recipe_lib.replace(
        recipe,
        "model.weights=checkpoint",
        f"model.checkpoint={folder}",
        "reward.function=tests.test_runs:always_two",
        "data.num_batches=1",
    )
    found = run_small(tmp_path / "out", given)
    assert found.json["warm_start"] is None
    assert "warm_start" not in [phase["name"] for phase in found.json["phases"]]
    assert [row["reward_mean"] for row in found.json["steps"]] == [2.0]


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
    'rollout.end_tokens=["<over>"]': "<over>",
    "sharding.tp=16": "needs 16 devices",
}


@pytest.mark.parametrize(("assignment", "said"), BAD.items())
@pytest.mark.parametrize("exists", [True, False])
def test_what_cannot_be_run_leaves_nothing_behind(assignment, said, exists, recipe, tmp_path):
    out = tmp_path / "deep" / "out"
    if exists:
        out.mkdir(parents=True)
    with pytest.raises(HarnessError, match=said.replace("(", r"\(")):
        pipeline.run(recipe_lib.replace(recipe, assignment), out)
    assert out.exists() == exists
    assert not exists or not list(out.iterdir())


def test_a_reward_that_fails_in_training_leaves_nothing_behind(recipe, tmp_path):
    failing = recipe_lib.replace(recipe, "reward.function=tests.test_runs:short_reward")
    with pytest.raises(HarnessError, match="gave 1 numbers for 4 completions"):
        pipeline.run(failing, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def short_reward(prompts, completions, **columns):
    """A reward that forgets all but one completion."""
    del prompts, completions, columns
    return [0.0]


def test_an_output_folder_that_cannot_be_written_is_named(recipe, tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="cannot be written"):
        pipeline.run(recipe, tmp_path / "file" / "out")
