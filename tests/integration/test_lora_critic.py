"""A critic by LoRA: its head is trained with its adapters, its base is the policy's."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from harness import models, upstream
from harness import recipe as recipe_lib
from harness.checks.context import Components, Context, Replay
from harness.oracle import gemma as oracle
from harness.oracle import loss as loss_lib
from harness.upstream.engine import lora_head
from harness.upstream.instrument import dry_run as dry_run
from harness.upstream.instrument import programs
from harness.upstream.instrument import resident as resident_lib
from tests.support.steps import example_of

ID = "lora-critic-head-frozen"
ASSIGNMENTS = (
    "critic.lora.rank=2",
    "critic.lora.alpha=4.0",
    "ppo.beta=0",
    "batching.train_micro_batch_size=8",
    "optimizers.warmup_fraction=0.0",
    "optimizers.max_grad_norm=none",
    "optimizers.weight_decay=0.0",
    "data.train_fraction=1.0",
)
HEAD = "score/kernel"


@pytest.fixture(scope="module")
def context(own_cache) -> Iterator[Context]:
    del own_cache
    made = Context("patched")
    yield made
    made.close()


def moved_apart(critic: Any) -> None:
    """Give LoRA's second factors values: without them the first ones have no gradient."""
    rng = np.random.default_rng(3)
    for path, variable in nnx.to_flat_state(nnx.state(critic, nnx.LoRAParam)):
        if str(path[-1]).endswith("_lora_b"):
            noise = rng.normal(0, 0.1, variable.shape).astype(variable.dtype)
            variable.set_value(jax.device_put(noise, variable.get_value().sharding))


def weights_of(components: Components) -> dict[str, np.ndarray]:
    return dict(dry_run.states(components.learner)["critic"].weights)


class Trained:
    """One optimizer step of a critic by LoRA, and a checkpoint of it."""

    def __init__(self, context: Context, directory: Any):
        self.directory = directory
        self.components = context.build(*ASSIGNMENTS, directory=directory)
        moved_apart(self.components.critic)
        self.base = {
            id(leaf): leaf
            for leaf in jax.tree.leaves(
                nnx.state(self.components.critic, nnx.All(nnx.Param, nnx.Not(nnx.LoRAParam)))
            )
        }
        self.before = weights_of(self.components)
        self.example = example_of(self.components.learner, 8)
        self.components.cluster.update_critic([self.example], None)
        self.after = weights_of(self.components)


@pytest.fixture(scope="module")
def trained(context, tmp_path_factory) -> Trained:
    return Trained(context, tmp_path_factory.mktemp("lora_critic"))


def test_at_its_start_it_is_the_full_critic_on_the_policys_own_arrays(context):
    recipe = recipe_lib.replace(context.recipe, *ASSIGNMENTS)
    mesh = models.make_mesh(recipe.sharding)
    policy = models.random_gemma(recipe.model, mesh, 0)
    critic = models.build_critic(recipe, policy, mesh)
    full = models.make_critic(policy, mesh, recipe.seed)
    shared = {id(leaf) for leaf in jax.tree.leaves(nnx.state(policy))}
    own = [leaf for leaf in jax.tree.leaves(nnx.state(critic)) if id(leaf) not in shared]
    trained = 2 * 6 * recipe.model.num_layers + 1  # pairs, and the head
    assert len(own) == trained
    assert len(jax.tree.leaves(nnx.state(critic))) == trained + len(shared)
    ids = np.random.default_rng(0).integers(10, 100, (2, 6))
    mask = np.tril(np.ones((2, 6, 6), bool))
    positions = np.tile(np.arange(6), (2, 1))
    forward = nnx.jit(lambda critic: critic(ids, positions, None, mask))
    got, want = forward(critic), forward(full)
    # The adapters add zeros; XLA fuses the two programs in its own ways.
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_head_and_adapters_move_and_the_base_is_left_where_it_was(trained):
    base = {name for name in trained.before if "_lora_" not in name} - {HEAD}
    for name, before in trained.before.items():
        assert np.array_equal(trained.after[name], before) == (name in base), name
    held = jax.tree.leaves(nnx.state(trained.components.policy))
    # The very arrays: no step copied, replaced or deleted them.
    assert {id(leaf) for leaf in held} == set(trained.base)
    assert not any(leaf.is_deleted() for leaf in held)
    now = jax.tree.leaves(nnx.state(trained.components.cluster.critic_trainer.model))
    assert set(trained.base) <= {id(leaf) for leaf in now}


def test_gradients_are_the_slopes_of_the_oracles_loss(trained):
    """The first moment after one step is a tenth of the gradient; nothing is clipped."""
    recipe, example = trained.components.recipe, trained.example
    prompts, completions = np.asarray(example.prompt_ids), np.asarray(example.completion_ids)
    ids = np.concatenate([prompts, completions], axis=1)
    lora = recipe.critic.lora

    def loss(weights: dict[str, np.ndarray]) -> float:
        backbone = {
            name.removeprefix("backbone/"): leaf for name, leaf in weights.items() if name != HEAD
        }
        merged = oracle.merge_lora(*oracle.split_lora(backbone), lora.alpha / lora.rank)
        shape = Replay(recipe, pad=0).shape
        values = oracle.values(merged, weights[HEAD], ids, ids != 0, shape)
        return loss_lib.value_loss(
            values[:, prompts.shape[1] - 1 : -1],
            example.old_values,
            example.returns,
            example.completion_mask,
            recipe.ppo.clip_range_value,
        ).loss

    gradients = first_moments(trained.components)
    assert HEAD in gradients
    rng = np.random.default_rng(7)
    for names in ([HEAD], [n for n in gradients if "_lora_a" in n], list(gradients)):
        direction = {name: rng.normal(size=gradients[name].shape) for name in names}
        step = 1e-6

        def along(sign: int, direction: Any = direction) -> float:
            moved = {name: np.asarray(leaf, np.float64) for name, leaf in trained.before.items()}
            for name, leaf in direction.items():
                moved[name] = moved[name] + sign * 1e-6 * leaf
            return loss(moved)

        want = (along(1) - along(-1)) / (2 * step)
        got = sum(np.sum(gradients[name] * leaf) for name, leaf in direction.items())
        size = np.sqrt(sum(np.sum(gradients[name] ** 2) for name in names))
        # float32 gradients beside a slope of order `size`; a head left out is off by all of it.
        assert abs(got - want) < 1e-3 * size, names[0]


def first_moments(components: Components) -> dict[str, np.ndarray]:
    """Return ten times the first moment of each trained weight, by its path."""
    state = nnx.to_pure_dict(nnx.state(components.cluster.critic_trainer.optimizer))
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        names = [str(getattr(key, "key", key)) for key in path]
        if "mu" in names:
            name = "/".join(names[names.index("mu") + 1 :]).removesuffix("/value")
            found[name] = np.asarray(leaf, np.float64) / (1 - components.recipe.optimizers.b1)
    return found


def test_a_checkpoint_holds_the_head_and_a_new_process_goes_on_from_it(trained, context):
    trained.components.cluster.save_checkpoints()
    resumed = context.build(*ASSIGNMENTS, directory=trained.directory)
    want, got = (dry_run.states(each.learner)["critic"] for each in (trained.components, resumed))
    assert np.any(want.weights[HEAD] != trained.before[HEAD])
    for name in ("weights", "moments"):
        ours, theirs = getattr(got, name), getattr(want, name)
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours), name
    assert any(HEAD in name for name in got.moments)


def test_without_the_fix_the_head_stays_where_it_was(context):
    fixes, context.fixes = context.fixes, context.fixes.without([ID])
    try:
        components = context.build(*ASSIGNMENTS)
    finally:
        context.fixes = fixes
    moved_apart(components.critic)
    before = weights_of(components)
    components.cluster.update_critic([example_of(components.learner, 8)], None)
    after = weights_of(components)
    assert np.array_equal(after[HEAD], before[HEAD])
    assert any(np.any(after[name] != before[name]) for name in before if "_lora_a" in name)


def test_a_full_critic_is_left_alone_and_a_head_under_upstreams_other_name_is_not():
    class Other(nnx.Module):
        def __init__(self, *, adapted: bool):
            self.base: Any = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
            self.lm_head = nnx.Linear(2, 1, use_bias=True, rngs=nnx.Rngs(0))
            if adapted:
                self.base.kernel_lora_a = nnx.LoRAParam(np.zeros((2, 1)))

    for adapted in (False, True):
        critic = Other(adapted=adapted)
        lora_head.train_with_adapters(critic)
        found = nnx.state(critic, nnx.LoRAParam)
        assert set(found) == ({"base", "lm_head"} if adapted else set())
    assert set(found["lm_head"]) == {"kernel", "bias"}
    assert set(found["base"]) == {"kernel_lora_a"}


def test_what_the_policy_holds_is_counted_once(trained):
    recipe, mesh = trained.components.recipe, trained.components.mesh
    planned = programs.abstract_learner(recipe, mesh, upstream.choose_fixes("patched"))
    here = {each.name: each for each in resident_lib.resident(trained.components.learner)}
    for each in resident_lib.resident(planned):
        assert (here[each.name].arrays, here[each.name].bytes) == (each.arrays, each.bytes)
    after = [
        each.nbytes for name, each in trained.after.items() if "_lora_" in name or name == HEAD
    ]
    assert here["critic"].bytes == sum(after)
    assert "actor base" in programs.arguments_of("critic_step", recipe)
    assert "actor base" in programs.arguments_of("values", recipe)
