"""A learner made ready to be timed, piece by piece."""

import contextlib
import dataclasses
import functools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from harness import data, evaluation, models, programs, rewards, upstream
from harness import recipe as recipe_lib
from harness import tokenizer as tokenizer_lib
from harness.errors import HarnessError
from harness.measure import programs as programs_lib
from harness.upstream.instrument import step_programs

PROGRAMS = step_programs.NAMES
WHOLE = ("rollout", "evaluate", "global_step")
NAMES = (*PROGRAMS, *WHOLE)

# Few problems, no warm start: weights and words do not change what is computed.
# The limit is far, so that a learner can be stepped as often as one likes; it
# is a number, since learning rates and so the compiled step follow from it.
_FEW: Mapping[str, Any] = {
    "data": {
        "source": "arithmetic",
        "num_batches": 4,
        "num_test_batches": 1,
        "num_epochs": 1,
        "train_fraction": 1.0,
        "arithmetic": {"train_problems": 1024, "test_problems": 64},
    },
    "model": {"weights": "random", "tokenizer": "builtin"},
    "optimizers": {"max_steps": 100_000},
    "warm_start": {"max_steps": 0},
}


def recipe_for(
    preset: str = "tiny",
    *,
    assignments: tuple[str, ...] = (),
    dtype: str | None = None,
    micro_batch: int | None = None,
    alone: str | None = None,
) -> recipe_lib.Recipe:
    """Return a preset's recipe with its shapes, on random weights and few problems.

    Args:
      preset: Name of the preset.
      assignments: Changes, `a.b=value`.
      dtype: `float32` or `bfloat16`; the preset's if None.
      micro_batch: Sequences handed to each program at once; the preset's own if
        None.
      alone: The one program that is to have the micro-batch. All others then
        get the least there is, so that the peak of a process is this one's.

    Returns:
      The recipe.

    Raises:
      HarnessError: A name or value is not allowed.
    """
    overrides: dict[str, Any] = {name: dict(group) for name, group in _FEW.items()}
    if dtype is not None:
        overrides["model"]["dtype"] = dtype
    plain = recipe_lib.load(preset, assignments=assignments, overrides=overrides)
    if micro_batch is None and alone is None:
        return plain
    sizes = {}
    for field, used_by in programs.SIZED_BY.items():
        own = getattr(plain.batching, field) if micro_batch is None else micro_batch
        sizes[field] = own if alone is None or alone in used_by else plain.sharding.fsdp
    overrides["batching"] = sizes
    return recipe_lib.load(preset, assignments=assignments, overrides=overrides)


def micro_batches(recipe: recipe_lib.Recipe) -> tuple[int, ...]:
    """Return the micro-batch sizes to look at: the recipe's own and a quarter of the largest."""
    batching = recipe.batching
    own = {
        batching.train_micro_batch_size,
        batching.rollout_micro_batch_size,
        batching.compute_logps_micro_batch_size,
    }
    quarter = max(own) // 4
    if quarter and batching.mini_batch_size % quarter == 0:
        own.add(quarter)
    return tuple(sorted(size for size in own if batching.mini_batch_size % size == 0))


@dataclasses.dataclass(frozen=True)
class Call:
    """Something to time.

    Attributes:
      name: One of `NAMES`.
      tokens: Positions that a call computes, padding included, or for
        `evaluate` and `rollout` the tokens that it may generate.
      prepare: Makes what a call uses up; never timed.
      run: Does the work on what `prepare` gave, and waits for all of it.
    """

    name: str
    tokens: int
    prepare: Callable[[], Any]
    run: Callable[[Any], Any]


class Steps:
    """A learner that trains one global step at a time.

    A learner asks for its next batch when the step before is over, so that the
    time from a batch to the next request is the time of a step.
    """

    def __init__(self, learner: upstream.Learner, batches: list[Any]):
        """Wait for the first step.

        Args:
          learner: It trains from now on, and is released by `close`.
          batches: They are used again and again.
        """
        self._learner, self._batches = learner, batches
        self._orders: queue.Queue[bool] = queue.Queue()
        self._asked: queue.Queue[BaseException | None] = queue.Queue()
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()
        self._await()

    def step(self) -> None:
        """Do one global step.

        Raises:
          HarnessError: The learner stopped; the error that stopped it is its cause.
        """
        self._orders.put(True)
        self._await()

    def close(self) -> None:
        """Let the learner end, and release what it holds."""
        self._orders.put(False)
        self._thread.join()
        upstream.release(self._learner)

    def _await(self) -> None:
        error = self._asked.get()
        if error is not None:
            raise HarnessError(f"the learner stopped ({error!r}): see the lines above") from error

    def _train(self) -> None:
        try:
            self._learner.train(self._source())
        except BaseException as error:
            self._asked.put(error)

    def _source(self) -> Iterator[Any]:
        count = 0
        while True:
            self._asked.put(None)
            if not self._orders.get():
                return
            yield self._batches[count % len(self._batches)]
            count += 1


class Context(contextlib.AbstractContextManager["Context"]):
    """One learner at one set of shapes.

    Attributes:
      recipe: What was built.
      learner: It has been stepped, its programs are compiled.
      programs: What its step ran, by name.
    """

    def __init__(
        self,
        recipe: recipe_lib.Recipe,
        *,
        mode: upstream.Mode = "patched",
        updates: bool = True,
    ):
        """Build everything on the device and compile it.

        Args:
          recipe: Shapes and sizes.
          mode: `patched`, or `stock` for Tunix exactly as installed.
          updates: Whether the trainers' steps are wanted too.
        """
        self.recipe = recipe
        fixes = upstream.choose_fixes(mode)
        self._mesh = models.make_mesh(recipe.sharding)
        self._tokenizer = tokenizer_lib.load(recipe)
        self._dataset = data.load(recipe, self._tokenizer)
        policy = models.make_policy(recipe, self._mesh)
        self._actor = models.build_actor(recipe, policy, self._mesh)
        cluster = upstream.make_cluster(
            recipe,
            mesh=self._mesh,
            actor=self._actor,
            critic=models.build_critic(recipe, policy, self._mesh),
            reference=policy if recipe.ppo.beta > 0 else None,
            tokenizer=self._tokenizer,
            fixes=fixes,
        )
        self.learner = upstream.make_learner(
            recipe, cluster=cluster, reward_fn=rewards.build(recipe.reward), fixes=fixes
        )
        step_programs.never_end(self.learner)
        self._batches: list[Any] = [self._dataset.train[i] for i in range(len(self._dataset.train))]
        self.programs = step_programs.programs(self.learner, self._batches[0], updates=updates)
        self._steps: Steps | None = None

    def __exit__(self, *_: object) -> None:
        """End its threads, and release what it holds."""
        if self._steps is not None:
            self._steps.close()
        else:
            upstream.release(self.learner)

    @property
    def steps(self) -> Steps:
        """The learner's training, a global step at a time; it begins when first asked for."""
        if self._steps is None:
            self._steps = Steps(self.learner, self._batches)
        return self._steps

    @functools.cached_property
    def generator(self) -> upstream.Generator:
        """Evaluation's sampler."""
        return upstream.Generator(self.recipe, self._actor, self._tokenizer, self._mesh)

    def call(self, name: str) -> Call:
        """Return something to time.

        Args:
          name: One of `NAMES`.

        Returns:
          The call.

        Raises:
          HarnessError: There is nothing of that name here.
        """
        tokens = self.tokens(name)
        if name in self.programs:
            program = self.programs[name]
            return Call(
                name, tokens, program.arguments, lambda given: program(*given[0], **given[1])
            )
        if name == "rollout":
            return Call(name, tokens, lambda: None, self._generate)
        if name == "evaluate":
            return Call(name, tokens, lambda: None, self._evaluate)
        if name == "global_step":
            return Call(name, tokens, lambda: None, lambda _: self.steps.step())
        raise HarnessError(f"there is no benchmark '{name}': use one of {', '.join(NAMES)}")

    def tokens(self, name: str) -> int:
        """Return the positions that one call computes, padding included."""
        batching, rollout = self.recipe.batching, self.recipe.rollout
        prompt, new = rollout.max_prompt_length, rollout.max_new_tokens
        return {
            "prefill": batching.rollout_micro_batch_size * prompt,
            "decode": batching.rollout_micro_batch_size * new,
            "logps": batching.compute_logps_micro_batch_size * (prompt + new),
            "values": batching.compute_logps_micro_batch_size * (prompt + new),
            "advantages": batching.mini_batch_size * new,
            "actor_step": batching.train_micro_batch_size * (prompt + new),
            "critic_step": batching.train_micro_batch_size * (prompt + new),
            "rollout": batching.rollout_batch_size * new,
            "evaluate": batching.rollout_batch_size * new,
            "global_step": batching.rollout_batch_size * (prompt + new),
        }[name]

    def figures(self, name: str) -> dict[str, Any]:
        """Return the compiler's figures of a program; see `harness.measure.programs`."""
        program = self.programs[name]
        found = programs_lib.figures(program.lowered, program.compiled).to_dict()
        return {**found, "compile_count": program.compile_count}

    def trips(self, name: str) -> int:
        """Return how often a program's loop runs, whose body the compiler counts once."""
        if name == "decode":  # the first token comes from the prefill
            return max(1, self.recipe.rollout.max_new_tokens - 1)
        return 1

    def _generate(self, _: None) -> None:
        step_programs.generate(self.learner, self._batches[0])

    def _evaluate(self, _: None) -> None:
        batch: Any = self._dataset.test[0]
        evaluation.evaluate(self.recipe, self.generator, [batch])


def size_name(recipe: recipe_lib.Recipe) -> str:
    """Return the part of a benchmark's name of its sizes, such as `float32-64`."""
    return f"{recipe.model.dtype}-{recipe.batching.train_micro_batch_size}"


def device_kind() -> str:
    """Return the kind of the first device."""
    return jax.devices()[0].device_kind
