"""Tests on the components that follow from the recipe in `conftest.py`.

Run `pytest examples`.
"""

from harness import models


def test_the_actors_factors_have_the_rank(ppo_actor):
    weights = models.lora_weights(ppo_actor)
    assert {each.shape[-1] for name, each in weights.items() if "lora_a" in name} == {4}


def test_the_right_answer_scores_one(ppo_batch, ppo_reward_fn):
    prompts = list(ppo_batch["prompts"])
    assert len(prompts) == 8
    right = [f"#### {answer}" for answer in ppo_batch["answer"]]
    assert ppo_reward_fn(prompts, right, answer=ppo_batch["answer"]) == [1.0] * 8
