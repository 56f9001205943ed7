"""Epochs over one rollout batch: each takes every sequence once, whole, in an order of its own."""

import queue
from collections.abc import Iterator
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness import upstream
from harness.checks.context import Context
from harness.upstream.engine import passes

SIZES = passes.Sizes(batch=12, mini_batch=6, micro_batch=2, passes=3)


@flax.struct.dataclass
class Example:
    """Two columns that name their row, and one that is absent."""

    ids: jax.Array
    scores: jax.Array
    reference: jax.Array | None = None


def examples(size: int = 4) -> list[Example]:
    rows = jnp.arange(SIZES.batch)
    return [
        Example(ids=rows[first : first + size, None], scores=10.0 * rows[first : first + size])
        for first in range(0, SIZES.batch, size)
    ]


def test_every_pass_is_a_permutation_of_its_own():
    key = jax.random.PRNGKey(3)
    orders = list(passes.permutations(key, SIZES))
    assert len(orders) == SIZES.passes
    for order in orders:
        assert sorted(order.tolist()) == list(range(SIZES.batch))
    assert len({tuple(order) for order in orders}) == SIZES.passes
    again = list(passes.permutations(key, SIZES))
    assert all(np.array_equal(a, b) for a, b in zip(orders, again, strict=True))


def test_without_a_key_every_pass_follows_the_data():
    for order in passes.permutations(None, SIZES):
        assert order.tolist() == list(range(SIZES.batch))


def test_rows_are_cut_whole():
    orders = [np.roll(np.arange(SIZES.batch), shift) for shift in range(SIZES.passes)]
    found = list(passes.micro_batches(examples(), iter(orders), SIZES))
    assert len(found) == SIZES.passes * SIZES.batch // SIZES.mini_batch
    assert {len(each) for each in found} == {SIZES.mini_batch // SIZES.micro_batch}
    cut = [micro for mini in found for micro in mini]
    assert all(len(micro.ids) == SIZES.micro_batch for micro in cut)
    ids = np.concatenate([micro.ids[:, 0] for micro in cut])
    np.testing.assert_array_equal(ids, np.concatenate(orders))
    np.testing.assert_array_equal(np.concatenate([micro.scores for micro in cut]), 10.0 * ids)
    assert all(micro.reference is None for micro in cut)


def test_trainers_are_fed_one_micro_batch_at_a_time():
    taken: queue.Queue[Any] = queue.Queue()
    passes.feed(taken, iter([["a", "b"], ["c", "d"]]), lambda mini: [each * 2 for each in mini])
    assert [taken.get() for _ in range(taken.qsize())] == [["aa"], ["bb"], ["cc"], ["dd"]]


# ---------------------------------------------------------------- a whole learner

# The programs of the checks' recipe, over batches of two mini-batches.
TWO_MINI_BATCHES = ("batching.rollout_batch_size=16", "data.num_batches=4")


@pytest.fixture(scope="module")
def context(own_cache) -> Iterator[Context]:
    del own_cache
    made = Context("patched")
    yield made
    made.close()


@pytest.fixture(scope="module")
def trace(context) -> upstream.Trace:
    components = context.build(*TWO_MINI_BATCHES)
    return upstream.watch(components.learner, components.dataset.train)


def key_of(example: dict[str, np.ndarray], row: int) -> bytes:
    return example["prompt_ids"][row].tobytes() + example["completion_ids"][row].tobytes()


def test_a_batch_is_sampled_and_whitened_as_one(trace):
    assert [len(group.scores) for group in trace.groups] == [16, 16]
    kinds = [name for name in trace.events if name in ("generate", "actor")]
    # Four calls of the sampler, then two epochs of two mini-batches of two gradients.
    assert kinds == (["generate"] * 4 + ["actor"] * 8) * 2
    for group in trace.groups:
        real = group.example["advantages"][group.example["completion_mask"].astype(bool)]
        # Float32 sums of some fifty numbers of order one.
        assert abs(real.mean()) < 1e-5
        assert real.std(ddof=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("role", ["actor", "critic"])
def test_what_a_trainer_receives_of_a_sequence_is_all_of_one_sequence(trace, role):
    updates = [each for each in trace.updates if each.role == role]
    per_batch = len(updates) // len(trace.groups)
    for number, group in enumerate(trace.groups):
        rows = {key_of(group.example, row): row for row in range(16)}
        assert len(rows) == 16  # no two are alike, so that each can be identified
        mine = updates[number * per_batch : (number + 1) * per_batch]
        used = []
        for update in mine:
            for row in range(len(update.example["prompt_ids"])):
                source = rows[key_of(update.example, row)]
                used.append(source)
                for name, column in update.example.items():
                    if name != "token_weight":
                        np.testing.assert_array_equal(
                            column[row], group.example[name][source], err_msg=name
                        )
        epochs = np.sort(np.reshape(used, (2, 16)), axis=1)
        np.testing.assert_array_equal(epochs, [range(16)] * 2)


def test_token_weights_are_of_the_tokens_of_an_optimizer_step(trace):
    updates = [each for each in trace.updates if each.role == "actor"]
    for first, second in zip(updates[::2], updates[1::2], strict=True):
        tokens = [each.example["completion_mask"].sum() for each in (first, second)]
        for update, own in zip((first, second), tokens, strict=True):
            wanted = own / (sum(tokens) / 2)
            np.testing.assert_allclose(update.example["token_weight"], wanted, rtol=1e-6)


def test_a_batch_that_cannot_be_prepared_ends_the_training(context):
    components = context.build(*TWO_MINI_BATCHES)

    def broken(**kwargs: Any) -> Any:
        raise ZeroDivisionError("no such score")

    components.learner._compute_rewards = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError, match="no such score"):
        components.learner.train(components.dataset.train)
