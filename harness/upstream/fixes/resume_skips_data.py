"""A resumed run with two PPO epochs skips twice the data that was used.

Expected: after a run on batches "a" and "b", a resume over "a" to "f" goes on with "c".
Got: it goes on with "e". The fast-forward counts the trainer's iterations, of which
`num_iterations=2` makes two per batch.
"""

import tempfile

from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes._probing import resumed_learner
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a learner of two epochs skips 4 micro-batches after 4 iterations on 2."""
    return resumed_learner()._last_iter_step == 4


ISSUE = KnownIssue(
    id="resume-skips-data",
    title="A resume skips each micro-batch as often as there are PPO epochs.",
    where="tunix/rl/rl_learner.py:132",
    effect="With two epochs a resumed run leaves out as much data as it had used.",
    fix="The position is divided by the epochs.",
    probe=probe,
    shown_by=("resume-data", "resume-equals-going-on"),
    engine=True,
)


def run(batches: str, directory: str) -> list[str]:
    """Train on one-prompt batches; return the prompts that were sampled for."""
    used: list[str] = []
    learner = toy_learner(
        lambda prompts, **_: used.extend(prompts) or [1.0],
        ppo={"num_iterations": 2},
        training={"max_steps": 100, "checkpoint_root_directory": directory},
    )
    learner.rl_cluster.update_critic = lambda *_: None
    learner.train([toy_batch(prompt) for prompt in batches])
    return [str(prompt) for prompt in used]


def reproduce() -> bool:
    """Return whether the issue shows."""
    with tempfile.TemporaryDirectory() as directory:
        first, resumed = run("ab", directory), run("abcdef", directory)
    print(f"expected: after a run on {first}, the resume uses ['c', 'd', 'e', 'f']")
    print(f"got: it uses {resumed}")
    return first == ["a", "b"] and resumed == ["e", "f"]
