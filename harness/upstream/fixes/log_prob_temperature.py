"""Rollouts are sampled at one temperature and scored at another.

Expected: at temperature 0.7, the log-probs that the learner takes for those of the
sampling policy equal the sampler's own.
Got: `VanillaRollout.get_per_token_logps` and `ppo_policy_loss_fn` score at
temperature 1, whatever the rollout's temperature.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harness.upstream.engine import points
from harness.upstream.engine import temperature as temperature_lib
from harness.upstream.fixes._prelude import toy_rollout, toy_rollout_config
from harness.upstream.fixes._probing import log_prob_arguments
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether old log-probs are asked for without the rollout's temperature."""
    return "temperature" not in log_prob_arguments(reference=False)


ISSUE = KnownIssue(
    id="log-prob-temperature",
    title="Rollouts are drawn at a temperature, their log-probs are taken at 1.",
    where="tunix/rl/rollout/vanilla_rollout.py:82",
    effect=(
        "The ratio is of two policies neither of which drew the tokens, so the estimate of "
        "the gradient is biased at every temperature but 1."
    ),
    fix="Old and current log-probs and the entropy are taken at the rollout's temperature.",
    probe=probe,
    shown_by=(
        "padding-is-invisible",
        "old-log-probs",
        "pad-is-no-token",
        "policy-loss",
        "policy-loss-plain",
        "degenerate-batches",
        "losses",
        "slopes",
    ),
)


def difference(temperature: float) -> float:
    """Return the largest gap between sampled and recomputed log-probs."""
    logits = jax.random.normal(jax.random.key(0), (8, 8))
    rollout = toy_rollout(logits.at[:, :2].set(-1e9))  # neither pad nor stop tokens
    config = toy_rollout_config(
        max_tokens_to_generate=16, temperature=temperature, return_logprobs=True
    )
    output = rollout.generate(["a", "a"], config)
    recomputed = rollout.get_per_token_logps(
        jnp.array(output.left_padded_prompt_tokens), jnp.array(output.tokens)
    )
    return float(np.abs(np.array(output.logprobs) - recomputed).max())


def reproduce() -> bool:
    """Return whether the issue shows."""
    control, gap = difference(1.0), difference(0.7)
    print("expected: sampled and recomputed log-probs agree at temperatures 1 and 0.7")
    print(f"got: they differ by up to {control:.6f} at 1 and {gap:.6f} at 0.7")
    return control < 1e-4 < 1e-2 < gap


class Fix(points.Fix):
    """Take old and current log-probs, and the entropy, at the rollout's temperature."""

    def log_probs(self, compute: Callable[..., Any], temperature: float) -> Callable[..., Any]:
        return temperature_lib.at_temperature(compute, temperature)

    def policy_loss(self, loss_fn: points.LossFn, temperature: float) -> points.LossFn:
        return temperature_lib.at_temperature(loss_fn, temperature)
