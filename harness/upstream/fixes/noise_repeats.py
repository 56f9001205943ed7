"""Without a configured seed, every generation draws the same noise.

Expected: two calls with `RolloutConfig(seed=None)` sample different completions.
Got: the same ones. The sampler turns None into `PRNGKey(0)` at every call, so
every batch of a PPO run is sampled with the same noise.
"""

import dataclasses
from typing import Any

import numpy as np
from tunix.rl.rollout import vanilla_rollout

from harness.upstream.engine import points
from harness.upstream.fixes._prelude import toy_rollout, toy_rollout_config, uniform_logits
from harness.upstream.fixes._probing import END, PAD, WORD, rollout_config, sampler_that_wrote
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether two generations without a configured seed draw the same noise."""
    seeds: list[Any] = []
    rollout = object.__new__(vanilla_rollout.VanillaRollout)
    rollout._sampler = sampler_that_wrote([WORD, END, PAD, PAD], seeds)
    rollout.generate(["ab"], rollout_config())
    rollout.generate(["ab"], rollout_config())
    return bool(np.array_equal(seeds[0], seeds[1]))


ISSUE = KnownIssue(
    id="noise-repeats",
    title="Every generation draws the same noise.",
    where="tunix/generate/sampler.py:836",
    effect=(
        "Without a seed in the rollout configuration each call uses PRNGKey(0), so row i "
        "of every batch sees one fixed noise sequence and exploration is correlated."
    ),
    fix="Each generation's key is the run's seed folded with the number of the call.",
    probe=probe,
    shown_by=("noise-is-fresh",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    rollout = toy_rollout(uniform_logits())
    config = toy_rollout_config(max_tokens_to_generate=32, temperature=1.0)
    first, second = (np.stack(rollout.generate(["a", "a"], config).tokens) for _ in range(2))
    share = np.mean(first == second)
    print(f"expected: about {1 / 6:.2f} of the tokens of two generations agree")
    print(f"got: {share:.2f} agree")
    return bool(share == 1.0)


class Fix(points.Fix):
    """Give each generation noise of its own."""

    def generation(self, worker: Any, config: Any) -> Any:
        if config.seed is not None:
            return config
        return dataclasses.replace(config, seed=worker.noise_key())
