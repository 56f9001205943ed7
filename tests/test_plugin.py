import pytest

from harness import pytest_plugin
from tests.conftest import SMALL

RECIPE = f"""
import pytest
from harness import recipe as recipe_lib

SMALL = {SMALL!r}

@pytest.fixture{{scope}}
def recipe():
    return recipe_lib.load("tiny", assignments=SMALL)
"""

LEARNS = """
import jax.numpy as jnp
from harness import models

def test_all_that_rests_on_the_recipe_follows(
    recipe, mesh, tokenizer, dataset, actor, critic, cluster, learner, rollout_batch, train_example
):
    assert len(rollout_batch["prompts"]) == recipe.batching.rollout_batch_size == 8
    assert train_example.completion_ids.shape == (8, recipe.rollout.max_new_tokens)
    assert {f.shape[-1] for n, f in models.lora_weights(actor).items() if "lora_a" in n} == {4}
    assert len(actor.layers) == 2 and critic.backbone.embed_dim == 32
    assert cluster is learner.rl_cluster
    learner.train(dataset.train)
    moved = models.lora_weights(actor)
    assert any(bool(jnp.any(f != 0)) for n, f in moved.items() if n.endswith("lora_b"))

def test_the_next_test_has_weights_of_its_own(actor):
    assert not any(
        bool(jnp.any(f != 0)) for n, f in models.lora_weights(actor).items() if n.endswith("lora_b")
    )
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

        def test_one(actor):
            seen.append(actor)

        def test_two(actor):
            assert seen == [actor]
        """
    )
    ended = pytester.runpytest_inprocess("--harness-scope=module", "-p", "no:cacheprovider")
    ended.assert_outcomes(passed=2)


def test_every_fixture_is_documented_where_pytest_prints_them(pytester: pytest.Pytester):
    ended = pytester.runpytest_inprocess("--fixtures", "-p", "no:cacheprovider")
    text = ended.stdout.str()
    for name in (
        "recipe",
        "mesh",
        "tokenizer",
        "dataset",
        "policy",
        "actor",
        "critic",
        "reward_fn",
        "fixes",
        "cluster",
        "learner",
        "rollout_batch",
        "train_example",
        "compiled_programs",
    ):
        assert (getattr(pytest_plugin, name).__doc__ or "").splitlines()[0] in text
    assert "no docstring available" not in text.partition("pytest_plugin")[2].partition("---")[0]


def test_stock_tunix_by_an_option(pytester: pytest.Pytester):
    pytester.makepyfile(
        """
        def test_no_fix(fixes):
            assert fixes.stock and not fixes.ids
        """
    )
    ended = pytester.runpytest_inprocess("--harness-upstream=stock", "-p", "no:cacheprovider")
    ended.assert_outcomes(passed=1)
