"""A pad that the policy draws is no token to the learner.

Expected: of a completion of four tokens, the second of them the pad, all four are
trained on, and the reward of 7 is on the last.
Got: three, since the mask leaves out every pad id; the reward is on the third token,
whose position is found by counting those that the mask keeps.
"""

import jax.numpy as jnp
import numpy as np
from tunix.rl import rl_cluster

from harness.upstream.fixes import pad_mid_sequence
from harness.upstream.fixes._prelude import Table, toy_batch, toy_learner, toy_rollout_config
from harness.upstream.fixes._probing import PAD, WORD, one_group
from harness.upstream.fixes.known_issue import KnownIssue


def probe() -> bool:
    """Return whether a pad among drawn tokens keeps its position, and counts for no token."""
    example, _ = one_group(rl_cluster.Mode.TRAIN, completion=(WORD, PAD, WORD))
    return not np.asarray(example.completion_mask).all() and not pad_mid_sequence.probe()


ISSUE = KnownIssue(
    id="pad-not-trained",
    title="A pad that the policy draws is no token to the learner.",
    where="tunix/rl/ppo/ppo_learner.py:277",
    effect=(
        "The choice has no part in the loss, and the reward of its row lands a token early "
        "for each such pad."
    ),
    fix="A pad that was drawn ends its row.",
    probe=probe,
    shown_by=("completions-end", "decode-stops", "greedy"),
    releases=("0.1.6",),
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    # From letters and from 0 on, what comes next is certain: 5, 0, 6, 7. 0 is the pad.
    next_token = jnp.full((8, 8), -1e9).at[[2, 3, 4, 5, 0, 6], [5, 5, 5, 0, 6, 7]].set(0.0)
    learner = toy_learner(
        lambda prompts, **_: [7.0] * len(prompts),
        actor=Table(next_token),
        rollout=toy_rollout_config(max_tokens_to_generate=4),
    )
    example = learner._generate_and_compute_advantage(toy_batch("ab"))
    drawn, mask = example.completion_ids[0].tolist(), example.completion_mask[0]
    returns = np.array(example.returns[0])
    print("expected: tokens [5, 0, 6, 7], 4 of them trained on, return 7.0 on the last")
    print(f"got: tokens {drawn}, {int(mask.sum())} trained on, returns {returns.tolist()}")
    return drawn == [5, 0, 6, 7] and int(mask.sum()) == 3 and returns[3] != 7


Fix = pad_mid_sequence.Fix
