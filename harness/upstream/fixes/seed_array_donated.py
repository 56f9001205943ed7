"""A seed of the documented type works once.

Expected: `RolloutConfig(seed=jax.random.PRNGKey(1))`, a `jax.Array` as its annotation
says, serves for any number of generations.
Got: the second call fails, since the sampler donates its state and the seed with it.
"""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.rl.rollout import vanilla_rollout

from harness.upstream.engine import points
from harness.upstream.fixes._prelude import toy_rollout, toy_rollout_config
from harness.upstream.fixes._probing import (
    END,
    PAD,
    WORD,
    Tokenizer,
    rollout_config,
    sampler_that_wrote,
)
from harness.upstream.fixes.known_issue import KnownIssue


class _Silent(nnx.Module):
    """A model that is never run."""

    def __call__(self) -> None:
        return


class _IdleSampler(sampler_lib.Sampler):
    """A sampler whose programs do nothing, but take their arguments as Tunix's do."""

    def _decode_fn(self, params: Any, sampling_state: Any) -> Any:
        del params
        return sampling_state


def probe() -> bool:
    """Return whether the configured key itself is given to a program that donates it."""
    idle = _IdleSampler(_Silent(), Tokenizer(), sampler_lib.CacheConfig(4, 1, 1, 2))
    taken = idle._compiled_decode_fn.lower({}, jnp.zeros(1)).args_info
    given: list[Any] = []
    rollout = object.__new__(vanilla_rollout.VanillaRollout)
    sampler = sampler_that_wrote([WORD, END, PAD, PAD], [])
    start = cast(Any, sampler).init_sample_state

    def starting(*args: Any, seed: Any, **kwargs: Any) -> Any:
        given.append(seed)
        return start(*args, seed=seed, **kwargs)

    cast(Any, sampler).init_sample_state = starting
    rollout._sampler = sampler
    config = rollout_config()
    key: Any = jax.random.PRNGKey(3)
    config.seed = key
    rollout.generate(["ab"], config)
    return given[0] is key and any(each.donated for each in jax.tree.leaves(taken))


ISSUE = KnownIssue(
    id="seed-array-donated",
    title="A seed given as a jax.Array fails at the second generation.",
    where="tunix/generate/sampler.py:835",
    effect="The documented type of the seed ends the run at its second batch.",
    fix="The sampler is given a copy to donate.",
    probe=probe,
    shown_by=("seeds-are-kept",),
    releases=("0.1.7",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    rollout = toy_rollout(jnp.zeros((8, 8)))
    config = toy_rollout_config(max_tokens_to_generate=4, seed=jax.random.PRNGKey(1))
    print("expected: two generations")
    rollout.generate(["a"], config)
    try:
        rollout.generate(["a"], config)
    except (RuntimeError, ValueError) as error:
        print(f"got: the second one fails: {str(error).splitlines()[0]}")
        return "deleted" in str(error) or "donated" in str(error)
    print("got: two generations")
    return False


class Fix(points.Fix):
    """Give the sampler a copy of the seed to donate."""

    def generation(self, worker: Any, config: Any) -> Any:
        if not isinstance(config.seed, jax.Array) or worker.made_for_this_call(config.seed):
            return config
        return dataclasses.replace(config, seed=jnp.array(config.seed))
