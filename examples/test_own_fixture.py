"""Tests on the components that follow from the recipe in `conftest.py`.

Run `pytest examples`.
"""

from harness import models


def test_the_actors_factors_have_the_rank(actor):
    weights = models.lora_weights(actor)
    assert {each.shape[-1] for name, each in weights.items() if "lora_a" in name} == {4}


def test_the_right_answer_scores_one(rollout_batch, reward_fn):
    prompts = list(rollout_batch["prompts"])
    assert len(prompts) == 8
    right = [f"#### {answer}" for answer in rollout_batch["answer"]]
    assert reward_fn(prompts, right, answer=rollout_batch["answer"]) == [1.0] * 8
