"""What lives on the devices besides a program's own memory, by name."""

import dataclasses
from typing import Any

import jax

from harness.upstream.instrument import programs
from harness.upstream.instrument import resident as resident_lib


def describe(learner: Any, sequences: int, mini_batch: int) -> dict[str, Any]:
    """List what training holds, from the abstract state.

    Args:
      learner: From `programs.abstract_learner`, or one that runs.
      sequences: Sequences sampled at once.
      mini_batch: Sequences of a mini-batch, whose examples are held for its
        epochs.

    Returns:
      Plain JSON values: `resident`, a list of `name`, `arrays`, `bytes` on one
      device and `pinned`; what lives in the rollout only has `phase`.
    """
    found = [dataclasses.asdict(each) for each in resident_lib.resident(learner)]
    example = jax.tree.leaves(programs.abstract_example(learner, mini_batch))
    size = sum(resident_lib.bytes_on_a_device(leaf) for leaf in example)
    found.append({"name": "cached batches", "arrays": len(example), "bytes": size, "pinned": False})
    state = programs.state_bytes(learner, sequences)
    for name, part in (("key-value cache", "cache"), ("sampler's tokens", "rest")):
        found.append(
            {"name": name, "arrays": 0, "bytes": state[part], "pinned": False, "phase": "rollout"}
        )
    return {"resident": found}
