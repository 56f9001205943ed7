"""PPO samples its evaluation with the training configuration.

Expected: with rollout configurations for TRAIN (4 tokens) and EVAL (2 tokens), an
evaluation batch has completions of 2 tokens.
Got: 4 tokens. `PPOLearner` calls `rl_cluster.generate` without its `mode`.
"""

from typing import Any

from tunix.rl import rl_cluster

from harness.upstream.engine import points
from harness.upstream.fixes._prelude import toy_learner, toy_rollout_config
from harness.upstream.fixes._probing import one_group
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a generation for evaluation does not receive what it is for."""
    _, asked = one_group(rl_cluster.Mode.EVAL)
    return asked.get("mode") is not rl_cluster.Mode.EVAL


ISSUE = KnownIssue(
    id="eval-rollout-config-unused",
    title="A rollout configuration for evaluation is never used.",
    where="tunix/rl/ppo/ppo_learner.py:262",
    effect="Validation samples as training does; its figures are of another policy.",
    fix="Generation receives what it is for.",
    probe=probe,
    shown_by=("eval-config",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    lengths = {rl_cluster.Mode.TRAIN: 4, rl_cluster.Mode.EVAL: 2}
    learner = toy_learner(
        rollout={
            mode: toy_rollout_config(max_tokens_to_generate=length)
            for mode, length in lengths.items()
        }
    )
    got = [
        learner._generate_and_compute_advantage({"prompts": ["a"]}, mode).completion_ids.shape[1]
        for mode in lengths
    ]
    print(f"expected: {list(lengths.values())} tokens in a training and an evaluation batch")
    print(f"got: {got}")
    return got == [4, 4]


class Fix(points.Fix):
    """Name the mode of each generation."""

    def generation_arguments(self, cluster: Any, arguments: dict[str, Any]) -> None:
        arguments.setdefault("mode", cluster.generation_mode)
