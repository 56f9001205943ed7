import dataclasses
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tunix.models.gemma3 import model as gemma3
from tunix.sft import utils as sft_utils

from harness import models
from harness import recipe as recipe_lib
from harness.errors import HarnessError
from harness.models import checkpoint, gemma
from tests.conftest import small_recipe

LENGTH = 24


@nnx.jit
def forward(model, tokens):
    mask = tokens != 0
    positions = sft_utils.build_positions_from_mask(mask)
    out = model(tokens, positions, None, sft_utils.make_causal_attn_mask(mask))
    return out[0] if isinstance(out, tuple) else out


@pytest.fixture(scope="module")
def tokens():
    return jnp.asarray(np.random.default_rng(0).integers(4, 500, (4, LENGTH)))


@pytest.fixture(scope="module")
def small():
    return small_recipe()


@pytest.fixture(scope="module")
def one_device(small):
    return models.make_mesh(small.sharding)


@pytest.fixture(scope="module")
def base(small, one_device):
    return models.random_gemma(small.model, one_device, 0)


def test_every_weight_matters(base, tokens):
    """A zero kernel, as upstream's own initialisation has, gives zero gradients here."""

    @nnx.jit
    def grads(model):
        return nnx.grad(lambda m: jnp.mean(jnp.square(forward(m, tokens))))(model)

    found = gemma.flatten(nnx.to_pure_dict(grads(base)))
    assert len(found) == len(gemma.weights_of(base))
    silent = [path for path, grad in found.items() if not float(jnp.abs(grad).max()) > 1e-6]
    assert silent == []


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_activations_are_of_order_one_at_every_layer(preset, small, one_device, tokens):
    model = small.model if preset == "small" else recipe_lib.load("tiny").model
    policy = models.random_gemma(model, one_device, 0)

    @nnx.jit
    def spreads(policy, tokens):
        hidden = policy.embedder.encode(tokens)
        mask = tokens != 0
        positions = sft_utils.build_positions_from_mask(mask)
        attention = sft_utils.make_causal_attn_mask(mask)
        found = [hidden.std()]
        for layer in policy.layers:
            _, hidden = layer(hidden, positions, None, attention)
            found.append(hidden.std())
        return found, forward(policy, tokens).std()

    layers, logits = spreads(policy, tokens)
    assert all(0.5 < spread < 5 for spread in layers)
    assert 0.5 < logits < 2


def test_the_tiny_preset_has_both_attentions_grouped_heads_and_a_short_window():
    tiny = recipe_lib.load("tiny")
    kinds = {layer.attn.attn_type.name for layer in gemma.abstract_gemma(tiny.model).layers}
    assert kinds == {"LOCAL_SLIDING", "GLOBAL"}
    assert tiny.model.num_heads > tiny.model.num_kv_heads > 1
    longest = tiny.rollout.max_prompt_length + tiny.rollout.max_new_tokens
    assert tiny.model.sliding_window < longest


def test_gemma3_1b_is_upstreams_own():
    model = recipe_lib.load("gemma3-1b").model
    theirs = gemma3.ModelConfig.gemma3_1b_it()
    assert gemma.model_config(model) == dataclasses.replace(theirs, param_dtype=jnp.float32)
    # Seven layers show the whole pattern and its return.
    mine = gemma.abstract_gemma(dataclasses.replace(model, num_layers=7))
    config = dataclasses.replace(theirs, num_layers=7)
    other = nnx.eval_shape(lambda: gemma3.Gemma3(config, rngs=nnx.Rngs(0)))
    for one, two in zip(mine.layers, other.layers, strict=True):
        for name in ("attn_type", "rope_base_frequency", "sliding_window_size"):
            assert getattr(one.attn, name) == getattr(two.attn, name)


def test_bf16_by_choice(one_device):
    recipe = small_recipe("model.dtype=bfloat16", "precision.trained=bfloat16")
    policy = models.random_gemma(recipe.model, one_device, 0)
    actor = models.build_actor(recipe, policy, one_device)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(actor))} == {jnp.bfloat16.dtype}
    rows = jnp.ones((2, LENGTH), jnp.int32)
    assert forward(actor, rows).dtype == jnp.bfloat16
    critic = models.build_critic(recipe, policy, one_device)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(critic))} == {jnp.bfloat16.dtype}
    # Values are summed up over a completion, so they leave the critic in float32.
    assert forward(critic, rows).dtype == jnp.float32


def test_lora_at_the_start_changes_nothing_and_has_a_pair_for_each_named_module(
    small, one_device, base, tokens
):
    actor = models.apply_lora(base, small.lora, one_device, 0)
    np.testing.assert_array_equal(forward(actor, tokens), forward(base, tokens))
    names = models.lora_weights(actor)
    modules = {name.rsplit(".", 1)[0] for name in names}
    assert len(modules) == 6 * small.model.num_layers
    assert len(names) == 2 * len(modules)
    for name, factor in names.items():
        assert bool(jnp.any(factor != 0)) == name.endswith("_lora_a")


def test_lora_scale_is_alpha_over_rank(small, one_device, base, tokens):
    def logits(alpha):
        lora = dataclasses.replace(small.lora, alpha=alpha)
        actor = models.apply_lora(base, lora, one_device, 0)
        down: Any = actor.layers[1].mlp.down_proj
        down.kernel_lora_b[...] = jnp.full_like(down.kernel_lora_b[...], 0.05)
        merged = models.clone(base)
        kernel = merged.layers[1].mlp.down_proj.kernel
        pair = down.kernel_lora_a[...] @ down.kernel_lora_b[...]
        kernel[...] = kernel[...] + alpha / lora.rank * pair
        return forward(actor, tokens), forward(merged, tokens)

    for alpha in (4.0, 16.0):
        adapted, merged = logits(alpha)
        # float32: the two add the same product in another order.
        np.testing.assert_allclose(adapted, merged, atol=2e-5)
        assert float(jnp.abs(adapted - forward(base, tokens)).max()) > 1e-2


def test_the_critic_starts_from_a_copy_of_the_policy(small, one_device, base, tokens):
    critic = models.make_critic(base, one_device, 0)
    values = forward(critic, tokens)
    assert values.shape == (4, LENGTH, 1)
    assert values.dtype == jnp.float32
    mine, theirs = gemma.weights_of(critic.backbone), gemma.weights_of(base)
    for path in theirs:
        np.testing.assert_array_equal(mine[path], theirs[path])
        assert mine[path].unsafe_buffer_pointer() != theirs[path].unsafe_buffer_pointer()
    assert float(values.std()) > 0


def test_values_look_at_the_past_only(small, one_device, base, tokens):
    critic = models.make_critic(base, one_device, 0)
    changed = tokens.at[:, 10].add(1)
    before, after = forward(critic, tokens)[..., 0], forward(critic, changed)[..., 0]
    np.testing.assert_array_equal(before[:, :10], after[:, :10])
    assert bool(jnp.all(before[:, 10] != after[:, 10]))


def test_a_mesh_changes_neither_weights_nor_results(small, base, tokens, one_device):
    fsdp, tp = 4, 2
    recipe = small_recipe(
        f"sharding.fsdp={fsdp}",
        f"sharding.tp={tp}",
        "batching.train_micro_batch_size=8",
        "batching.mini_batch_size=8",
    )
    mesh = models.make_mesh(recipe.sharding)
    policy = models.random_gemma(recipe.model, mesh, 0)
    actor = models.apply_lora(policy, recipe.lora, mesh, 0)
    critic = models.make_critic(policy, mesh, 0)
    single = models.apply_lora(base, small.lora, one_device, 0)
    for name, factor in models.lora_weights(actor).items():
        np.testing.assert_array_equal(factor, models.lora_weights(single)[name])
    rows = jnp.tile(tokens, (2, 1))
    with models.entered(mesh):
        sharded = forward(actor, rows), forward(critic, rows)
    plain = forward(single, rows), forward(models.make_critic(base, one_device, 0), rows)
    for mine, other in zip(sharded, plain, strict=True):
        # float32 sums in another order; measured 2e-6.
        np.testing.assert_allclose(mine, other, atol=2e-5)
    devices = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(nnx.state(actor))}
    assert devices == {fsdp * tp}
    table = policy.embedder.input_embedding.get_value()
    assert table.addressable_shards[0].data.size == table.size // (fsdp * tp)


def lies_over(recipe: recipe_lib.Recipe, mesh: jax.sharding.AbstractMesh) -> bool:
    """Return whether JAX can lay each array of actor and critic over a mesh."""
    policy = models.abstract_gemma(recipe.model)
    actor, critic = models.abstract_lora(policy, recipe.lora), models.abstract_critic(policy)
    for model in (actor, critic):
        state = nnx.state(model)
        for leaf, spec in zip(
            jax.tree.leaves(state),
            jax.tree.leaves(
                nnx.get_partition_spec(state),
                is_leaf=lambda each: isinstance(each, jax.sharding.PartitionSpec),
            ),
            strict=True,
        ):
            try:
                jax.sharding.NamedSharding(mesh, spec).shard_shape(leaf.shape)
            except ValueError:
                return False
    return True


@pytest.mark.parametrize(
    "shapes",
    [
        (),  # four heads, two of keys and values
        ("model.num_kv_heads=1",),
        ("model.num_kv_heads=4",),
        ("model.num_heads=8", "model.embed_dim=24", "model.hidden_dim=12"),
        ("model.vocab_size=514", "model.num_heads=8", "model.num_kv_heads=8"),
    ],
    ids=" ".join,
)
def test_a_recipe_is_refused_on_just_the_meshes_that_its_arrays_do_not_lie_over(shapes):
    plain = small_recipe(*shapes)
    for fsdp, tp in ((1, 2), (2, 1), (3, 1), (1, 3), (1, 4), (4, 1), (2, 4), (8, 1), (1, 8)):
        sizes = (
            "batching.rollout_batch_size=24",
            "batching.mini_batch_size=24",
            "batching.train_micro_batch_size=24",
        )
        mesh = jax.sharding.AbstractMesh((fsdp, tp), ("fsdp", "tp"))
        asked = (*sizes, f"sharding.fsdp={fsdp}", f"sharding.tp={tp}")
        if lies_over(plain, mesh):
            recipe_lib.replace(plain, *asked)
        else:
            with pytest.raises(HarnessError, match=r"sharding\.(fsdp|tp) \(\d\) must divide"):
                recipe_lib.replace(plain, *asked)


def test_too_few_devices_is_one_sentence():
    with pytest.raises(HarnessError, match=r"needs 16 devices .* lower sharding\.fsdp"):
        models.make_mesh(recipe_lib.Sharding(fsdp=16))


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("weights") / "gemma"
    checkpoint.write(gemma.weights_of(base), folder)
    return folder


def from_checkpoint(recipe, path, **changes) -> recipe_lib.Model:
    return dataclasses.replace(recipe.model, weights="checkpoint", checkpoint=str(path), **changes)


@pytest.mark.parametrize("where", ["itself", "parent"])
def test_a_checkpoint_in_upstreams_layout_gives_the_weights_back(
    where, saved, small, base, one_device
):
    folder = saved if where == "itself" else saved.parent
    loaded = models.load_gemma(from_checkpoint(small, folder), one_device)
    want, found = gemma.weights_of(base), gemma.weights_of(loaded)
    assert want.keys() == found.keys()
    for path in want:
        np.testing.assert_array_equal(found[path], want[path])


def test_a_checkpoint_has_the_published_names(saved, small):
    metadata: Any = checkpoint.ocp.StandardCheckpointer().metadata(saved)
    tree = metadata.item_metadata.tree
    names = {f"{module}/{name}" for module, leaves in tree.items() for name in leaves}
    assert {
        "transformer/embedder/input_embedding",
        "transformer/final_norm/scale",
        "transformer/layer_0/attn/_key_norm/scale",
        "transformer/layer_1/attn/kv_einsum/w",
        "transformer/layer_1/mlp/gating_einsum/w",
        "transformer/layer_1/mlp/linear/w",
        "transformer/layer_1/post_ffw_norm/scale",
    } <= names
    assert names == checkpoint.upstream_shapes(small.model).keys()


def test_a_checkpoint_of_another_shape_is_refused_by_array(saved, small, one_device):
    with pytest.raises(HarnessError, match=r"gating_einsum/w has shape .* the recipe needs"):
        models.load_gemma(from_checkpoint(small, saved, hidden_dim=48), one_device)
    with pytest.raises(HarnessError, match="lacks transformer/layer_2"):
        models.load_gemma(from_checkpoint(small, saved, num_layers=3), one_device)
    with pytest.raises(HarnessError, match="has transformer/layer_1"):
        models.load_gemma(from_checkpoint(small, saved, num_layers=1), one_device)


def test_a_missing_checkpoint_is_refused(tmp_path, small, one_device):
    with pytest.raises(HarnessError, match="is not a folder"):
        models.load_gemma(from_checkpoint(small, tmp_path / "nowhere"), one_device)
    with pytest.raises(HarnessError, match="holds 0 Orbax checkpoints"):
        models.load_gemma(from_checkpoint(small, tmp_path), one_device)
    with pytest.raises(HarnessError, match="give --checkpoint PATH"):
        models.load_gemma(dataclasses.replace(small.model, weights="checkpoint"), one_device)


def test_a_truncated_checkpoint_is_refused(saved, small, one_device, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(saved, broken)
    data = [path for path in broken.rglob("*") if path.is_file() and "/d/" in str(path)]
    assert data
    for path in data:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(HarnessError, match="truncated or not an Orbax checkpoint"):
        models.load_gemma(from_checkpoint(small, broken), one_device)


def test_a_folder_of_something_else_is_refused(small, one_device, tmp_path):
    (tmp_path / "_METADATA").write_text(json.dumps({"tree_metadata": {}}))
    with pytest.raises(HarnessError, match=str(tmp_path)):
        models.load_gemma(from_checkpoint(small, tmp_path), one_device)
