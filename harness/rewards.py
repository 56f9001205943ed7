"""The rule-based score of the reference recipe, and the way to another one.

The last `#### NUMBER` among a completion's last `clip_chars` characters is its
answer. NUMBER is what `#### (-?[0-9.,]+)` matches: one space after the tag, an
optional minus, then digits, points and commas, as long as they go on. Commas
are dropped, then the text is compared with the ground truth, whose commas are
dropped too. Texts are compared, not numbers.

| completion ends with         | ground truth | score   | because                          |
| ---------------------------- | ------------ | ------- | -------------------------------- |
| `#### 10`                    | `10`         | correct |                                  |
| `#### 10 apples`             | `10`         | correct | the number ends at the space     |
| `#### 7 ... #### 10`         | `10`         | correct | the last tag counts              |
| `#### 10 ... #### 7`         | `10`         | format  | the last tag counts              |
| `#### 10 ... #### ten`       | `10`         | correct | a tag without number is no tag   |
| `#### -3`                    | `-3`         | correct |                                  |
| `#### 2.5`                   | `2.5`        | correct |                                  |
| `#### 1,234`                 | `1234`       | correct | commas are dropped               |
| `#### 1234`                  | `1,234`      | correct | on both sides                    |
| `#### 10.`                   | `10`         | format  | the point belongs to the number  |
| `#### 10.0`                  | `10`         | format  | texts are compared               |
| `#### 010`                   | `10`         | format  | texts are compared               |
| `#### ,`                     | `10`         | format  | a comma alone is well-formed     |
| `#### 5` cut from `#### 55`  | `55`         | format  | what was generated is what counts |
| `#### $10`                   | `10`         | 0       | no sign of money in the format   |
| `#### +10`                   | `10`         | 0       | nor a plus                       |
| `####10`                     | `10`         | 0       | the space is missing             |
| `####  10`                   | `10`         | 0       | one space too many               |
| `10`                         | `10`         | 0       | no tag                           |
| a tag before, or cut by, the last `clip_chars` characters | any | 0 | it is not looked at |

One thing differs from the reference: there commas stay in the ground truth, so
that a ground truth with a comma can never be met. GSM8K's own answers lose
their commas when they are read, so no score on GSM8K differs.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.recipe import Reward

RewardFn = Callable[..., list[float]]

_ANSWER = re.compile(r"#### (-?[0-9.,]+)")


class NotFiniteError(HarnessError):
    """A reward is NaN or infinite.

    Attributes:
      scores: All rewards of the call.
    """

    def __init__(self, said: str, scores: list[float]):
        """Keeps the scores beside what is said."""
        super().__init__(said)
        self.scores = scores


def extract_answer(text: str, clip_chars: int = 300) -> str | None:
    """Gives the last tagged number of a completion.

    Args:
      text: The completion.
      clip_chars: Characters at its end that are looked at; positive.

    Returns:
      The number as written, without commas; none where nothing matches.
    """
    numbers = _ANSWER.findall(text[-clip_chars:])
    return numbers[-1].replace(",", "") if numbers else None


def score(
    text: str,
    answer: object,
    *,
    correct: float = 1.0,
    format: float = 0.1,
    clip_chars: int = 300,
) -> float:
    """Scores one completion by the table above.

    Args:
      text: The completion.
      answer: The ground truth; its `str` is compared, so text and integers
        serve, NumPy's included.
      correct: Score of a right answer.
      format: Score of a well-formed wrong answer.
      clip_chars: Characters at the completion's end that are looked at.

    Returns:
      `correct`, `format` or 0.

    Raises:
      HarnessError: The ground truth is bytes, which no text ever equals.
    """
    if isinstance(answer, bytes):
        raise HarnessError(f"ground truth {answer!r} is bytes: decode the answer column to text")
    found = extract_answer(text, clip_chars)
    if found is None:
        return 0.0
    return correct if found == str(answer).replace(",", "") else format


def gsm8k_reward(
    prompts: Sequence[str],
    completions: Sequence[str],
    answer: Sequence[object] | np.ndarray,
    *,
    correct: float = 1.0,
    format: float = 0.1,
    clip_chars: int = 300,
    **columns: Any,
) -> list[float]:
    """Scores a batch of completions.

    Args:
      prompts: Not looked at.
      completions: `B` completions.
      answer: `B` ground truths.
      correct: Score of a right answer.
      format: Score of a well-formed wrong answer.
      clip_chars: Characters at a completion's end that are looked at.
      **columns: Other columns of the batch, not looked at.

    Returns:
      `B` scores.

    Raises:
      HarnessError: Completions and ground truths differ in number.
    """
    del prompts, columns
    if len(completions) != len(answer):
        raise HarnessError(
            f"gsm8k_reward: {len(completions)} completions but {len(answer)} ground truths: "
            "give one answer per completion"
        )
    return [
        score(text, truth, correct=correct, format=format, clip_chars=clip_chars)
        for text, truth in zip(completions, answer, strict=True)
    ]


def build(reward: Reward) -> RewardFn:
    """Makes the function that a trainer calls from the recipe's reward.

    Of `correct`, `format` and `clip_chars`, those that the named function has
    among its parameters are passed to it, before any column of that name.

    Args:
      reward: The recipe's reward; `reward.function` is `module:name`.

    Returns:
      A function `(prompts, completions, **columns)` with the name of the one
      it calls, that gives one finite float per completion. It raises
      HarnessError where the named function gives anything else.

    Raises:
      HarnessError: The module cannot be imported, or has no such function.
    """
    function = _resolve(reward.function)
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # Some functions written in C do not tell theirs.
        parameters = {}
    settings = {
        name: getattr(reward, name)
        for name in ("correct", "format", "clip_chars")
        if name in parameters
    }

    def checked(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
        values = function(prompts=prompts, completions=completions, **{**columns, **settings})
        return _floats(reward.function, values, len(completions))

    # The trainer names its metrics after the function, and passes on whatever
    # its own settings and the function's parameters share: the name is kept,
    # the parameters stay hidden.
    checked.__name__ = reward.function.partition(":")[2]
    return checked


def _resolve(path: str) -> Callable[..., Any]:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    # A module of the user's may fail in any way while it is imported.
    except Exception as error:
        raise HarnessError(
            f"reward.function '{path}': cannot import {module_name} "
            f"({type(error).__name__}: {error}): mend it, or put its folder on PYTHONPATH"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise HarnessError(
            f"reward.function '{path}': {module_name} has no function '{name}': "
            "name one as module:name"
        )
    return function


def _floats(path: str, values: Any, count: int) -> list[float]:
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.asarray(None)
    refusal = (
        f"reward.function '{path}' must give a list of finite numbers, "
        f"one per completion, not {_shortened(values)}"
    )
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise HarnessError(refusal)
    if len(array) != count:
        raise HarnessError(
            f"reward.function '{path}' gave {len(array)} numbers for {count} completions: "
            "it must give one each"
        )
    scores = array.astype(float).tolist()
    if not np.isfinite(array).all():
        raise NotFiniteError(refusal, scores)
    return scores


def _shortened(value: Any, width: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= width else f"{text[:width]}…"
