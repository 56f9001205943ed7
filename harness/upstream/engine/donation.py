"""Steps that write over what they replace and hand back nothing that they only read.

Upstream compiles its train step by `nnx.jit`, which returns every variable of the model,
frozen ones included, and donates the optimizer alone: old and new weights are on the device at
once. The steps here are compiled over arrays instead. What is trained, and the optimizer's
state, is donated; the rest of the model is passed in and not returned. Upstream's own step runs
inside, as it is installed.

An array that was donated is deleted. Code that holds a model sees the new weights, since the
model's variables are updated; an array taken out of a variable before a step must be copied if
it is to outlive the step.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from flax import nnx
from tunix.rl import common
from tunix.rl.inference import inference_worker

from harness import errors
from harness.upstream import rebind


class StepFailed(errors.RunStopped):
    """A compiled train step raised; the message says which weights are left."""


class TrainStep:
    """A trainer's step over the arrays of its model and of its optimizer.

    Attributes:
      jitted_fn: `jax.jit` of (donated, read, example) -> (donated, result), where the first two
        are lists of arrays.
    """

    def __init__(self, trainer: Any):
        """Prepare; nothing is compiled before the first call.

        Args:
          trainer: Upstream's trainer, its optimizer laid over the mesh.
        """
        self._role = trainer.config.metrics_prefix or "model"
        self._trainer = trainer
        model_graph, trained, rest = nnx.split(trainer.model, trainer.optimizer.wrt, ...)
        optimizer_graph, optimizer = nnx.split(trainer.optimizer)
        donated = (trained, optimizer)
        self._donated, self._read = _variables(donated), _variables(rest)
        donated_tree, read_tree = jax.tree.structure(donated), jax.tree.structure(rest)
        train_step, wrt = trainer.create_train_step_fn(), trainer.optimizer.wrt

        def step(donated: Sequence[Any], read: Sequence[Any], example: Any) -> Any:
            trained, optimizer_state = jax.tree.unflatten(donated_tree, donated)
            rest = jax.tree.unflatten(read_tree, read)
            model = nnx.merge(model_graph, trained, rest)
            optimizer = nnx.merge(optimizer_graph, optimizer_state)
            result = train_step(model, optimizer, example)
            graph, trained, rest = nnx.split(model, wrt, ...)
            after = (trained, nnx.split(optimizer)[1])
            if graph != model_graph or jax.tree.structure(after) != donated_tree:
                raise ValueError("the train step changed the structure of its model")
            _check_unchanged(read, rest)
            return jax.tree.leaves(after), result

        # New weights lie as the old ones did; else a mesh's layout drifts from step to step,
        # and a donated array of another layout cannot be written over.
        shardings = [_named_sharding(each.get_raw_value()) for each in self._donated]
        self.jitted_fn = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))

    def __call__(self, example: Any) -> Any:
        """Take a step; the variables of model and optimizer are updated.

        Args:
          example: The trainer's input.

        Returns:
          What upstream's step returns: loss, auxiliary figures and gradient norm.

        Raises:
          StepFailed: The device refused or failed; the message says whether the weights are
            still those before the step.
        """
        before = [each.get_raw_value() for each in self._donated]
        read = [each.get_raw_value() for each in self._read]
        after: Sequence[Any] | None = None
        try:
            after, result = self.jitted_fn(before, read, example)
        except jax.errors.JaxRuntimeError as error:
            raise StepFailed(self._failure(before, error)) from error
        finally:
            if after is not None:
                for variable, value in zip(self._donated, after, strict=True):
                    variable.set_raw_value(value)
        return result

    def _failure(self, before: Iterable[Any], error: Exception) -> str:
        step = self._trainer.train_steps
        reason = " ".join(str(error).split())[:300]
        if any(each.is_deleted() for each in before):
            left = (
                "its weights were donated to the step and are lost: go on from the last "
                "checkpoint by --resume"
            )
        else:
            left = f"its weights are unchanged, those of optimizer step {step}"
        return f"the train step of the {self._role} failed after step {step} ({reason}); {left}"


class EvaluationStep:
    """A trainer's evaluation over the arrays of its model, of which none is returned.

    Attributes:
      jitted_fn: `jax.jit` of (read, example) -> result.
    """

    def __init__(self, trainer: Any):
        """Prepare; nothing is compiled before the first call.

        Args:
          trainer: Upstream's trainer.
        """
        graph, state = nnx.split(trainer.model)
        self._read, tree = _variables(state), jax.tree.structure(state)
        evaluate = trainer.create_eval_step_fn()

        def step(read: Sequence[Any], example: Any) -> Any:
            return evaluate(nnx.merge(graph, jax.tree.unflatten(tree, read)), example)

        self.jitted_fn = jax.jit(step)

    def __call__(self, example: Any) -> Any:
        """Evaluate an example; see upstream's `_eval_step`."""
        return self.jitted_fn([each.get_raw_value() for each in self._read], example)


def install(trainer: Any) -> None:
    """Make a trainer take `TrainStep` and `EvaluationStep` from now on.

    Args:
      trainer: Upstream's trainer. Its steps are made when it first trains, and made anew
        whenever upstream forgets them, as when its loss is replaced.
    """
    make = trainer.jit_train_and_eval_step

    def jit_train_and_eval_step(skip_jit: bool = False, cache_nnx_graph: bool = False) -> Any:
        if not skip_jit and trainer._jitted_train_step_fn is None:
            make(skip_jit, cache_nnx_graph)  # lays the optimizer over the mesh
            # Upstream looks for `.func.jitted_fn`.
            trainer._jitted_train_step_fn = functools.partial(TrainStep(trainer))
            trainer._jitted_eval_step_fn = functools.partial(EvaluationStep(trainer))
        return make(skip_jit, cache_nnx_graph)

    trainer.jit_train_and_eval_step = jit_train_and_eval_step


def own_what_is_donated(trainers: Sequence[Any], others: Iterable[Any]) -> int:
    """Copy trained arrays that something else holds too, so that donation deletes none of it.

    Args:
      trainers: Upstream's trainers, before they train.
      others: Models whose arrays must outlive the training.

    Returns:
      The number of arrays that were copied.
    """
    held = {id(leaf) for other in others for leaf in jax.tree.leaves(nnx.state(other))}
    copied = 0
    for trainer in trainers:
        frozen = nnx.state(trainer.model, nnx.Not(trainer.optimizer.wrt))
        held |= {id(leaf) for leaf in jax.tree.leaves(frozen)}
    for trainer in trainers:
        trained = nnx.state(trainer.model, trainer.optimizer.wrt)
        for variable in _variables((trained, nnx.state(trainer.optimizer))):
            array = variable.get_raw_value()
            if id(array) in held and isinstance(array, jax.Array):
                array = array.copy()
                variable.set_raw_value(array)
                copied += 1
            held.add(id(array))
    return copied


def scores(model: nnx.Module, prompts: jax.Array, completions: jax.Array, *ids: int) -> jax.Array:
    """Compute upstream's scores [B, P + T] of a model that is read and not returned.

    Args:
      model: The critic.
      prompts: int32 [B, P].
      completions: int32 [B, T].
      *ids: Ids of the pad and of the end of a sequence.

    Returns:
      What `tunix.rl.common.compute_score` returns.
    """
    graph, state = nnx.split(model)
    return score_program.jitted_fn(graph, state, prompts, completions, *ids)


class _ScoreProgram:
    """Holds the compiled function, so that it can be looked at where it is called."""

    def __init__(self) -> None:
        # Under the decorator of `nnx.jit`, which would return the model's state.
        compute: Callable[..., jax.Array] = inspect.unwrap(common.compute_score)

        def score(graph: Any, state: Any, prompts: Any, completions: Any, *ids: int) -> jax.Array:
            return compute(nnx.merge(graph, state), prompts, completions, *ids)

        self.jitted_fn: Any = jax.jit(score, static_argnums=(4, 5))


score_program = _ScoreProgram()

get_values = rebind.rebind(
    inference_worker.InferenceWorker.get_values,
    common=rebind.Overlay(common, compute_score=scores),
)


def _variables(tree: Any) -> list[nnx.Variable]:
    return jax.tree.leaves(tree, is_leaf=lambda each: isinstance(each, nnx.Variable))


def _named_sharding(array: Any) -> jax.sharding.NamedSharding | None:
    sharding = getattr(array, "sharding", None)
    return sharding if isinstance(sharding, jax.sharding.NamedSharding) else None


def _check_unchanged(before: Sequence[Any], after: Any) -> None:
    for value, (path, now) in zip(
        before, jax.tree_util.tree_flatten_with_path(after)[0], strict=True
    ):
        if value is not now:
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"the train step changed {name}, which it does not train: its change would be lost"
            )
