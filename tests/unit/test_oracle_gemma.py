import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from tunix.rl import common

from harness import models
from harness import recipe as recipe_lib
from harness.models.gemma import weights_of
from harness.oracle import gemma, rollout
from tests.conftest import small_recipe

# A few roundings of float64, on numbers of order one to ten.
EXACT = 1e-12

VOCAB, EMBED, HIDDEN, RANK = 11, 12, 10, 3
BOTH = gemma.Shape(
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    sliding_window=3,
    local_base=100.0,
    global_base=5000.0,
    pattern=("local", "global"),
    global_scale=2.0,
)
LOCAL = dataclasses.replace(BOTH, pattern=("local",))

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)


def draw_weights(shape: gemma.Shape, layers: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, k, h = shape.num_heads, shape.num_kv_heads, shape.head_dim

    def normal(*size: int) -> np.ndarray:
        return rng.standard_normal(size) / math.sqrt(EMBED)

    weights = {
        "embedder/input_embedding": normal(VOCAB, EMBED),
        "final_norm/scale": normal(EMBED),
    }
    for index in range(layers):
        layer = f"layers/{index}"
        for name in ("pre_attention", "post_attention", "pre_ffw", "post_ffw"):
            weights[f"{layer}/{name}_norm/scale"] = normal(EMBED)
        weights |= {
            f"{layer}/attn/q_einsum/w": normal(n, EMBED, h),
            f"{layer}/attn/kv_einsum/w": normal(2, k, EMBED, h),
            f"{layer}/attn/attn_vec_einsum/w": normal(n, h, EMBED),
            f"{layer}/attn/_query_norm/scale": normal(h),
            f"{layer}/attn/_key_norm/scale": normal(h),
            f"{layer}/mlp/gate_proj/kernel": normal(EMBED, HIDDEN),
            f"{layer}/mlp/up_proj/kernel": normal(EMBED, HIDDEN),
            f"{layer}/mlp/down_proj/kernel": normal(HIDDEN, EMBED),
        }
    return weights


def draw_ids(length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(seed).integers(0, VOCAB, (2, length))
    return ids, np.ones(ids.shape, bool)


def test_rms_norm_of_a_constant_vector_is_its_sign_times_the_gain():
    scale = np.array([0.0, 1.0, -0.5])
    # sqrt(9 + 1e-6) = 3 (1 + 5.6e-8): the epsilon is all that is left.
    np.testing.assert_allclose(gemma.rms_norm(np.full(3, -3.0), scale), -(1 + scale), rtol=1e-7)


def test_rms_norm_has_an_epsilon_of_a_millionth():
    np.testing.assert_array_equal(gemma.rms_norm(np.zeros((2, 3)), np.zeros(3)), np.zeros((2, 3)))
    found = gemma.rms_norm(np.full(3, 1e-3), np.zeros(3))
    np.testing.assert_allclose(found, 1 / math.sqrt(2), atol=EXACT)


def test_rope_turns_each_pair_of_halves_by_its_own_frequency():
    x = np.array([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 1, 4)
    found = gemma.rope(x, np.array([[5]]), 100.0).ravel()
    # Two pairs: the frequencies are 100^0 and 100^(-1/2).
    want = [math.cos(5), math.cos(0.5), math.sin(5), math.sin(0.5)]
    np.testing.assert_allclose(found, want, atol=EXACT)


@quick
@given(seed=seeds, base=st.floats(2, 1e6), half=st.integers(1, 8))
def test_rope_is_the_identity_at_position_zero(seed, base, half):
    x = np.random.default_rng(seed).standard_normal((2, 3, 2, 2 * half))
    np.testing.assert_array_equal(gemma.rope(x, np.zeros((2, 3), int), base), x)


@quick
@given(seed=seeds, base=st.floats(2, 1e6), half=st.integers(1, 8), factor=st.floats(1, 16))
def test_rope_keeps_norms_and_a_factor_divides_positions(seed, base, half, factor):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 3, 2, 2 * half))
    positions = rng.integers(0, 1000, (2, 3))
    turned = gemma.rope(x, positions, base, factor)
    want = np.linalg.norm(x, axis=-1)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), want, atol=EXACT)
    divided = gemma.rope(x, positions / factor, base)
    np.testing.assert_allclose(turned, divided, atol=EXACT)


@quick
@given(
    seed=seeds,
    base=st.floats(2, 1e6),
    positions=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    shift=st.integers(1, 500),
)
def test_rope_gives_dot_products_of_relative_positions_only(seed, base, positions, shift):
    q, k = np.random.default_rng(seed).standard_normal((2, 1, 1, 1, 8))

    def dot(i: int, j: int) -> float:
        one, two = (gemma.rope(x, np.array([[p]]), base) for x, p in ((q, i), (k, j)))
        return float(np.sum(one * two))

    i, j = positions
    # An angle of 1000 has an absolute rounding of 1e-13.
    assert dot(i, j) == pytest.approx(dot(i + shift, j + shift), abs=1e-11)


def test_gelu_is_zero_at_zero_the_identity_far_right_and_zero_far_left():
    found = gemma.gelu(np.array([0.0, 20.0, -20.0]))
    np.testing.assert_allclose(found, [0.0, 20.0, 0.0], atol=EXACT)


def test_gelu_at_one_is_the_tanh_form():
    want = 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715))
    assert float(gemma.gelu(np.array(1.0))) == pytest.approx(want, abs=EXACT)
    exact = 0.5 * (1 + math.erf(1 / math.sqrt(2)))
    assert abs(want - exact) > 1e-4  # so the form is seen


@quick
@given(x=st.floats(-30, 30))
def test_gelu_of_both_signs_differ_by_the_argument(x):
    both = gemma.gelu(np.array([x, -x]))
    assert both[0] - both[1] == pytest.approx(x, abs=1e-11)


@pytest.mark.parametrize(
    ("real", "window", "want"),
    [
        ("111", None, ["100", "110", "111"]),
        ("1111", 2, ["1000", "1100", "0110", "0011"]),
        ("1111", 1, ["1000", "0100", "0010", "0001"]),
        ("0111", None, ["0000", "0100", "0110", "0111"]),
        ("0111", 2, ["0000", "0100", "0110", "0011"]),
        ("1110", 2, ["1000", "1100", "0110", "0010"]),
        # A pad in the middle takes up a position of the window.
        ("1011", 2, ["1000", "1000", "0010", "0011"]),
    ],
)
def test_a_query_sees_real_keys_in_its_past_and_window(real, window, want):
    mask = np.array([[c == "1" for c in real]])
    found = gemma.attention_mask(mask, window)[0]
    assert ["".join("01"[int(seen)] for seen in row) for row in found] == want


@quick
@given(left=st.integers(0, 6), real=st.integers(1, 8), right=st.integers(0, 6), window=...)
def test_with_pads_at_the_ends_the_window_counts_positions(
    left: int, real: int, right: int, window: bool
):
    size = 3 if window else None
    mask = np.repeat([False, True, False], [left, real, right])[None]
    position = rollout.positions(mask)[0]
    found = gemma.attention_mask(mask, size)[0]
    for i, j in itertools.product(range(left, left + real), range(mask.size)):
        back = position[i] - position[j]
        assert found[i, j] == (mask[0, j] and 0 <= back < (size or mask.size))


def test_positions_count_real_tokens_from_zero():
    mask = np.array([[0, 0, 1, 1, 1, 0], [1, 1, 0, 1, 1, 1]], bool)
    assert rollout.positions(mask).tolist() == [[0, 0, 0, 1, 2, 2], [0, 1, 1, 2, 3, 4]]


def test_attention_weights_are_a_softmax_of_scaled_dot_products():
    keys = np.array([[0.0, 0.0, 0.0, 0.0], [2 * math.log(3), 0.0, 0.0, 0.0]])[None, :, None]
    query = np.array([1.0, 0.0, 0.0, 0.0])[None, None, None]
    marks = np.eye(4)[:2][None, :, None]
    # Scores 0 and 2 log 3 / sqrt(4): odds of 1 to 3.
    found = gemma.grouped_query_attention(query, keys, marks, np.ones((1, 1, 2), bool))
    np.testing.assert_allclose(found.ravel(), [0.25, 0.75, 0, 0], atol=EXACT)


def test_attention_takes_scores_that_overflow_exp_and_queries_that_see_nothing():
    keys = np.array([[1e4], [2e4]])[None, :, None]
    mask = np.array([[[True, False], [True, True], [False, False]]])
    found = gemma.grouped_query_attention(np.ones((1, 3, 1, 1)), keys, keys, mask)
    np.testing.assert_array_equal(found.ravel(), [1e4, 2e4, 0])


@quick
@given(seed=seeds, kv_heads=st.sampled_from([1, 2, 4]))
def test_grouped_queries_equal_one_key_value_head_each_when_repeated(seed, kv_heads):
    rng = np.random.default_rng(seed)
    queries = rng.standard_normal((2, 5, 4, 6))
    keys, values = rng.standard_normal((2, 2, 5, kv_heads, 6))
    mask = gemma.attention_mask(np.ones((2, 5), bool))
    found = gemma.grouped_query_attention(queries, keys, values, mask)
    for head in range(4):
        shared = head * kv_heads // 4
        one = gemma.grouped_query_attention(
            queries[:, :, [head]], keys[:, :, [shared]], values[:, :, [shared]], mask
        )
        np.testing.assert_allclose(found[:, :, [head]], one, atol=EXACT)


def test_one_stacked_projection_is_the_same_as_two():
    shape = dataclasses.replace(BOTH, num_kv_heads=4)
    apart = draw_weights(shape, 2)
    stacked = dict(apart)
    for index in range(2):
        q, kv = (stacked.pop(f"layers/{index}/attn/{name}_einsum/w") for name in ("q", "kv"))
        stacked[f"layers/{index}/attn/qkv_einsum/w"] = np.concatenate([q[None], kv])
    ids, mask = draw_ids(6)
    found = gemma.forward(stacked, ids, mask, shape)
    np.testing.assert_allclose(found, gemma.forward(apart, ids, mask, shape), atol=1e-10)


def test_feed_forward_gates_one_projection_with_the_gelu_of_the_other():
    one = np.ones((1, 1))
    weights = {"gate_proj/kernel": 20 * one, "up_proj/kernel": 3 * one, "down_proj/kernel": 5 * one}
    # gelu(20) = 20, gelu(-20) = 0: 20 * 3 * 5 one way, and 0 the other.
    found = gemma.feed_forward(np.array([1.0, -1.0]).reshape(1, 2, 1), weights)
    np.testing.assert_allclose(found.ravel(), [300, 0], atol=1e-10)


def test_without_layers_the_logits_compare_normalised_embeddings_with_the_table():
    weights = {"embedder/input_embedding": np.array([[1.0, 0.0], [3.0, 4.0]])}
    weights["final_norm/scale"] = np.array([0.0, 1.0])
    found = gemma.forward(weights, np.array([[1]]), np.ones((1, 1), bool), BOTH)
    # sqrt(2) (3, 4) has mean square 25; with gains 1 and 2 it becomes sqrt(2) (3, 8) / 5.
    want = np.array([3, 3 * 3 + 4 * 8]) * math.sqrt(2) / 5 / math.sqrt(1 + 1e-6 / 25)
    np.testing.assert_allclose(found[0, 0], want, atol=EXACT)


@quick
@given(seed=seeds, length=st.integers(2, 9), data=st.data())
def test_a_token_changes_no_logits_before_it_and_its_own(seed, length, data):
    weights = draw_weights(BOTH, 3, seed)
    ids, mask = draw_ids(length, seed)
    position = data.draw(st.integers(1, length - 1))
    changed = ids.copy()
    changed[:, position] = (changed[:, position] + 1) % VOCAB
    before, after = (gemma.forward(weights, x, mask, BOTH) for x in (ids, changed))
    np.testing.assert_array_equal(before[:, :position], after[:, :position])
    assert np.abs(before[:, position] - after[:, position]).max() > 1e-3


@quick
@given(seed=seeds, left=st.integers(0, 5), right=st.integers(0, 3), filler=st.integers(0, 10))
def test_pads_at_the_ends_change_nothing(seed, left, right, filler):
    weights = draw_weights(BOTH, 3, seed)
    ids, mask = draw_ids(7, seed)
    ends = ((0, 0), (left, right))
    padded = np.pad(ids, ends, constant_values=filler)
    found = gemma.forward(weights, padded, np.pad(mask, ends), BOTH)
    assert np.isfinite(found).all()
    want = gemma.forward(weights, ids, mask, BOTH)
    np.testing.assert_allclose(found[:, left : left + 7], want, atol=1e-10)


def test_in_one_local_layer_a_token_has_influence_within_the_window_only():
    weights = draw_weights(LOCAL, 1)
    ids, mask = draw_ids(8)
    changed = ids.copy()
    changed[:, 2] = (changed[:, 2] + 1) % VOCAB
    before, after = (gemma.forward(weights, x, mask, LOCAL) for x in (ids, changed))
    moved = np.abs(before - after).max(axis=-1) > 1e-6
    assert moved.tolist() == [[position in (2, 3, 4) for position in range(8)]] * 2
    # A global layer in its position sees the token from everywhere after it.
    everywhere = dataclasses.replace(LOCAL, pattern=("global",))
    before, after = (gemma.forward(weights, x, mask, everywhere) for x in (ids, changed))
    assert (np.abs(before - after).max(axis=-1)[:, 2:] > 1e-6).all()


def test_the_pattern_and_each_kinds_rope_decide_the_logits():
    weights = draw_weights(BOTH, 2)
    ids, mask = draw_ids(8)
    logits = gemma.forward(weights, ids, mask, BOTH)
    for change in (
        {"pattern": ("global", "local")},
        {"pattern": ("local",)},
        {"local_base": 200.0},
        {"global_base": 200.0},
        {"local_scale": 2.0},
        {"global_scale": 1.0},
        {"sliding_window": 4},
    ):
        other = gemma.forward(weights, ids, mask, dataclasses.replace(BOTH, **change))
        assert np.abs(other - logits).max() > 1e-6, change
    cycled = dataclasses.replace(BOTH, pattern=("local", "global", "local"))
    np.testing.assert_array_equal(gemma.forward(weights, ids, mask, cycled), logits)


def test_values_are_the_score_head_on_the_hidden_states():
    weights = draw_weights(BOTH, 2)
    ids, mask = draw_ids(5)
    hidden = gemma.hidden_states(weights, ids, mask, BOTH)
    unit = np.eye(EMBED)[3]
    found = gemma.values(weights, unit[:, None], ids, mask, BOTH, score_bias=2.0)
    np.testing.assert_allclose(found, hidden[..., 3] + 2, atol=EXACT)
    flat = gemma.values(weights, unit, ids, mask, BOTH)
    np.testing.assert_allclose(flat, hidden[..., 3], atol=EXACT)


def draw_pair(path: str, weight: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    # The axes that an input is summed over: heads and their units, the embedding, or a
    # kernel's rows.
    summed = (0, 1) if "attn_vec" in path else (0,) if "kernel" in path else (weight.ndim - 2,)
    ins = [weight.shape[i] for i in summed]
    outs = [size for i, size in enumerate(weight.shape) if i not in summed]
    return rng.standard_normal((*ins, RANK)), rng.standard_normal((RANK, *outs))


# How a state meets each weight, and how it meets a pair one factor after the other.
ROUTES = {
    "attn/q_einsum/w": ("btd,ndh->btnh", "btd,dr->btr", "btr,rnh->btnh"),
    "attn/kv_einsum/w": ("btd,ckdh->cbtkh", "btd,dr->btr", "btr,rckh->cbtkh"),
    "attn/qkv_einsum/w": ("btd,cndh->cbtnh", "btd,dr->btr", "btr,rcnh->cbtnh"),
    "attn/attn_vec_einsum/w": ("btnh,nhd->btd", "btnh,nhr->btr", "btr,rd->btd"),
    "mlp/gate_proj/kernel": ("btd,df->btf", "btd,dr->btr", "btr,rf->btf"),
    "mlp/up_proj/kernel": ("btd,df->btf", "btd,dr->btr", "btr,rf->btf"),
    "mlp/down_proj/kernel": ("btf,fd->btd", "btf,fr->btr", "btr,rd->btd"),
}


@pytest.mark.parametrize("name", ROUTES)
def test_a_merged_weight_does_what_its_pair_does_beside_it(name):
    path = f"layers/0/{name}"
    weights = draw_weights(BOTH, 1)
    weights["layers/0/attn/qkv_einsum/w"] = np.random.default_rng(1).standard_normal((3, 4, 12, 6))
    a, b = draw_pair(path, weights[path], 2)
    whole, first, second = ROUTES[name]
    x = np.random.default_rng(3).standard_normal((2, 5, *a.shape[:-1]))
    beside = np.einsum(whole, x, weights[path])
    beside += 0.7 * np.einsum(second, np.einsum(first, x, a), b)
    merged = gemma.merge_lora(weights, {path: (a, b)}, 0.7)
    np.testing.assert_allclose(np.einsum(whole, x, merged[path]), beside, atol=1e-10)
    assert all(merged[other] is weights[other] for other in weights if other != path)


def test_a_pair_with_a_zero_factor_changes_nothing_and_others_do():
    weights = draw_weights(BOTH, 2)
    ids, mask = draw_ids(6)
    plain = gemma.forward(weights, ids, mask, BOTH)
    paths = [path for path in weights if path.endswith(("/w", "/kernel"))]
    pairs = {path: draw_pair(path, weights[path], i) for i, path in enumerate(paths)}
    nothing = {path: (a, np.zeros_like(b)) for path, (a, b) in pairs.items()}
    merged = gemma.merge_lora(weights, nothing, 5.0)
    np.testing.assert_array_equal(gemma.forward(merged, ids, mask, BOTH), plain)
    for path in paths:
        merged = gemma.merge_lora(weights, {path: pairs[path]}, 1.0)
        assert np.abs(gemma.forward(merged, ids, mask, BOTH) - plain).max() > 1e-6, path


def test_what_does_not_fit_is_refused():
    weights = draw_weights(BOTH, 1)
    ids, mask = draw_ids(3)
    with pytest.raises(ValueError, match="not \\(4, 2, 12\\)"):
        gemma.forward(weights, ids, mask, dataclasses.replace(BOTH, head_dim=12))
    pair = np.ones((EMBED, 1)), np.ones((1, 1))
    for path in ("layers/0/attn/o_einsum/w", "layers/7/mlp/up_proj/kernel", "final_norm/scale"):
        with pytest.raises(ValueError, match=path):
            gemma.merge_lora(weights, {path: pair}, 1.0)
    with pytest.raises(ValueError, match="makes \\(12, 1\\)"):
        gemma.merge_lora(weights, {"layers/0/mlp/up_proj/kernel": pair}, 1.0)
    for change in ({"num_kv_heads": 3}, {"head_dim": 5}, {"sliding_window": 0}, {"pattern": ()}):
        with pytest.raises(ValueError, match=next(iter(change)).replace("num_kv_", "")):
            dataclasses.replace(BOTH, **change)


@dataclasses.dataclass(frozen=True)
class Upstream:
    recipe: recipe_lib.Recipe
    shape: gemma.Shape
    mesh: jax.sharding.Mesh
    policy: Any
    prompts: np.ndarray
    completions: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        return np.concatenate([self.prompts, self.completions], axis=1)

    def run(self, model: nnx.Module) -> np.ndarray:
        """Return what upstream's module gives, on the inputs that its trainer would make."""
        ids, positions, mask, *_ = common.process_ids(
            jnp.asarray(self.prompts), jnp.asarray(self.completions), pad_id=0, eos_id=1
        )
        out = nnx.jit(lambda module: module(ids, positions, None, mask))(model)
        return np.asarray(out[0] if isinstance(out, tuple) else out)

    def check(self, found: np.ndarray, upstream: np.ndarray) -> None:
        real = self.ids != 0
        scale = np.abs(upstream[real]).max()
        # Upstream rounds to float32 at each operation, 6e-8 of what is rounded; sums of
        # up to 64 terms and a dozen operations of depth make that some 1e-6 of the scale.
        np.testing.assert_allclose(found[real], upstream[real], rtol=0, atol=1e-4 * scale)
        assert upstream[real].std() > 0.1 * scale  # numbers that differ, so rounding is all


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    recipe = small_recipe()
    model = recipe.model
    rng = np.random.default_rng(0)
    prompts, completions = rng.integers(4, model.vocab_size, (2, 4, 24))
    for row, (left, right) in enumerate([(0, 0), (5, 3), (17, 12), (23, 1)]):
        prompts[row, :left] = 0
        completions[row, 24 - right :] = 0
    assert model.sliding_window < 24
    assert set(model.attention_pattern) == {"local", "global"}
    shape = gemma.Shape(
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        sliding_window=model.sliding_window,
        local_base=model.local_rope_base,
        global_base=model.global_rope_base,
        pattern=tuple(model.attention_pattern),
    )
    mesh = models.make_mesh(recipe.sharding)
    policy = models.random_gemma(model, mesh, seed=3)
    return Upstream(recipe, shape, mesh, policy, prompts, completions)


def by_path(module: nnx.Module) -> dict[str, np.ndarray]:
    return {"/".join(map(str, path)): np.asarray(w) for path, w in weights_of(module).items()}


def test_the_logits_are_upstreams(upstream):
    found = gemma.forward(by_path(upstream.policy), upstream.ids, upstream.ids != 0, upstream.shape)
    upstream.check(found, upstream.run(upstream.policy))


def test_the_logits_with_merged_lora_are_upstreams_with_lora(upstream):
    lora = dataclasses.replace(upstream.recipe.lora, alpha=2.0 * upstream.recipe.lora.rank)
    actor = models.apply_lora(upstream.policy, lora, upstream.mesh, seed=4)
    state = models.lora_state(actor)
    keys = iter(jax.random.split(jax.random.key(5), len(jax.tree.leaves(state))))
    nnx.update(
        actor, jax.tree.map(lambda x: 0.2 * jax.random.normal(next(keys), x.shape, x.dtype), state)
    )
    weights, pairs = gemma.split_lora(by_path(actor))
    assert len(pairs) == 6 * upstream.recipe.model.num_layers
    merged = gemma.merge_lora(weights, pairs, lora.alpha / lora.rank)
    mask = upstream.ids != 0
    found = gemma.forward(merged, upstream.ids, mask, upstream.shape)
    upstream.check(found, upstream.run(actor))
    plain = gemma.forward(weights, upstream.ids, mask, upstream.shape)
    assert np.abs(found - plain)[mask].max() > 0.1  # so the pairs are seen


def test_the_values_are_those_of_the_critic(upstream):
    critic = models.make_critic(upstream.policy, upstream.mesh, seed=6)
    weights = by_path(critic)
    backbone = {
        path.removeprefix("backbone/"): w
        for path, w in weights.items()
        if path.startswith("backbone/")
    }
    found = gemma.values(
        backbone, weights["score/kernel"], upstream.ids, upstream.ids != 0, upstream.shape
    )
    upstream.check(found, upstream.run(critic)[..., 0])
