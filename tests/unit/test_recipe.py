import pathlib

import pytest

from harness import recipe as recipe_lib
from harness.errors import HarnessError

REFERENCE = {
    "seed": 42,
    "lora.rank": 64,
    "lora.alpha": 64.0,
    "sharding.fsdp": 1,
    "sharding.tp": 1,
    "rollout.max_prompt_length": 512,
    "rollout.max_new_tokens": 512,
    "rollout.temperature": 0.9,
    "rollout.top_p": 1.0,
    "rollout.top_k": 50,
    "rollout.cache_size": 1024,
    "ppo.num_epochs": 2,
    "ppo.beta": 0.0,
    "ppo.epsilon": 0.2,
    "ppo.gamma": 1.0,
    "ppo.gae_lambda": 1.0,
    "ppo.clip_range_value": 0.5,
    "batching.rollout_batch_size": 16,
    "batching.mini_batch_size": 8,
    "batching.train_micro_batch_size": 2,
    "batching.rollout_micro_batch_size": 4,
    "batching.compute_logps_micro_batch_size": 4,
    "data.num_batches": 10,
    "data.num_test_batches": 10,
    "data.num_epochs": 1,
    "data.train_fraction": 1.0,
    "data.shuffle_seed": 42,
    "evaluation.every_n_steps": 10,
    "optimizers.actor_learning_rate": 1e-6,
    "optimizers.critic_learning_rate": 1e-5,
    "optimizers.b1": 0.9,
    "optimizers.b2": 0.999,
    "optimizers.weight_decay": 0.01,
    "optimizers.warmup_fraction": 0.1,
    "optimizers.max_grad_norm": 1.0,
    "checkpoints.save_interval_steps": 5,
    "checkpoints.max_to_keep": 4,
    "reward.correct": 1.0,
    "reward.format": 0.1,
    "reward.clip_chars": 300,
}


@pytest.mark.parametrize(("field", "value"), REFERENCE.items())
def test_gemma3_1b_has_the_references_number(field, value):
    node = recipe_lib.load("gemma3-1b")
    for name in field.split("."):
        node = getattr(node, name)
    assert node == value


def test_gemma3_1b_has_the_references_ways_to_generate():
    found = recipe_lib.load("gemma3-1b").evaluation.generations
    assert {name: (g.temperature, g.top_k, g.top_p) for name, g in found.items()} == {
        "greedy": (1e-4, 1, 1.0),
        "standard": (0.7, 50, 0.95),
        "liberal": (0.85, 2000, 1.0),
    }


def test_the_preset_of_a_v6e_has_the_references_algorithm():
    reference, fast = recipe_lib.load("gemma3-1b"), recipe_lib.load("gemma3-1b-v6e-1")
    same = (
        "name=gemma3-1b",
        f"model.remat={reference.model.remat or 'none'}",
        *(
            f"batching.{size}={getattr(reference.batching, size)}"
            for size in (
                "train_micro_batch_size",
                "rollout_micro_batch_size",
                "compute_logps_micro_batch_size",
            )
        ),
    )
    assert fast != reference
    assert recipe_lib.replace(fast, *same) == reference


@pytest.mark.parametrize("preset", sorted(recipe_lib.PRESETS))
def test_toml_gives_the_recipe_back(preset):
    recipe = recipe_lib.load(
        preset, assignments=["optimizers.max_grad_norm=none", "rollout.top_k=7"]
    )
    assert recipe.optimizers.max_grad_norm is None
    assert recipe_lib.from_toml(recipe_lib.to_toml(recipe)) == recipe


def test_later_words_win_preset_then_toml_then_assignment_then_flag(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("seed = 1\n[lora]\nrank = 3\n[batching]\nrollout_batch_size = 128\n")
    recipe = recipe_lib.load("tiny", toml=file, assignments=["lora.rank=5"], overrides={"seed": 9})
    assert (recipe.seed, recipe.lora.rank, recipe.batching.rollout_batch_size) == (9, 5, 128)
    assert recipe.batching.mini_batch_size == recipe_lib.load("tiny").batching.mini_batch_size


def test_gsm8k_on_the_tiny_preset_brings_longer_prompts_which_assignments_still_beat():
    plain = recipe_lib.load("tiny")
    gsm8k = recipe_lib.load("tiny", source="jsonl:x")
    assert gsm8k.rollout.max_prompt_length > plain.rollout.max_prompt_length
    assert gsm8k.data.long_prompts == "drop"
    mine = recipe_lib.load("tiny", source="jsonl:x", assignments=["data.num_batches=1"])
    assert mine.data.num_batches == 1


REFUSED = {
    "batching.train_micro_batch_size=3": "train_micro_batch_size (3) must divide mini_batch",
    "batching.mini_batch_size=48": "mini_batch_size (48) must divide rollout_batch_size (64)",
    "batching.rollout_micro_batch_size=48": "rollout_micro_batch_size (48) must divide",
    "batching.compute_logps_micro_batch_size=48": "compute_logps_micro_batch_size (48) must",
    "batching.rollout_batch_size=0": "batching.rollout_batch_size: Input should be greater than 0",
    'batching.rollout_batch_size="64"': "rollout_batch_size: Input should be a valid integer",
    "batching.rollout_batch_size=64.0": "rollout_batch_size: Input should be a valid integer",
    "batching.size=3": "batching.size: no such field",
    "speed.fast=true": "speed: no such field",
    "rollout.top_p=0": "rollout.top_p: Input should be greater than 0",
    "rollout.top_p=1.1": "rollout.top_p: Input should be less than or equal to 1",
    "rollout.top_k=0": "rollout.top_k: Input should be greater than 0",
    "rollout.top_k=513": "rollout.top_k must be at most model.vocab_size",
    "rollout.temperature=0": "rollout.temperature: Input should be greater than 0",
    "rollout.cache_size=27": "cache_size (27) must be at least max_prompt_length",
    "rollout.stop_tokens=[]": "rollout.stop_tokens",
    "ppo.gamma=1.5": "ppo.gamma: Input should be less than or equal to 1",
    "ppo.gamma=nan": "ppo.gamma: Input should be a finite number",
    "ppo.epsilon_c=1.0": "ppo.epsilon_c: Input should be greater than 1",
    "ppo.kl_method=k9": "ppo.kl_method",
    "optimizers.max_steps=soon": "optimizers.max_steps",
    "model.num_kv_heads=3": "num_kv_heads must divide num_heads",
    "model.head_dim=7": "head_dim must be even",
    "model.attention_pattern=[]": "model.attention_pattern",
    "sharding.fsdp=3": "sharding.fsdp (3) must divide model.embed_dim (64) and "
    "batching.train_micro_batch_size (64): use one of 1, 2, 4, 8, 16, 32, 64",
    "sharding.tp=8": "sharding.tp (8) must divide model.num_heads (4) and model.num_kv_heads (2): "
    "use one of 1, 2",
    "sharding.tp=3": "sharding.tp (3) must divide model.vocab_size (512)",
    "data.source=zip:x": "source must be arithmetic, tfds, tfds:DIR or jsonl:DIR",
    "data.source=jsonl": "source jsonl needs a folder",
    "data.prompt=hello": "prompt must contain {question}",
    "data.train_fraction=0.001": "data.train_fraction leaves no batch",
    "evaluation.generation=wild": "generation must be one of greedy, liberal, standard",
    "reward.function=nowhere": "reward.function",
    "model=3": "model: Input should be an object",
    "lora.rank": "'lora.rank' is not an assignment: write group.field=value",
}


@pytest.mark.parametrize(("assignment", "output"), REFUSED.items())
def test_a_value_against_the_rules_is_refused_by_field_and_rule(assignment, output):
    with pytest.raises(HarnessError) as caught:
        recipe_lib.load("tiny", assignments=[assignment])
    assert output in str(caught.value)


def test_the_rules_hold_for_recipes_made_in_python_too():
    with pytest.raises(ValueError, match="must divide"):
        recipe_lib.Batching(rollout_batch_size=16, mini_batch_size=5)


def test_an_unknown_preset_is_refused_with_the_list():
    with pytest.raises(HarnessError, match="use one of gemma3-1b, gemma3-1b-v6e-1, tiny"):
        recipe_lib.load("huge")


def test_a_recipe_file_that_is_missing_or_broken_is_named(tmp_path: pathlib.Path):
    with pytest.raises(HarnessError, match=r"nowhere\.toml cannot be read"):
        recipe_lib.load("tiny", toml=tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = = 3")
    with pytest.raises(HarnessError, match=r"broken\.toml is not valid TOML"):
        recipe_lib.load("tiny", toml=broken)
    with pytest.raises(HarnessError, match="not valid TOML"):
        recipe_lib.from_toml("[")


def test_a_recipe_cannot_be_changed_in_place():
    recipe = recipe_lib.load("tiny")
    with pytest.raises(AttributeError):
        recipe.seed = 3  # type: ignore[misc]
    assert recipe_lib.replace(recipe, "seed=3").seed == 3
    assert recipe.seed != 3
