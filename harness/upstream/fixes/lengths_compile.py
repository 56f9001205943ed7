"""Each new length of a completion compiles a program.

Expected: generations of one shape are compiled once, however long what they write.
Got: one more program for each length, since `token_buffer[start:end]` slices an
array on the device, and a slice of another size is another program.
"""

from typing import Any

import jax
import jax.numpy as jnp

from harness.upstream.fixes._prelude import toy_rollout, toy_rollout_config
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="lengths-compile",
    title="Each new length of a completion compiles a program.",
    where="tunix/generate/sampler.py:824",
    effect="The first batches are held up by as many programs as there are lengths.",
    releases=("0.1.6",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    compiled: list[str] = []

    def record(event: str, duration_secs: float, **kwargs: Any) -> None:
        del duration_secs, kwargs
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(record)
    # One token in four ends a completion.
    rollout = toy_rollout(jnp.zeros((5, 5)).at[:, 0].set(-1e9))
    lengths: set[int] = set()
    of_new = of_old = 0
    for seed in range(12):
        before = len(compiled)
        config = toy_rollout_config(
            max_tokens_to_generate=16, temperature=1.0, seed=jax.random.PRNGKey(seed)
        )
        length = len(rollout.generate(["a"], config).tokens[0])
        if seed:  # the first generation compiles what all need
            if length in lengths:
                of_old += len(compiled) - before
            else:
                of_new += len(compiled) - before
        lengths.add(length)
    print("expected: 0 programs compiled after the first generation")
    print(f"got: {of_new} for {len(lengths) - 1} new lengths, {of_old} for lengths met before")
    return of_new >= len(lengths) - 1
