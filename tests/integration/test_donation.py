"""Train steps that donate what they train: equal results, and no array deleted that is in use."""

import dataclasses
import types
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tunix.sft import peft_trainer

from harness.checks.context import Context
from harness.upstream.engine import donation
from harness.upstream.instrument import dry_run as dry_run

ID = "model-not-donated"


class Scaled(nnx.Module):
    """Two parameters, a frozen table and a counter."""

    def __init__(self) -> None:
        self.scale = nnx.LoRAParam(jnp.arange(1.0, 5.0))
        self.shift = nnx.LoRAParam(jnp.ones(4))
        self.table = nnx.Param(jnp.full((4, 4), 0.5))
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.table @ (self.scale * x + self.shift)


def trainer_of(model: nnx.Module, loss: Any = None, accumulation: int = 1) -> Any:
    made = peft_trainer.PeftTrainer(
        model,
        optax.adamw(0.1),
        peft_trainer.TrainingConfig(
            eval_every_n_steps=1, max_steps=9, gradient_accumulation_steps=accumulation
        ),
        metrics_logger=cast(Any, types.SimpleNamespace()),
    )
    made.with_loss_fn(loss or (lambda model, x: (jnp.sum(model(x) ** 2), {})), has_aux=True)
    made.with_gen_model_input_fn(lambda x: {"x": x})
    return made


def installed(model: nnx.Module, loss: Any = None) -> Any:
    made = trainer_of(model, loss)
    donation.install(made)
    return made


def step_of(trainer: Any) -> Any:
    return trainer.jit_train_and_eval_step(False, True)[0]


def arrays(*things: Any) -> list[np.ndarray]:
    return [np.array(leaf) for each in things for leaf in jax.tree.leaves(nnx.state(each))]


X = jnp.array([1.0, -2.0, 3.0, 0.5])


def test_a_step_is_that_of_upstream_bit_for_bit():
    stock, split = trainer_of(Scaled()), installed(Scaled())
    for _ in range(3):
        want, got = step_of(stock)(X), step_of(split)(X)
        assert jax.tree.map(np.asarray, got[0]) == np.asarray(want[0])
        assert np.asarray(got[2]) == np.asarray(want[2])
    pairs = zip(
        arrays(split.model, split.optimizer), arrays(stock.model, stock.optimizer), strict=True
    )
    assert all(np.array_equal(got, want) for got, want in pairs)


def test_trained_arrays_are_written_over_and_frozen_ones_are_left_alone():
    trainer = installed(Scaled())
    model: Any = trainer.model
    before = {name: getattr(model, name).get_raw_value() for name in ("scale", "shift", "table")}
    step_of(trainer)(X)
    assert before["scale"].is_deleted()
    assert before["shift"].is_deleted()
    assert not before["table"].is_deleted()
    assert model.table.get_raw_value() is before["table"]


def test_evaluation_deletes_and_returns_nothing_of_the_model():
    trainer = installed(Scaled())
    evaluate = trainer.jit_train_and_eval_step(False, True)[1]
    loss, aux = evaluate(X)
    assert loss == trainer._eval_step(trainer.model, X)[0]
    assert aux == {}
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(nnx.state(trainer.model)))


def test_a_new_loss_makes_new_steps():
    trainer = installed(Scaled())
    step_of(trainer)(X)
    trainer.with_loss_fn(lambda model, x: (jnp.sum(model(x)) * 0.0, {}), has_aux=True)
    assert step_of(trainer)(X)[0] == 0.0


def test_a_change_of_what_is_not_trained_is_refused_by_name():
    def loss(model: Any, x: jax.Array) -> Any:
        model.calls.set_value(model.calls.get_value() + 1)
        return jnp.sum(model(x)), {}

    trainer = installed(Scaled(), loss)
    with pytest.raises(ValueError, match=r"changed .*calls.*, which it does not train"):
        step_of(trainer)(X)


def test_a_step_that_cannot_be_traced_leaves_the_old_weights():
    def loss(model: Any, x: jax.Array) -> Any:
        raise TypeError("no such loss")

    trainer = installed(Scaled(), loss)
    before = arrays(trainer.model, trainer.optimizer)
    with pytest.raises(TypeError, match="no such loss"):
        step_of(trainer)(X)
    after = arrays(trainer.model, trainer.optimizer)
    assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("donated", [False, True], ids=["refused", "lost"])
def test_a_step_that_the_device_fails_says_which_weights_are_left(donated):
    trainer = installed(Scaled())
    step = step_of(trainer).func
    run, before = step.jitted_fn, arrays(trainer.model, trainer.optimizer)

    def failing(taken: Any, *rest: Any) -> Any:
        if donated:
            run(taken, *rest)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of HBM")

    step.jitted_fn = failing
    with pytest.raises(donation.StepFailed) as failure:
        step(X)
    output = str(failure.value)
    assert "RESOURCE_EXHAUSTED: out of HBM" in output
    if donated:
        assert "are lost: go on from the last checkpoint by --resume" in output
        return
    assert "unchanged, those of optimizer step 0" in output
    after = arrays(trainer.model, trainer.optimizer)
    assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))


def test_shared_arrays_are_copied_before_they_are_donated():
    first, second, kept = Scaled(), Scaled(), Scaled()
    second.scale.set_value(first.scale.get_raw_value())
    kept.shift.set_value(first.shift.get_raw_value())
    # A frozen table may be shared: nothing donates it.
    second.table.set_value(first.table.get_raw_value())
    trainers = [installed(first), installed(second)]
    assert donation.own_what_is_donated(trainers, [kept]) == 2
    assert second.table.get_raw_value() is first.table.get_raw_value()
    want = [Scaled() for _ in trainers]
    for trainer, plain in zip(trainers, want, strict=True):
        step_of(trainer)(X)
        step_of(trainer_of(plain))(X)
        got, right = arrays(trainer.model), arrays(plain)
        assert all(np.array_equal(a, b) for a, b in zip(got, right, strict=True))
    assert np.array_equal(kept.shift.get_value(), np.ones(4))


def test_new_weights_lie_on_the_mesh_as_the_old_ones_did():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("fsdp",))
    specs = {"scale": ("fsdp",), "shift": (), "table": (None, "fsdp")}
    model: Any = Scaled()
    for name, spec in specs.items():
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        variable = getattr(model, name)
        variable.set_value(jax.device_put(variable.get_value(), sharding))
    trainer = installed(model)
    for _ in range(2):
        step_of(trainer)(X)
        for name, spec in specs.items():
            placed = getattr(model, name).get_raw_value().sharding
            assert placed.spec == jax.sharding.PartitionSpec(*spec), name


# ---------------------------------------------------------------- a whole learner


@dataclasses.dataclass
class Ran:
    """A learner that trained, and its states."""

    components: Any
    states: dict[str, dry_run.State]
    policy: list[np.ndarray]


def train(context: Context) -> Ran:
    components = context.build()
    policy = arrays(components.policy)
    components.learner.train(components.dataset.train)
    return Ran(components, dry_run.states(components.learner), policy)


@pytest.fixture(scope="module")
def donating(own_cache) -> Iterator[Ran]:
    del own_cache
    context = Context("patched")
    assert context.recipe.ppo.beta > 0  # so that a reference shares the policy's arrays
    yield train(context)
    context.close()


def test_training_is_that_without_donation_bit_for_bit(donating):
    context = Context("patched")
    context.fixes = context.fixes.without([ID])
    try:
        plain = train(context)
    finally:
        context.close()
    for role, want in plain.states.items():
        got = donating.states[role]
        assert got.train_steps == want.train_steps > 0
        for name in ("weights", "moments"):
            ours, theirs = getattr(got, name), getattr(want, name)
            assert ours.keys() == theirs.keys()
            assert all(np.array_equal(ours[key], theirs[key]) for key in ours), (role, name)


def test_nothing_in_use_is_deleted(donating):
    components = donating.components
    cluster = components.cluster
    worker = cluster.inference_worker
    held = {
        "policy": components.policy,
        "actor": cluster.actor_trainer.model,
        "actor's optimizer": cluster.actor_trainer.optimizer,
        "critic": cluster.critic_trainer.model,
        "critic's optimizer": cluster.critic_trainer.optimizer,
        "rollout": cluster.rollout.model(),
        **{f"{name} of the inference worker": each for name, each in worker._models.items()},
    }
    assert "reference of the inference worker" in held
    for name, each in held.items():
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(nnx.state(each))), name
    for _, state in worker._model_states.values():
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    after = arrays(components.policy)
    assert all(np.array_equal(a, b) for a, b in zip(after, donating.policy, strict=True))
