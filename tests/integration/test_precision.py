"""What is computed, stored, trained and remembered in which dtype."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from harness import models, upstream
from harness import recipe as recipe_lib
from harness.checks.context import Context
from harness.errors import HarnessError
from harness.gate import records
from harness.models import checkpoint, gemma
from harness.oracle import optimizer as oracle
from harness.recipe import rounding
from harness.upstream.engine import cluster
from harness.upstream.instrument import dry_run as dry_run
from harness.upstream.instrument import programs
from harness.upstream.instrument import resident as resident_lib
from tests.conftest import small_recipe
from tests.support.steps import example_of


def test_what_is_trained_is_float32_unless_asked_otherwise():
    precision = recipe_lib.load("gemma3-1b", assignments=["model.dtype=bfloat16"]).precision
    assert precision.trained_dtype == precision.moments_dtype == "float32"
    assert precision.accumulators_dtype == "float32"
    asked = ("precision.trained=bfloat16", "precision.moments=bfloat16")
    precision = recipe_lib.load("tiny", assignments=asked).precision
    assert (precision.trained_dtype, precision.moments_dtype) == ("bfloat16", "bfloat16")
    assert precision.accumulators_dtype == "float32"


@pytest.mark.parametrize(
    "assignments",
    [
        ["precision.moments=bfloat16", "rollout.dtype=bfloat16"],
        ["critic.lora.rank=8"],
        ["critic.lora.rank=8", "critic.lora=none"],
    ],
)
def test_toml_gives_the_fields_back(assignments):
    recipe = recipe_lib.load("tiny", assignments=assignments)
    assert recipe_lib.from_toml(recipe_lib.to_toml(recipe)) == recipe
    assert (recipe.critic.lora is None) == (assignments[-1] != "critic.lora.rank=8")


@pytest.mark.parametrize("field", ["precision.trained", "precision.moments", "rollout.dtype"])
def test_another_dtype_is_refused_by_its_name(field):
    with pytest.raises(HarnessError, match=rf"^recipe: {field}: .*'float32' or 'bfloat16'"):
        recipe_lib.load("tiny", assignments=[f"{field}=float16"])


def test_a_baseline_from_before_the_fields_is_comparable():
    tree = recipe_lib.to_dict(recipe_lib.load("tiny"))
    names = records.flat(tree, "recipe")
    assert not [name for name in names if "precision" in name or "critic.lora" in name]
    assert "recipe.rollout.dtype" not in names


# ---------------------------------------------------------------- models

BF16 = ("model.dtype=bfloat16",)


def dtypes(state: Any) -> set[str]:
    return {leaf.dtype.name for leaf in jax.tree.leaves(state)}


@pytest.fixture(scope="module")
def mesh() -> jax.sharding.Mesh:
    return models.make_mesh(small_recipe().sharding)


def built(mesh: jax.sharding.Mesh, *assignments: str) -> tuple[Any, Any, Any]:
    recipe = small_recipe(*assignments)
    policy = models.random_gemma(recipe.model, mesh, 0)
    actor, critic = (
        make(recipe, policy, mesh) for make in (models.build_actor, models.build_critic)
    )
    return policy, actor, critic


@pytest.mark.parametrize(
    ("assignments", "base", "trained"),
    [
        ((), "float32", "float32"),
        (BF16, "bfloat16", "float32"),
        (("precision.trained=bfloat16", *BF16), "bfloat16", "bfloat16"),
        (("precision.trained=bfloat16",), "float32", "bfloat16"),
    ],
)
def test_each_role_is_stored_as_the_recipe_says_with_weights_and_without(
    assignments, base, trained, mesh
):
    adapted = (*assignments, "critic.lora.rank=2")
    for how in (assignments, adapted):
        abstract = models.build_abstract(small_recipe(*how), mesh)
        # One recipe with weights is enough to see that they are made as the shapes are.
        for policy, actor, critic in (abstract, *([built(mesh, *how)] if how[:1] == BF16 else [])):
            assert dtypes(nnx.state(policy)) == {base}
            assert dtypes(nnx.state(actor, nnx.Not(nnx.LoRAParam))) == {base}
            assert dtypes(nnx.state(actor, nnx.LoRAParam)) == {trained}
            assert dtypes(nnx.state(critic.score)) == {trained}
            whole = nnx.state(critic.backbone)
            assert dtypes(whole) == ({base, trained} if how is adapted else {trained})


IDS = np.random.default_rng(0).integers(10, 100, (2, 6))
INPUTS = (IDS, np.tile(np.arange(6), (2, 1)), None, np.tril(np.ones((2, 6, 6), bool)))


@nnx.jit
def loss_and_gradient(model: Any) -> Any:
    def loss(model: Any) -> Any:
        found = model(*INPUTS)
        outputs = found[0] if isinstance(found, tuple) else found
        # Weights that differ, so that no gradient is 0 by symmetry.
        by = np.sin(np.arange(outputs.size)).reshape(outputs.shape)
        return jnp.sum(outputs.astype(jnp.float32) * by), outputs

    (_, outputs), gradient = nnx.value_and_grad(
        loss, argnums=nnx.DiffState(0, nnx.Param), has_aux=True
    )(model)
    return outputs, gradient


@pytest.mark.parametrize("role", ["actor", "critic"])
def test_a_model_computes_in_its_dtype_and_its_gradients_are_those_of_its_masters(role, mesh):
    _, actor, critic = built(mesh, *BF16, "model.num_layers=1")
    module = actor if role == "actor" else critic.backbone
    for path, weight in nnx.to_flat_state(nnx.state(module, nnx.LoRAParam)):
        if str(path[-1]).endswith("_lora_b"):
            weight.set_value(jnp.full(weight.shape, 0.013, weight.dtype))
    whole = models.stored_in(module, "bfloat16")
    assert dtypes(nnx.state(whole)) == {"bfloat16"}
    (got, gradient), (want, cast_gradient) = map(loss_and_gradient, (module, whole))
    assert got.dtype == want.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, want)
    stored = jax.tree.leaves(nnx.state(module, nnx.Param))
    for one, two, weight in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(cast_gradient), stored, strict=True
    ):
        assert one.dtype == weight.dtype
        assert two.dtype == jnp.bfloat16
        # The programs are fused each in its own way: a unit in the last place of bfloat16.
        np.testing.assert_allclose(
            np.float32(one), np.float32(two), rtol=2**-7, atol=1e-2 * float(np.abs(two).max())
        )


def test_hidden_states_can_be_asked_of_a_model_that_casts(mesh):
    _, actor, _ = built(mesh, *BF16)
    tokens, *rest = INPUTS
    found = nnx.eval_shape(lambda model: _hidden(model, tokens, *rest), actor)
    assert found.shape == (2, 6, small_recipe().model.embed_dim)


def _hidden(model: Any, *inputs: Any) -> jax.Array:
    model(*inputs, output_hidden_states=True)
    found: Any = nnx.pop(model, nnx.Intermediate)["all_hidden_states"]
    return found.get_value()[-1]


def test_a_checkpoint_in_bfloat16_is_loaded_as_it_is_and_trained_in_float32(mesh, tmp_path):
    random = models.random_gemma(small_recipe(*BF16).model, mesh, 0)
    folder = tmp_path / "gemma"
    checkpoint.write(gemma.weights_of(random), folder)
    source = ("model.weights=checkpoint", f'model.checkpoint="{folder}"')
    recipe = small_recipe(*BF16, *source)
    lines: list[str] = []
    policy = models.make_policy(recipe, mesh, lines.append)
    assert lines == []
    critic = models.build_critic(recipe, policy, mesh)
    for path, leaf in gemma.weights_of(random).items():
        loaded = gemma.weights_of(policy)[path]
        assert loaded.dtype == jnp.bfloat16
        np.testing.assert_array_equal(loaded, leaf)
        np.testing.assert_array_equal(gemma.weights_of(critic.backbone)[path], np.float32(leaf))
    assert dtypes(models.lora_state(models.build_actor(recipe, policy, mesh))) == {"float32"}


# ---------------------------------------------------------------- optimizers


def _adam(state: Any) -> optax.ScaleByAdamState:
    def is_adam(leaf: Any) -> bool:
        return isinstance(leaf, optax.ScaleByAdamState)

    (found,) = [each for each in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(each)]
    return found


def after_one_large_gradient(*assignments: str) -> tuple[Any, Any]:
    recipe = recipe_lib.load("tiny", assignments=("optimizers.max_grad_norm=none", *assignments))
    made = cluster.make_optimizer(recipe, 1e-5)
    weight = jnp.ones(1, recipe.precision.trained_dtype)
    gradients = jnp.zeros((1001, 1), weight.dtype).at[0].set(10.0)

    @jax.jit
    def run(weight: Any, state: Any) -> Any:
        def step(carry: Any, gradient: Any) -> Any:
            weight, state = carry
            updates, state = made.update(gradient, state, weight)
            return (optax.apply_updates(weight, updates), state), None

        return jax.lax.scan(step, (weight, state), gradients)[0]

    _, state = run(weight, made.init(weight))
    return _adam(state), recipe


@pytest.mark.parametrize(
    "assignments",
    [BF16, (*BF16, "precision.trained=bfloat16")],
    ids=["trained in float32", "trained in bfloat16"],
)
def test_the_second_moment_fades_as_the_oracles_does(assignments):
    found, recipe = after_one_large_gradient(*assignments)
    state = oracle.AdamWState(0, {"w": np.zeros(1)}, {"w": np.zeros(1)})
    weights: Any = {"w": np.ones(1)}
    for step in range(1001):
        gradient = {"w": np.full(1, 10.0 if step == 0 else 0.0)}
        config = recipe.optimizers
        weights, state = oracle.adamw_step(weights, gradient, state, 0.0, config.b1, config.b2)
    assert found.nu.dtype == jnp.float32
    # 0.1 * 0.999^1000; float32 rounds a thousand times.
    np.testing.assert_allclose(found.nu, state.variance["w"], rtol=1e-4)
    assert float(found.nu[0]) == pytest.approx(0.0368, abs=1e-4)


def test_moments_in_bfloat16_on_request_do_not_fade_and_the_summary_says_so():
    asked = ("precision.moments=bfloat16",)
    found, recipe = after_one_large_gradient(*asked)
    assert found.mu.dtype == found.nu.dtype == jnp.bfloat16
    assert float(found.nu[0]) == pytest.approx(0.1, abs=1e-3)
    assert "at b2 = 0.999" in warnings(recipe)["moments-do-not-decay"]


@pytest.mark.parametrize("accumulators", ["float32", "bfloat16"])
def test_sums_are_kept_in_the_dtype_asked_for(accumulators, mesh):
    recipe = small_recipe(f"precision.accumulators={accumulators}")
    fixes = upstream.Fixes(("model-not-donated", "policy-anchored"))
    learner = programs.abstract_learner(recipe, mesh, fixes)
    for role in ("actor", "critic"):
        trainer: Any = getattr(learner.rl_cluster, f"{role}_trainer")
        sums = trainer.optimizer.opt_state.acc_grads
        assert dtypes(nnx.state(sums)) == {accumulators}


@pytest.mark.parametrize("field", ["rollout.dtype", "precision.accumulators"])
def test_tunix_as_installed_is_not_asked_for_what_it_has_no_setting_for(field):
    recipe = recipe_lib.load("tiny", assignments=[f"{field}=bfloat16"])
    nothing: Any = None
    with pytest.raises(HarnessError, match=f"^{field} has no effect on Tunix as installed"):
        cluster.make_cluster(
            recipe,
            mesh=nothing,
            actor=nothing,
            critic=nothing,
            tokenizer=nothing,
            fixes=upstream.STOCK,
        )


# ---------------------------------------------------------------- the summary


def warnings(recipe: recipe_lib.Recipe) -> dict[str, str]:
    return {each.id: each.text for each in recipe_lib.summarize(recipe).warnings}


MESSAGES = {
    "actor-updates-lost": ["precision.trained=bfloat16"],
    "critic-updates-lost": ["precision.trained=bfloat16"],
    "moments-do-not-decay": ["precision.moments=bfloat16"],
    "sums-rounded": ["precision.accumulators=bfloat16"],
    "sampled-in-another-dtype": ["rollout.dtype=bfloat16"],
}


@pytest.mark.parametrize(("warning", "cause"), MESSAGES.items())
def test_a_warning_comes_with_its_cause_and_not_with_bfloat16_alone(warning, cause):
    assert warning not in warnings(recipe_lib.load("gemma3-1b", assignments=BF16))
    assert warning in warnings(recipe_lib.load("gemma3-1b", assignments=cause))


def test_a_rate_below_what_float32_holds_is_named_too():
    found = warnings(recipe_lib.load("tiny", assignments=["optimizers.critic_learning_rate=1e-10"]))
    assert "float32 rounds it away" in found["critic-updates-lost"]
    assert "actor-updates-lost" not in found


def test_a_cache_in_bfloat16_is_half_as_large():
    sizes = [
        recipe_lib.summarize(recipe_lib.load("gemma3-1b", assignments=asked)).cache_bytes
        for asked in ([], ["rollout.dtype=bfloat16"], ["model.dtype=bfloat16"])
    ]
    assert sizes[0] == 2 * sizes[1] == 2 * sizes[2]


@pytest.mark.parametrize("rate", [1e-5, 1e-6, 2.0**-17])
@pytest.mark.parametrize("deviation", [0.125, 0.01])
def test_the_share_that_is_lost_is_that_of_the_optimizer_that_is_built(rate, deviation):
    """Sixteen steps of one gradient: each is the rate of its step, and the largest is the peak."""
    assignments = ("optimizers.max_steps=16", "optimizers.weight_decay=0.0")
    drawn = np.random.default_rng(0).normal(0, deviation, 20_000)
    share = {}
    for dtype in ("float32", "bfloat16"):
        recipe = recipe_lib.load("tiny", assignments=(*assignments, f"precision.trained={dtype}"))
        made = cluster.make_optimizer(recipe, rate)
        before = jnp.asarray(drawn, dtype)
        weights: Any = before
        state = made.init(weights)
        step = jax.jit(made.update)
        for _ in range(16):
            updates, state = step(jnp.ones_like(weights), state, weights)
            weights = optax.apply_updates(weights, updates)
        share[dtype] = float(np.mean(np.asarray(weights == before)))
        # Of 20,000 draws, four standard deviations at the worst share.
        expected = rounding.share_lost(rate, deviation, dtype)
        assert share[dtype] == pytest.approx(expected, abs=0.015)
    assert share["float32"] == 0.0


# ---------------------------------------------------------------- training

TRAINED = (
    *BF16,
    "ppo.beta=0",
    "data.train_fraction=1.0",
    "batching.train_micro_batch_size=8",
    "optimizers.actor_learning_rate=1e-6",
    "optimizers.critic_learning_rate=1e-5",
    "optimizers.max_steps=16",
    "optimizers.warmup_fraction=0.1",
)


@pytest.fixture(scope="module")
def context(own_cache) -> Iterator[Context]:
    del own_cache
    made = Context("patched")
    yield made
    made.close()


@pytest.fixture(scope="module")
def trained(context, tmp_path_factory) -> tuple[Any, Any, dict[str, Any], dict[str, Any]]:
    """A learner that made sixteen optimizer steps: it, its folder, its states before and after."""
    folder = tmp_path_factory.mktemp("bfloat16")
    components = context.build(*TRAINED, directory=folder)
    before = dry_run.states(components.learner)
    for step in range(16):
        example = example_of(components.learner, 8, seed=step)
        components.cluster.update_actor([example], None)
        components.cluster.update_critic([example], None)
    return components, folder, before, dry_run.states(components.learner)


@pytest.mark.parametrize(
    ("role", "part"),
    [("actor", "_lora_a"), ("critic", "layers/"), ("critic", "score/kernel")],
)
def test_as_many_weights_move_as_in_float32(role, part, trained):
    """There all move that have a gradient: 1e-6 is 8 units in the last place of 1."""
    _, _, before, after = trained
    names = [name for name in before[role].weights if part in name]
    assert after[role].train_steps == 16
    moved = np.concatenate(
        [np.ravel(after[role].weights[name] != before[role].weights[name]) for name in names]
    )
    assert {before[role].weights[name].dtype.name for name in names} == {"float32"}
    assert moved.mean() > 0.99


def test_the_base_rests_in_bfloat16(trained):
    components, _, before, after = trained
    base = [name for name in before["actor"].weights if "_lora_" not in name]
    for name in base:
        assert after["actor"].weights[name].dtype.name == "bfloat16"
        np.testing.assert_array_equal(after["actor"].weights[name], before["actor"].weights[name])
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(nnx.state(components.policy)))


def test_a_new_process_goes_on_from_what_was_saved_bit_for_bit(trained, context):
    components, folder, _, want = trained
    components.cluster.save_checkpoints()
    resumed = context.build(*TRAINED, directory=folder)
    got = dry_run.states(resumed.learner)
    for role in ("actor", "critic"):
        assert got[role].train_steps == 16
        for kind in ("weights", "moments"):
            ours, theirs = getattr(got[role], kind), getattr(want[role], kind)
            assert ours.keys() == theirs.keys()
            for name, leaf in ours.items():
                assert leaf.dtype == theirs[name].dtype
                np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)
    fresh = models.build_actor(resumed.recipe, resumed.policy, resumed.mesh)
    assert upstream.restore_actor(fresh, folder) == 16
    for name, leaf in models.lora_weights(fresh).items():
        assert leaf.dtype == jnp.float32
        np.testing.assert_array_equal(leaf, want["actor"].weights[name.replace(".", "/")])


# ---------------------------------------------------------------- the rollout's copy

# Greedy, so that another sampler can be held to it; log-probs are over all tokens all the same.
COPY = ("rollout.dtype=bfloat16", "rollout.temperature=1.0", "rollout.top_k=1", "ppo.beta=0")


@pytest.fixture(scope="module")
def sampling(context) -> Any:
    return context.build(*COPY, log_probs=True)


@pytest.fixture(scope="module")
def rows(sampling) -> Any:
    prompts = sampling.dataset.train[0]["prompts"][:4]
    return list(prompts), sampling.cluster.generate(list(prompts))


def test_the_trainers_log_probs_are_the_policys_and_near_the_samplers(sampling, rows):
    _, output = rows
    width = sampling.recipe.rollout.max_new_tokens
    tokens = np.stack([np.pad(row, (0, width - len(row))) for row in output.tokens])
    own = upstream.log_probs(sampling.cluster, output.left_padded_prompt_tokens, tokens)
    assert own.dtype == np.float32
    plain = upstream.log_probs_of(sampling.actor, output.left_padded_prompt_tokens, tokens)
    real = np.arange(width) < np.array([len(row) for row in output.tokens])[:, None]
    np.testing.assert_allclose(own[real], plain[real], atol=1e-5)
    if upstream.standing("sampler-log-probs-missing"):
        assert output.logprobs is None
        return
    off = np.concatenate(
        [np.abs(own[row, : len(each)] - each) for row, each in enumerate(output.logprobs)]
    )
    # Two layers of products with 8 bits each, logits of order one: hundredths of a nat.
    assert 1e-4 < off.max() < 0.2


def test_greedy_from_the_copy_is_greedy_from_a_model_cast_as_a_whole(sampling, rows):
    prompts, output = rows
    cast = models.stored_in(sampling.actor, "bfloat16")
    generate = upstream.Generator(sampling.recipe, cast, sampling.tokenizer, sampling.mesh)
    greedy = recipe_lib.Generation(temperature=1.0, top_k=1, top_p=1.0)
    texts, _ = generate(prompts, greedy, jax.random.PRNGKey(0))
    assert texts == list(output.text)
    assert len(set(texts)) > 1


def test_the_copy_follows_the_policy_and_its_base_is_cast_once(sampling):
    sampler = sampling.cluster.rollout._sampler
    first = sampler.copied()
    assert {leaf.dtype.name for leaf in first} == {"bfloat16"}
    assert len(first) == len(jax.tree.leaves(nnx.state(sampling.actor)))
    name, factor = next(
        each for each in upstream.parameters(sampling.actor).items() if each[0].endswith("_lora_b")
    )
    plain = factor.get_value()
    factor.set_value(plain + 1.0)
    second = sampler.copied()
    changed = [two for one, two in zip(first, second, strict=True) if one is not two]
    factor.set_value(plain)
    assert len(changed) == 1, name
    np.testing.assert_array_equal(changed[0], (plain + 1.0).astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("assignments", "names"),
    [
        (("rollout.dtype=bfloat16",), ("rollout copy",)),
        ((*BF16, "rollout.dtype=bfloat16"), ("actor base", "rollout copy")),
    ],
)
def test_the_planned_rollout_takes_the_copy_and_a_cache_of_its_dtype(assignments, names, mesh):
    recipe = small_recipe(*assignments)
    learner = programs.abstract_learner(recipe, mesh, upstream.choose_fixes("patched"))
    given = programs.arguments_of("decode", recipe)
    assert given == names
    # A copy of the dtype that the policy has is the policy.
    same = small_recipe("rollout.dtype=float32")
    assert programs.arguments_of("decode", same) == programs.arguments_of("decode")
    held = {each.name: each.bytes for each in resident_lib.resident(learner)}
    assert ("rollout copy" in held) == ("rollout copy" in names)
    rows = recipe.batching.rollout_micro_batch_size
    state = programs.state_bytes(learner, rows)
    lengths = recipe.model.num_layers * rows * 4  # an end for each sequence and layer
    assert state["cache"] == recipe_lib.summarize(recipe).cache_bytes + lengths
    arguments = jax.tree.leaves(programs.lower(learner, "decode", rows).args_info)
    total = sum(np.prod(each.shape, dtype=int) * each.dtype.itemsize for each in arguments)
    assert total == sum(held[name] for name in given) + sum(state.values())
