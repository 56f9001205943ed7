import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from harness import models, rewards, training, upstream
from harness import recipe as recipe_lib
from harness.errors import HarnessError
from tests.conftest import run_small
from tests.support import killing


def test_result_has_the_contracts_keys(finished_run):
    found = finished_run.json
    assert found.keys() >= {
        "schema",
        "recipe",
        "environment",
        "summary",
        "upstream",
        "baseline",
        "trained",
        "steps",
        "phases",
        "checkpoint_step",
    }
    assert found["upstream"].keys() == {"mode", "version", "fixes"}
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
        "progress",
        "result.json",
        "samples.jsonl",
        "tensorboard",
    ]


@pytest.fixture(scope="module")
def sharded_run(finished_run, tmp_path_factory):
    """The run of `finished_run` on eight devices."""
    recipe = recipe_lib.replace(
        finished_run.recipe,
        "sharding.fsdp=4",
        "sharding.tp=2",
        "checkpoints.save_interval_steps=100",
    )
    return run_small(tmp_path_factory.mktemp("sharded") / "out", recipe)


def test_eight_devices_run_the_whole_recipe_and_reach_the_same_weights(finished_run, sharded_run):
    assert sharded_run.json["steps"][0] == pytest.approx(finished_run.json["steps"][0], abs=1e-4)

    def trained(run):
        mesh = models.make_mesh(run.recipe.sharding)
        actor = models.apply_lora(
            models.make_policy(run.recipe, mesh), run.recipe.lora, mesh, run.recipe.seed
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


def test_fixes_are_named(finished_run):
    fixes = upstream.choose_fixes("patched")
    assert finished_run.json["upstream"]["fixes"] == list(fixes)
    assert {*fixes, *fixes.avoided} == set(upstream.present())


def test_a_folder_with_another_run_is_refused_and_left_alone(finished_run):
    before = (finished_run.out / "result.json").read_bytes()
    with pytest.raises(HarnessError, match="is not empty, it may hold another run"):
        training.run(finished_run.recipe, finished_run.out)
    assert (finished_run.out / "result.json").read_bytes() == before


def test_a_run_did_what_the_account_said(finished_run):
    output, did = finished_run.result.summary, finished_run.json
    assert len(did["steps"]) == output.global_steps
    assert did["checkpoint_step"] == output.optimizer_steps
    assert did["baseline"]["total"] == output.test_problems
    kept = sorted(
        int(folder.name)
        for folder in (finished_run.out / "checkpoints" / "actor").iterdir()
        if folder.name.isdigit()
    )
    assert tuple(kept) == output.checkpoints_left


def _fresh_actor(recipe: recipe_lib.Recipe):
    mesh = models.make_mesh(recipe.sharding)
    policy = models.make_policy(recipe, mesh)
    return models.apply_lora(policy, recipe.lora, mesh, recipe.seed)


@pytest.mark.parametrize("place", [0, -1], ids=["first", "last"])
def test_a_checkpoint_is_restored_by_the_step_that_was_saved(finished_run, place):
    kept = finished_run.result.summary.checkpoints_left
    actor = _fresh_actor(finished_run.recipe)
    assert upstream.restore_actor(actor, finished_run.out, kept[place]) == kept[place]
    saved = killing.weights(finished_run.out, kept[place])
    for name, factor in models.lora_weights(actor).items():
        there = saved[f"actor/model_params//{name.replace('.', '/')}/value"]
        np.testing.assert_array_equal(factor, there, err_msg=name)


def test_a_checkpoint_that_was_not_saved_is_named(finished_run):
    with pytest.raises(HarnessError, match="holds no checkpoint of step 9: use one of"):
        upstream.restore_actor(_fresh_actor(finished_run.recipe), finished_run.out, 9)


def test_a_checkpoint_of_another_lora_is_refused(finished_run):
    other = recipe_lib.replace(finished_run.recipe, "lora.rank=2")
    with pytest.raises(HarnessError, match="does not match the recipe's LoRA"):
        upstream.restore_actor(_fresh_actor(other), finished_run.out)
