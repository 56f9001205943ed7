"""A resume takes an actor and a critic of different steps.

Expected: where the actor's last checkpoint is of step 2 and the critic's of step 1 (the
run was cut between the two saves), an error, or both from step 1.
Got: steps 2 and 1, silently.
"""

import shutil
import tempfile

from harness.upstream.fixes._prelude import saving_each_step, toy_batch, toy_learner
from harness.upstream.fixes._probing import resumed_learner
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a learner takes an actor 4 iterations in with a critic 2 in."""
    try:
        resumed_learner(critic_steps=2)
    except Exception:  # whatever a Tunix that notices would raise
        return False
    return True


ISSUE = KnownIssue(
    id="resume-actor-critic-apart",
    title="A resume takes an actor and a critic of different steps.",
    where="tunix/rl/rl_cluster.py:550",
    effect="A run that was cut between two saves goes on with a critic that is older.",
    fix="It is refused; a run goes on from the newest step that both have whole.",
    probe=probe,
    shown_by=("resume-takes-both",),
    engine=True,
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    with tempfile.TemporaryDirectory() as directory:
        training = {"max_steps": 2, **saving_each_step(directory)}
        toy_learner(training=training).train([toy_batch("a")] * 2)
        shutil.rmtree(f"{directory}/critic/2")
        cluster = toy_learner(training=training).rl_cluster
    steps = cluster.actor_trainer.train_steps, cluster.critic_trainer.train_steps
    print("expected: actor and critic at steps (1, 1), or an error")
    print(f"got: {steps}")
    return steps == (2, 1)
