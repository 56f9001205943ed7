"""A policy differs from itself: reference log-probs use another temperature.

Expected: with a reference equal to the actor, the KL penalty is 0.
Got: `get_ref_per_token_logps` uses the rollout's temperature and
`get_old_per_token_logps` uses 1, so at temperature 0.7 the penalty is not 0.
"""

import jax
import jax.numpy as jnp
from tunix.rl import common

from harness.upstream.fixes._prelude import Table, toy_cluster, toy_rollout_config
from harness.upstream.fixes._probing import log_prob_arguments
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether the reference receives the temperature, and the policy does not."""
    policy, reference = log_prob_arguments(reference=False), log_prob_arguments(reference=True)
    return "temperature" in reference and "temperature" not in policy


ISSUE = KnownIssue(
    id="reference-temperature",
    title="Reference log-probs are taken at the rollout's temperature, the policy's at 1.",
    where="tunix/rl/rl_cluster.py:1005",
    effect=(
        "Two equal policies have a divergence (0.07 to 0.12 nats a token at 0.7), which beta "
        "charges as a penalty on being likely at all."
    ),
    fix="As log-prob-temperature: both are then at the rollout's temperature.",
    probe=probe,
    shown_by=("divergence",),
    releases=("0.1.7",),
    fixed_with="log-prob-temperature",
)


def penalty(temperature: float) -> float:
    """Return the mean KL of a policy to its copy."""
    logits = jax.random.normal(jax.random.key(0), (8, 8))
    cluster = toy_cluster(
        actor=Table(logits),
        reference=Table(logits),
        rollout=toy_rollout_config(temperature=temperature),
    )
    prompts, completions = jnp.array([[2, 3], [2, 4]]), jnp.array([[4, 5, 6], [7, 5, 3]])
    old = cluster.get_old_per_token_logps(prompts, completions)
    reference = cluster.get_ref_per_token_logps(prompts, completions, pad_id=0, eos_id=1)
    return float(common.compute_kl_divergence(old, reference).mean())


def reproduce() -> bool:
    """Return whether the issue shows."""
    control, kl = penalty(1.0), penalty(0.7)
    print("expected: KL of two equal policies: 0 at temperatures 1 and 0.7")
    print(f"got: {control:.6f} at 1 and {kl:.6f} at 0.7")
    return control < 1e-6 < 1e-3 < kl
