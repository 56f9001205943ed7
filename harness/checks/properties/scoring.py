"""Accuracy and its interval, on transcripts that are scored by hand."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from harness import evaluation, rewards
from harness import recipe as recipe_lib
from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.property import EXACT, Comparison, Observed, Property


@dataclasses.dataclass(frozen=True)
class _Labelled:
    """A transcript that was scored by hand.

    Attributes:
      completion: What was written.
      answer: The right answer.
      score: What it is worth.
      prompt: What it was written after.
    """

    completion: str
    answer: str
    score: float
    prompt: str = "Q"


_LABELLED = (
    _Labelled("#### 10", "10", 1.0),
    _Labelled("Six and four.\n#### 10 apples", "10", 1.0),
    _Labelled("#### 7\nNo:\n#### 10", "10", 1.0),
    _Labelled("#### 10\nNo:\n#### 7", "10", 0.1),
    _Labelled("#### 10 and #### ten", "10", 1.0),
    _Labelled("#### -3", "-3", 1.0),
    _Labelled("#### 3", "-3", 0.1),
    _Labelled("#### 2.5", "2.5", 1.0),
    _Labelled("#### 25", "2.5", 0.1),
    _Labelled("#### 1,234", "1234", 1.0),
    _Labelled("#### 1234", "1,234", 1.0),
    _Labelled("#### 1,234,567", "1234567", 1.0),
    _Labelled("#### 10.", "10", 0.1),
    _Labelled("#### 10.0", "10", 0.1),
    _Labelled("#### 010", "10", 0.1),
    _Labelled("#### 100", "10", 0.1),
    _Labelled("#### $10", "10", 0.0),
    _Labelled("#### +10", "10", 0.0),
    _Labelled("####10", "10", 0.0),
    _Labelled("### 10", "10", 0.0),
    _Labelled("The answer is 10", "10", 0.0),
    _Labelled("", "10", 0.0),
    _Labelled("10", "10", 0.0, prompt="Write #### 10 at the end."),
    # Seven characters of tag, and then as many as still fit into the last 300.
    _Labelled("#### 10" + "x" * 293, "10", 1.0),
    _Labelled("#### 10" + "x" * 294, "10", 0.0),
    _Labelled("y" * 400 + "#### 10", "10", 1.0),
)

# Two passes over five problems in batches of two: three are solved, one of them
# at the second try only, one more is well-formed, one is neither.
_TRIES = (
    ("#### 1", "#### 0", "#### 3", "#### 9", "none"),
    ("#### 1", "#### 2", "none", "none", "none"),
)


def _observe_scores(context: Context) -> Observed:
    each = [rewards.score(row.completion, row.answer) for row in _LABELLED]
    together = rewards.gsm8k_reward(
        [row.prompt for row in _LABELLED],
        [row.completion for row in _LABELLED],
        answer=np.array([row.answer for row in _LABELLED]),
    )
    size = 2
    recipe = recipe_lib.replace(
        context.recipe,
        *(
            f"batching.{name}={size}"
            for name in (
                "rollout_batch_size",
                "mini_batch_size",
                "train_micro_batch_size",
                "rollout_micro_batch_size",
            )
        ),
        f"batching.compute_logps_micro_batch_size={size}",
        f"evaluation.passes={len(_TRIES)}",
    )
    asked: dict[str, int] = {}

    def generate(prompts: Sequence[str], *args: Any) -> tuple[list[str], list[int]]:
        del args
        found = []
        # A row that fills a batch up must not count as a try.
        for prompt in dict.fromkeys(prompts):
            found.append(_TRIES[asked.get(prompt, 0)][int(prompt)])
            asked[prompt] = asked.get(prompt, 0) + 1
        found = np.resize(np.array(found), len(prompts)).tolist()
        return found, [1] * len(found)

    numbers = np.arange(len(_TRIES[0]))
    columns = {
        "prompts": numbers.astype(str),
        "question": numbers.astype(str),
        "answer": (numbers + 1).astype(str),
    }
    batches = [
        {name: column[first : first + size] for name, column in columns.items()}
        for first in range(0, len(numbers), size)
    ]
    found = evaluation.evaluate(recipe, generate, batches)
    return {
        "score": each,
        "reward": together,
        "total": found.total,
        "shares": [found.accuracy, found.format_accuracy],
        "bounds": np.round([*found.accuracy_ci95, *found.format_accuracy_ci95], 9),
        "samples": [(s.index, s.completion_pass) for s in found.samples],
    }


def _wilson(hits: int, total: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927, JASA 22, p. 209)."""
    z, share = 1.959963984540054, hits / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total)


def _compare_scores(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    for name in ("score", "reward"):
        for row, got in zip(_LABELLED, observed[name], strict=True):
            yield Comparison(f"{name} of {row.completion[-40:]!r}", got, row.score)
    yield Comparison("problems", observed["total"], 5)
    yield Comparison("accuracy and format accuracy", observed["shares"], [3 / 5, 4 / 5])
    # Rounded alike: two ways to the same figure differ in the last digits.
    wanted = np.round([*_wilson(3, 5), *_wilson(4, 5)], 9)
    yield Comparison("their intervals", observed["bounds"], wanted)
    yield Comparison(
        "problem and pass of each sample",
        sorted(observed["samples"]),
        [(problem, tried) for problem in range(5) for tried in range(2)],
    )


def _scored(change: Callable[[_Labelled], float]) -> Callable[[Observed], Observed]:
    return wrong.value("score", lambda _: [change(row) for row in _LABELLED])


PROPERTIES = (
    Property(
        id="scored-transcripts",
        area="evaluation",
        statement=(
            "Transcripts are scored as by hand: by the last well-formed tag among the last 300 "
            "characters of the completion; a problem is solved if any try solves it."
        ),
        tolerance=EXACT,
        observe=_observe_scores,
        compare=_compare_scores,
        wrong={
            "by the first tag": _scored(
                lambda row: 1.0 if row.completion.startswith(f"#### {row.answer}") else row.score
            ),
            "by number": _scored(
                lambda row: 1.0 if row.completion in ("#### 10.", "#### 10.0") else row.score
            ),
            "wherever the tag is": _scored(
                lambda row: 1.0 if f"#### {row.answer}" in row.completion else row.score
            ),
            "by the prompt": _scored(
                lambda row: 1.0 if f"#### {row.answer}" in row.prompt else row.score
            ),
            "by the last try": wrong.value("shares", lambda _: [2 / 5, 2 / 5]),
            "a filler counted": wrong.value("total", lambda total: total + 1),
        },
    ),
)
