"""An array is part of the key of the sampler's compiled programs.

Expected: what tells two of the sampler's programs apart is plain values, so that the states of two
generations compare alike wherever they are compared.
Got: `num_input_tokens`, a static field of the state, is a `jax.Array`. Comparing it while another
function is traced, as a cache of JAX may at any time, fails in that trace.
"""

import dataclasses
import types
from typing import Any, cast

import jax
import jax.numpy as jnp
from tunix.generate import sampler as sampler_lib

from harness.upstream.engine import points
from harness.upstream.fixes._prelude import toy_sampler, uniform_logits
from harness.upstream.fixes._probing import PAD
from harness.upstream.fixes.known_issue import KnownIssue


def first_state(sampler: Any) -> Any:
    """Return the state with which a generation begins."""
    return sampler_lib.Sampler.init_sample_state(
        sampler,
        jnp.full((1, 2), 3),
        total_sampling_steps=4,
        include_logits=False,
        forbidden_token_ids=None,
        temperature=1.0,
        top_p=1.0,
        top_k=None,
        seed=jax.random.PRNGKey(0),
        beam_size=None,
    )


def probe() -> bool:
    """Return whether the number of prompt tokens is an array."""
    sampler = types.SimpleNamespace(
        tokenizer=types.SimpleNamespace(pad_id=lambda: PAD),
        transformer=types.SimpleNamespace(init_cache=lambda *args: {}),
        cache_config=sampler_lib.CacheConfig(4, 1, 1, 2),
        dtype=jnp.float32,
    )
    return isinstance(first_state(cast(Any, sampler)).num_input_tokens, jax.Array)


ISSUE = KnownIssue(
    id="sampler-state-static-array",
    title="An array is part of the key of the sampler's compiled programs.",
    where="tunix/generate/sampler.py:455",
    effect=(
        "Now and then a run fails while something else is compiled, with a "
        "TracerBoolConversionError or an error about the metadata fields of a pytree."
    ),
    fix="The number is a number.",
    probe=probe,
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    sampler = toy_sampler(uniform_logits())
    one, two = (jax.tree.structure(first_state(sampler)) for _ in range(2))
    print(f"expected: two states compare alike, as they do outside of a trace: {one == two}")

    def traced(x: jax.Array) -> jax.Array:
        return x if one == two else -x

    try:
        jax.jit(traced)(1.0)
    except ValueError as error:
        print(f"got: in a trace, {str(error).splitlines()[0]}")
        return True
    print("got: they do in a trace too")
    return False


class Fix(points.Fix):
    """Make the number of prompt tokens a number."""

    def sampling_state(self, state: Any, ids: jax.Array) -> Any:
        return dataclasses.replace(state, num_input_tokens=int(ids.shape[1]))
