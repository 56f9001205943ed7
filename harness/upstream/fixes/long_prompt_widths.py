"""A prompt longer than `max_prompt_length` widens its micro-batch only, and breaks the batch.

Expected: "The prompt will be padded/truncated to this length" (RolloutConfig), so two
rollout micro-batches with max_prompt_length=4 have prompts 4 wide.
Got: 8 and 4 wide; joining them fails.
"""

from harness.upstream.fixes._prelude import toy_cluster
from harness.upstream.fixes.known_issue import KnownIssue

ISSUE = KnownIssue(
    id="long-prompt-widths",
    title="A prompt over max_prompt_length widens its micro-batch only.",
    where="tunix/generate/sampler.py:816",
    effect="One long prompt ends the run when micro-batches are joined.",
)


def reproduce() -> bool:
    """Return whether the issue shows."""
    cluster = toy_cluster(training={"max_steps": 1})
    widths = [
        cluster.generate([text]).left_padded_prompt_tokens.shape[1] for text in ("abcde", "b")
    ]
    try:
        cluster.generate(["abcde", "b"], micro_batch_size=1)
        error = "none"
    except ValueError as raised:
        error = str(raised)
    print("expected: prompts [4, 4] wide, error: none")
    print(f"got: {widths} wide, error: {error}")
    return widths == [8, 4] and error != "none"
