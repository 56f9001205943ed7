import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from harness import models, pipeline, rewards, upstream
from harness import recipe as recipe_lib
from harness.data import arithmetic
from harness.errors import HarnessError
from harness.models import checkpoint, gemma
from tests.conftest import run_small, small_recipe


def timeless(result: dict) -> dict:
    """A result without what the clock gave."""
    return {key: value for key, value in result.items() if key != "phases"}


def test_result_has_the_contracts_keys(finished_run):
    found = finished_run.json
    assert found.keys() >= {
        "schema",
        "recipe",
        "environment",
        "accounting",
        "upstream",
        "baseline",
        "trained",
        "steps",
        "phases",
        "checkpoint_step",
    }
    assert found["upstream"].keys() == {"mode", "version", "mends"}
    for stage in ("baseline", "trained"):
        assert found[stage].keys() >= {"accuracy", "format_accuracy", "total", "accuracy_ci95"}
        low, high = found[stage]["accuracy_ci95"]
        assert 0 <= low <= found[stage]["accuracy"] <= high <= 1
    for row in found["steps"]:
        assert row.keys() >= {
            "reward_mean",
            "format_rate",
            "completion_tokens_mean",
            "clip_fraction",
            "value_loss",
            "policy_loss",
        }
        assert all(np.isfinite(list(row.values())))
    for phase in found["phases"]:
        assert phase.keys() == {"name", "seconds", "compile_seconds", "peak_bytes"}
    assert [phase["name"] for phase in found["phases"]] == [
        "prepare",
        "warm_start",
        "build",
        "baseline",
        "train",
        "restore",
        "trained",
    ]


def test_result_holds_the_whole_recipe(finished_run):
    assert recipe_lib.from_dict(finished_run.json["recipe"]) == finished_run.recipe


@pytest.mark.parametrize(("after", "gained"), [(0.30, False), (0.39, False), (0.41, True)])
def test_a_gain_is_an_accuracy_above_the_interval_before(after, gained, finished_run):
    result = finished_run.result
    before = dataclasses.replace(result.baseline, accuracy=0.3, accuracy_ci95=(0.2, 0.4))
    trained = dataclasses.replace(result.trained, accuracy=after)
    assert dataclasses.replace(result, baseline=before, trained=trained).gained is gained


def test_samples_are_one_line_each_and_give_the_accuracy_again(finished_run):
    rows = [
        json.loads(line) for line in (finished_run.out / "samples.jsonl").read_text().splitlines()
    ]
    for stage in ("baseline", "trained"):
        scores = [row["score"] for row in rows if row["stage"] == stage]
        found = finished_run.json[stage]
        assert len(scores) == found["total"]
        assert np.mean([score == 1.0 for score in scores]) == found["accuracy"]
        assert np.mean([score > 0.0 for score in scores]) == found["format_accuracy"]
    for row in rows:
        assert row["score"] == rewards.score(row["completion"], row["answer"])


def test_test_problems_are_answered_in_one_order_before_and_after(finished_run):
    result = finished_run.result
    assert [s.question for s in result.baseline.samples] == [
        s.question for s in result.trained.samples
    ]


def test_tensorboard_and_checkpoints_are_written(finished_run):
    assert list((finished_run.out / "tensorboard").glob("events.out.tfevents.*"))
    saved = finished_run.out / "checkpoints" / "actor" / str(finished_run.json["checkpoint_step"])
    assert (saved / "model_params").is_dir()
    assert sorted(path.name for path in finished_run.out.iterdir()) == [
        "checkpoints",
        "result.json",
        "samples.jsonl",
        "tensorboard",
    ]


def test_a_second_run_with_the_seed_is_bit_identical(finished_run, tmp_path):
    again = run_small(tmp_path / "again", finished_run.recipe)
    assert timeless(again.json) == timeless(finished_run.json)
    assert (again.out / "samples.jsonl").read_bytes() == (
        finished_run.out / "samples.jsonl"
    ).read_bytes()


@pytest.fixture(scope="module")
def sharded_run(finished_run, tmp_path_factory):
    """The run of `finished_run` on eight devices."""
    recipe = recipe_lib.replace(finished_run.recipe, "sharding.fsdp=4", "sharding.tp=2")
    return run_small(tmp_path_factory.mktemp("sharded") / "out", recipe)


def test_eight_devices_run_the_whole_recipe_and_reach_the_same_weights(finished_run, sharded_run):
    assert sharded_run.json["steps"][0] == pytest.approx(finished_run.json["steps"][0], abs=1e-4)

    def trained(run):
        mesh = models.make_mesh(run.recipe.sharding)
        actor = models.apply_lora(
            pipeline.make_policy(run.recipe, mesh), run.recipe.lora, mesh, run.recipe.seed
        )
        assert upstream.restore_actor(actor, run.out) == run.json["checkpoint_step"]
        return actor

    one, eight = trained(finished_run), trained(sharded_run)
    devices = {len(factor.sharding.device_set) for factor in models.lora_weights(eight).values()}
    assert devices == {8}
    for name, factor in models.lora_weights(one).items():
        other = np.asarray(models.lora_weights(eight)[name])
        # Adam's steps are the learning rate (1e-3) times about one; sums in
        # another order change their sign only where the gradient is nothing.
        np.testing.assert_allclose(other, factor, atol=5e-4, err_msg=name)
    assert any(bool(jnp.any(v != 0)) for n, v in models.lora_weights(one).items() if "lora_b" in n)


def test_mends_are_named(finished_run):
    assert finished_run.json["upstream"]["mends"] == list(upstream.present())


def test_bf16_a_reference_model_validation_dual_clip_and_entropy_run(tmp_path):
    recipe = small_recipe(
        "model.dtype=bfloat16",
        "warm_start.max_steps=0",
        "ppo.beta=0.05",
        "data.train_fraction=0.5",
        "ppo.epsilon_c=3.0",
        "ppo.entropy_coef=0.01",
        "evaluation.every_n_steps=2",
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
        "reward.function=tests.test_pipeline:always_two",
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


def test_a_folder_with_another_run_is_refused_and_left_alone(finished_run):
    before = (finished_run.out / "result.json").read_bytes()
    with pytest.raises(HarnessError, match="is not empty, it may hold another run"):
        pipeline.run(finished_run.recipe, finished_run.out)
    assert (finished_run.out / "result.json").read_bytes() == before


BAD = {
    "reward.function=nowhere:f": "cannot import nowhere",
    "data.source=jsonl:/no/such/folder": "/no/such/folder",
    "data.num_batches=500": "data.num_batches",
    "rollout.max_prompt_length=12": "rollout.max_prompt_length",
    "model.tokenizer=/no/such/file.model": "/no/such/file.model",
    'rollout.end_tokens=["<over>"]': "<over>",
    "sharding.tp=16": "needs 16 devices",
}


def test_a_reward_that_fails_in_training_leaves_nothing_behind(recipe, tmp_path):
    failing = recipe_lib.replace(recipe, "reward.function=tests.test_pipeline:short_reward")
    with pytest.raises(HarnessError, match="gave 1 numbers for 4 completions"):
        pipeline.run(failing, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def short_reward(prompts, completions, **columns):
    """A reward that forgets all but one completion."""
    del prompts, completions, columns
    return [0.0]


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


def test_an_output_folder_that_cannot_be_written_is_named(recipe, tmp_path: pathlib.Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="cannot be written"):
        pipeline.run(recipe, tmp_path / "file" / "out")
