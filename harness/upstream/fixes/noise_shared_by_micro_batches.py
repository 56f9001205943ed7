"""The rollout micro-batches of one batch are sampled with the same noise.

Expected: four equal prompts are sampled to four different completions, whatever the
rollout micro-batch size.
Got: with micro-batches of one, all four are the same. The seed does not know of the
micro-batch, so what looks like a memory setting takes away the variety of a batch.
"""

from harness.upstream.fixes._prelude import toy_cluster, toy_rollout_config
from harness.upstream.fixes.known_issue import KnownIssue
from harness.upstream.fixes.noise_repeats import probe

ISSUE = KnownIssue(
    id="noise-shared-by-micro-batches",
    title="Rollout micro-batches of one batch share their noise.",
    where="tunix/rl/rl_cluster.py:938",
    effect="A setting for memory takes the variety out of a batch, with a seed too.",
    fix="As noise-repeats, where no seed is configured.",
    probe=probe,
    shown_by=("noise-is-fresh",),
    fixed_with="noise-repeats",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    cluster = toy_cluster(rollout=toy_rollout_config(max_tokens_to_generate=16, seed=7))
    distinct = [
        len({tuple(row.tolist()) for row in cluster.generate(["a"] * 4, micro_batch_size=n).tokens})
        for n in (4, 1)
    ]
    print("expected: distinct completions with micro-batches of 4 and of 1: [4, 4]")
    print(f"got: {distinct}")
    return distinct == [4, 1]
