"""The sampler cuts the completion before the stop token that it drew.

Expected: a policy that writes 4, 5, 1 (1 ends the sequence) gives those three tokens.
Got: 4, 5. No trainer sees the decision to stop, and the reward of the sequence
lands on the token before it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tunix.generate import sampler as sampler_lib
from tunix.generate import tokenizer_adapter
from tunix.rl.rollout import vanilla_rollout

from harness.upstream import compat, rebind
from harness.upstream.engine import points
from harness.upstream.fixes._prelude import toy_sampler
from harness.upstream.fixes._probing import END, PAD, WORD, rollout_config, sampler_that_wrote
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a completion lacks the stop token that was sampled."""
    sampler = sampler_that_wrote([WORD, WORD, END, PAD], [])
    rollout = object.__new__(vanilla_rollout.VanillaRollout)
    rollout._sampler = sampler
    output = rollout.generate(["ab"], rollout_config())
    return END not in np.asarray(output.tokens[0]).tolist()


ISSUE = KnownIssue(
    id="end-token-dropped",
    title="The stop token is cut from the completion before training.",
    where="tunix/generate/sampler.py:945",
    effect=(
        "The choice to stop has no log-probability, value or gradient, and its reward "
        "lands on the token before it: nothing tells a policy that it stops too early."
    ),
    fix="The rollout keeps the stop token that was drawn; the text has none, as before.",
    probe=probe,
    shown_by=("completions-end", "greedy"),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    successor = jnp.array([0, 0, 3, 4, 5, 1, 0, 0])  # 3 -> 4 -> 5 -> 1
    sampler = toy_sampler(jax.nn.one_hot(successor, 8))
    tokens = sampler(["a"], max_generation_steps=6).tokens[0].tolist()
    print("expected: [4, 5, 1]")
    print(f"got: {tokens}")
    return tokens == [4, 5]


class Fix(points.Fix):
    """Keep the stop token that was drawn, or the choice to stop is never trained on."""

    def sampler_call(self, call: Callable[..., Any]) -> Callable[..., Any]:
        names = {compat.FIND_END: _index_after_first_end}
        return rebind.rebind(call, utils=rebind.Overlay(sampler_lib.utils, **names))

    def sampler(self, sampler: Any) -> None:
        sampler.tokenizer = _TextWithoutEnd(sampler)


def _index_after_first_end(ids: np.ndarray, eos_id: Any) -> int:
    """Return the length of a completion, its stop token included."""
    return min(int(getattr(sampler_lib.utils, compat.FIND_END)(ids, eos_id)) + 1, len(ids))


class _TextWithoutEnd(tokenizer_adapter.TokenizerAdapter):
    """Decodes a completion without the stop token that closes it: the text stays as it was."""

    def __init__(self, sampler: Any):
        super().__init__(sampler.tokenizer.tokenizer)
        self._sampler = sampler

    def decode(self, ids: Any, **kwargs: Any) -> str:
        ids = list(ids)
        if ids and ids[-1] in self._sampler.ends:
            ids = ids[:-1]
        return super().decode(ids, **kwargs)
