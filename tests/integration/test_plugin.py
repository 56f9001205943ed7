import pytest

from harness import pytest_plugin
from tests.conftest import SMALL

RECIPE = f"""
import pytest
from harness import recipe as recipe_lib

SMALL = {SMALL!r}

@pytest.fixture{{scope}}
def ppo_recipe():
    return recipe_lib.load("tiny", assignments=SMALL)
"""

LEARNS = """
import jax.numpy as jnp
from harness import models

def test_all_that_rests_on_the_recipe_follows(
    ppo_recipe,
    ppo_mesh,
    ppo_tokenizer,
    ppo_dataset,
    ppo_actor,
    ppo_critic,
    ppo_cluster,
    ppo_learner,
    ppo_batch,
    ppo_rollout,
    ppo_train_example,
):
    assert len(ppo_batch["prompts"]) == ppo_recipe.batching.rollout_batch_size == 8
    assert len(ppo_rollout.text) == len(ppo_rollout.tokens) == 8
    assert ppo_train_example.completion_ids.shape == (8, ppo_recipe.rollout.max_new_tokens)
    assert {f.shape[-1] for n, f in models.lora_weights(ppo_actor).items() if "lora_a" in n} == {4}
    assert len(ppo_actor.layers) == 2 and ppo_critic.backbone.embed_dim == 32
    assert ppo_cluster is ppo_learner.rl_cluster
    ppo_learner.train(ppo_dataset.train)
    moved = models.lora_weights(ppo_actor)
    assert any(bool(jnp.any(f != 0)) for n, f in moved.items() if n.endswith("lora_b"))

def test_the_next_test_has_weights_of_its_own(ppo_actor):
    weights = models.lora_weights(ppo_actor)
    assert not any(bool(jnp.any(f != 0)) for n, f in weights.items() if n.endswith("lora_b"))
"""


def test_a_users_conftest_overrides_the_recipe_alone(pytester: pytest.Pytester):
    pytester.makeconftest(RECIPE.format(scope=""))
    pytester.makepyfile(LEARNS)
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_fixtures_can_be_shared(pytester: pytest.Pytester):
    pytester.makeconftest(RECIPE.format(scope='(scope="module")'))
    pytester.makepyfile(
        """
        seen = []

        def test_one(ppo_actor):
            seen.append(ppo_actor)

        def test_two(ppo_actor):
            assert seen == [ppo_actor]
        """
    )
    ended = pytester.runpytest_inprocess("--harness-scope=module", "-p", "no:cacheprovider")
    ended.assert_outcomes(passed=2)


def test_every_fixture_is_documented_where_pytest_prints_them(pytester: pytest.Pytester):
    ended = pytester.runpytest_inprocess("--fixtures", "-p", "no:cacheprovider")
    text = ended.stdout.str()
    for name in (
        "ppo_recipe",
        "ppo_mesh",
        "ppo_tokenizer",
        "ppo_dataset",
        "ppo_policy",
        "ppo_actor",
        "ppo_critic",
        "ppo_reward_fn",
        "ppo_fixes",
        "ppo_cluster",
        "ppo_learner",
        "ppo_batch",
        "ppo_rollout",
        "ppo_train_example",
        "ppo_compiled_programs",
    ):
        assert (getattr(pytest_plugin, name).__doc__ or "").splitlines()[0] in text
    assert "no docstring available" not in text.partition("pytest_plugin")[2].partition("---")[0]


def test_stock_tunix_by_an_option(pytester: pytest.Pytester):
    pytester.makepyfile(
        """
        def test_no_fix(ppo_fixes):
            assert ppo_fixes.stock and not ppo_fixes.ids
        """
    )
    ended = pytester.runpytest_inprocess("--harness-upstream=stock", "-p", "no:cacheprovider")
    ended.assert_outcomes(passed=1)
