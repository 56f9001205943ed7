"""The programs that a global step runs, taken from a real one, to be timed one by one.

Nothing is rebuilt: while a learner does one step, whatever it hands to XLA is
noted with the very arguments it was given, so that what is measured is what
training runs, in whatever release of Tunix is installed.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.core
import numpy as np
from flax import nnx
from tunix.rl import common

from harness.measure import compiles
from harness.upstream import hooks
from harness.upstream.engine import calls, donation, temperature
from harness.upstream.engine import learner as learner_lib

NAMES = ("prefill", "decode", "logps", "values", "advantages", "actor_step", "critic_step")

# No token has it, so that a decode that waits for it runs to its limit.
_NO_TOKEN = -1


@dataclasses.dataclass(frozen=True)
class Program:
    """One jitted function of upstream's, with the arguments of a real step.

    Attributes:
      name: One of `NAMES`.
      lowered: The program before XLA has compiled it.
      leaves: Leaves of its arguments; donated arrays as copies on the host, weights of the models
        as their variables, since a train step deletes the arrays.
      shardings: Sharding of each donated leaf, none for the others.
      compiled: The program as XLA compiled it.
      compile_seconds: Seconds in XLA.
      compile_count: Programs that XLA, or its persistent cache, was asked for.
    """

    name: str
    lowered: Any
    leaves: tuple[Any, ...]
    shardings: tuple[Any, ...]
    compiled: Any
    compile_seconds: float
    compile_count: int

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Make arguments, donated ones anew, and waits until they are on the device."""
        leaves = [
            _current(leaf) if sharding is None else jax.device_put(leaf, sharding)
            for leaf, sharding in zip(self.leaves, self.shardings, strict=True)
        ]
        jax.block_until_ready([leaf for leaf in leaves if isinstance(leaf, jax.Array)])
        return jax.tree.unflatten(self.lowered.in_tree, leaves)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it on arguments of `arguments`, and waits for every output."""
        return jax.block_until_ready(self.compiled(*args, **kwargs))


def _current(leaf: Any) -> Any:
    return leaf.get_raw_value() if isinstance(leaf, nnx.Variable) else leaf


class _Recorder:
    """Stands before a jitted function, and records its first call that is no trace."""

    def __init__(
        self,
        name: str,
        function: Any,
        found: dict[str, Program],
        variables: Mapping[int, nnx.Variable] | None = None,
    ):
        self._name, self._function, self._found = name, function, found
        self._variables = variables or {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        if self._name not in self._found and not traced:
            noted = _note(self._name, self._function, args, kwargs)
            leaves = tuple(self._variables.get(id(leaf), leaf) for leaf in noted.leaves)
            self._found[self._name] = dataclasses.replace(noted, leaves=leaves)
        return self._function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


def _note(name: str, function: Any, args: Any, kwargs: Any) -> Program:
    lowered = function.lower(*args, **kwargs)
    # What is static is no argument of the program, and has no info.
    given = dict(_paths((args, kwargs)))
    arguments = [(given[path], info.donated) for path, info in _paths(lowered.args_info)]
    with compiles.Listener() as listener:
        compiled = lowered.compile()
    statistics = listener.statistics
    return Program(
        name=name,
        lowered=lowered,
        leaves=tuple(np.array(leaf) if donated else leaf for leaf, donated in arguments),
        # A donated number becomes an array at each call anyway.
        shardings=tuple(
            getattr(leaf, "sharding", None) if donated else None for leaf, donated in arguments
        ),
        compiled=compiled,
        compile_seconds=statistics.compile_seconds,
        compile_count=statistics.compiles + statistics.cache_hits,
    )


def _paths(tree: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield jax.tree_util.keystr(path), leaf


def programs(
    learner: learner_lib.Learner, batch: Mapping[str, np.ndarray], *, updates: bool = True
) -> dict[str, Program]:
    """Do a step of a learner and gives the programs that it ran, compiled.

    Args:
      learner: The learner; it takes a gradient of actor and one of critic. Each
        program is of the first micro-batch that the step handed to it.
      batch: Columns of one batch, `prompts` among them.
      updates: Whether to take the gradients; without them, the two steps of the
        trainers are not among the programs.

    Returns:
      Programs by name, in the order of `NAMES`.
    """
    found: dict[str, Program] = {}
    cluster: Any = learner.rl_cluster
    with _recording(cluster, found):
        example = calls.generate_example(learner, batch)
    if not updates:
        return {name: found[name] for name in NAMES if name in found}
    size = cluster.cluster_config.training_config.train_micro_batch_size
    if size is not None:
        example = jax.tree.map(lambda leaf: leaf[:size], example)
    with _recording_trainers(cluster, found):
        calls.train_on(learner, example)
    return {name: found[name] for name in NAMES}


def generate(learner: learner_lib.Learner, batch: Mapping[str, np.ndarray]) -> None:
    """Sample a batch of completions as a step does, texts and all; it waits for them."""
    cluster: Any = learner.rl_cluster
    size = cluster.cluster_config.training_config.rollout_micro_batch_size
    cluster.generate(list(batch["prompts"]), micro_batch_size=size)


def never_end(learner: learner_lib.Learner) -> None:
    """Let every generation of a learner run to its limit, whatever the policy says.

    Each round then does the same work, the most that training can ask for.

    Args:
      learner: Fresh, so that nothing was compiled for other stop tokens.
    """
    cluster: Any = learner.rl_cluster
    config = cluster.cluster_config
    longest = dataclasses.replace(config.rollout_config, eos_tokens=[_NO_TOKEN])
    cluster.cluster_config = dataclasses.replace(config, rollout_config=longest)
    _settle(cluster)


class _SettledError(Exception):
    """Ends a call of the sampler before it samples."""


def _settle(cluster: Any) -> None:
    """Let a sampler make its functions for the stop tokens, before they are listened to.

    A patched one makes them anew when it is called with other stop tokens.
    """

    def stop(*args: Any, **kwargs: Any) -> Any:
        raise _SettledError

    with (
        hooks.SAMPLING_STATE.wrapped(cluster, lambda begin: stop),
        contextlib.suppress(_SettledError),
    ):
        hooks.sampler_of(cluster)(
            ["1"], max_generation_steps=1, max_prompt_length=1, eos_tokens=[_NO_TOKEN]
        )


@contextlib.contextmanager
def _recording(cluster: Any, found: dict[str, Program]) -> Iterator[None]:
    variables = _variables(cluster)

    def noting(name: str) -> hooks.Wrapper:
        return lambda program: _Recorder(name, program, found, variables)

    def looking_up(look_up: Any) -> Any:
        def get(kind: str, name: str) -> Any:
            function = look_up(kind, name)
            return function if kind != "advantage_estimator" else noting("advantages")(function)

        return get

    with contextlib.ExitStack() as stack:
        for score in (common.compute_score, donation.score_program):
            stack.enter_context(hooks.JITTED.wrapped(score, noting("values")))
        stack.enter_context(hooks.PREFILL.wrapped(cluster, noting("prefill")))
        stack.enter_context(hooks.DECODE.wrapped(cluster, noting("decode")))
        stack.enter_context(temperature.replaced(noting("logps")))
        stack.enter_context(hooks.ALGORITHMS.wrapped(None, looking_up))
        yield


def _variables(cluster: Any) -> dict[int, nnx.Variable]:
    """Return the variables of the models that are trained, by the ids of their arrays."""
    models = (cluster.actor_trainer.model, cluster.critic_trainer.model)
    return {key: each for model in models for key, each in hooks.variables_of(model).items()}


@contextlib.contextmanager
def _recording_trainers(cluster: Any, found: dict[str, Program]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:

        def making(name: str) -> hooks.Wrapper:
            def wrapper(make: Any) -> Any:
                def made(*args: Any, **kwargs: Any) -> Any:
                    steps = make(*args, **kwargs)
                    # Where the trainer keeps it, under its cache of the modules' graphs.
                    holder = hooks.holder_of(steps[0])
                    if not isinstance(hooks.JITTED.get(holder), _Recorder):
                        variables = _variables(cluster)
                        stack.enter_context(
                            hooks.JITTED.wrapped(
                                holder, lambda jitted: _Recorder(name, jitted, found, variables)
                            )
                        )
                    return steps

                return made

            return wrapper

        for name, trainer in (
            ("actor_step", cluster.actor_trainer),
            ("critic_step", cluster.critic_trainer),
        ):
            stack.enter_context(hooks.STEPS.wrapped(trainer, making(name)))
        yield
