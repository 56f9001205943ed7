"""The critic's last metrics are sent to a closed backend.

Expected: a run of one step closes its metrics backend after the critic's loss.
Got: before it. Closing the actor's trainer closes the logger that it shares with the
critic's, which has yet to write its last step.
"""

import types
from typing import Any, cast

from tunix.rl import rl_cluster
from tunix.sft import peft_trainer

from harness.upstream.engine import points
from harness.upstream.fixes._prelude import logging_to, toy_batch, toy_learner
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether the critic writes metrics after the actor has closed their logger."""
    events: list[str] = []
    logger = types.SimpleNamespace(close=lambda: events.append("close"))

    def trainer(name: str) -> Any:
        made = types.SimpleNamespace(
            _write_train_metrics=lambda: events.append(name),
            _save_last_checkpoint=lambda: None,
            checkpoint_manager=types.SimpleNamespace(close=lambda: None),
            metrics_logger=logger,
            _pbar=None,
        )
        made.close = types.MethodType(peft_trainer.PeftTrainer.close, made)
        return made

    cluster = types.SimpleNamespace(
        _buffered_train_metrics=[],
        _buffered_eval_metrics=[],
        actor_trainer=trainer("actor"),
        critic_trainer=trainer("critic"),
    )
    rl_cluster.RLCluster.close(cast(Any, cluster))
    return events.index("close") < events.index("critic")


ISSUE = KnownIssue(
    id="critic-last-metric-after-close",
    title="The critic's last metrics go to a logger that is closed.",
    where="tunix/rl/rl_cluster.py:696",
    effect="The last step of the critic is missing in TensorBoard.",
    fix="They are written before the actor's trainer closes the logger.",
    probe=probe,
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    log: list[str] = []
    backend = types.SimpleNamespace(
        log_scalar=lambda name, value, **_: log.append(name), close=lambda: log.append("closed")
    )
    learner = toy_learner(training={"max_steps": 1, "metrics_logging_options": logging_to(backend)})
    learner.train([toy_batch("ab")])
    late = [name for name in log[log.index("closed") :] if name != "closed"]
    print("expected: written after the close: []")
    print(f"got: {late}")
    return "critic/train/loss" in late


class Fix(points.Fix):
    """Write the critic's last metrics before the actor's trainer closes the logger of both."""

    def close(self, cluster: Any) -> None:
        cluster.critic_trainer._write_train_metrics()
