"""A resumed run shuffles its micro-batches as the run that it resumes did at first.

Expected: `data_shuffle_seed` goes on where the checkpoint was made.
Got: it starts anew, so a resumed run is another than the one that was never stopped.
"""

import tempfile

import jax
import numpy as np

from harness.upstream.fixes._prelude import toy_batch, toy_learner
from harness.upstream.fixes._probing import resumed_learner
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a learner that goes on shuffles as one that begins."""
    seed = np.asarray(resumed_learner()._data_shuffle_seed)
    return np.array_equal(seed, jax.random.PRNGKey(7))


ISSUE = KnownIssue(
    id="resume-restarts-noise",
    title="A resume starts its random numbers anew.",
    where="tunix/rl/rl_learner.py:99",
    effect=(
        "The order of micro-batches, and with fresh noise the noise, are those of the first "
        "batch again: a resumed run is not the run that went on."
    ),
    fix="Noise and order follow from the number of the mini-batch.",
    probe=probe,
    shown_by=("resume-data", "resume-equals-going-on"),
    engine=True,
)


def run(batches: str, directory: str) -> list[int]:
    """Train on one-prompt batches; return the seed of the order before and after."""
    learner = toy_learner(
        data_shuffle_seed=7,
        training={"max_steps": 100, "checkpoint_root_directory": directory},
    )
    learner.rl_cluster.update_critic = lambda *_: None
    before = int(learner._data_shuffle_seed[1])
    learner.train([toy_batch(prompt) for prompt in batches])
    return [before, int(learner._data_shuffle_seed[1])]


def reproduce() -> bool:
    """Return whether the issue shows."""
    with tempfile.TemporaryDirectory() as directory:
        (start, end), (resumed, _) = run("ab", directory), run("abcd", directory)
    print(f"expected: a resume goes on with seed {end}")
    print(f"got: it goes on with {resumed}, with which the first run began: {start}")
    return start == resumed != end
