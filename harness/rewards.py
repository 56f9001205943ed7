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

import dataclasses
import importlib
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.recipe import Reward
from harness.reward_call import BUILTIN, NotFiniteError, called, floats

RewardFn = Callable[..., list[float]]


_ANSWER = re.compile(r"#### (-?[0-9.,]+)")


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What one completion is worth.

    Attributes:
      score: The reward; None where it is NaN or infinite.
      right: Whether the answer is right.
      formed: Whether the answer is well-formed.
    """

    score: float | None
    right: bool
    formed: bool


def extract_answer(text: str, clip_chars: int = 300) -> str | None:
    """Return the last tagged number of a completion.

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
    """Score one completion by the table above.

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
    return correct if _equal(found, answer) else format


def _equal(found: str | None, answer: object) -> bool:
    return found is not None and found == str(answer).replace(",", "")


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
    """Score a batch of completions.

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


def judge(
    reward: Reward, prompts: Sequence[str] | np.ndarray, completions: Sequence[str], **columns: Any
) -> list[Judgement]:
    """Score completions by a recipe's reward, and return which answers are right.

    By the rule of the table above an answer is right if it equals the truth, and
    well-formed if there is one, whatever the two are worth. By a function of the
    user's own it is right if its score is at least `reward.correct`, and
    well-formed if it is at least `reward.format`.

    Args:
      reward: The recipe's reward.
      prompts: `B` prompts.
      completions: `B` completions.
      **columns: Columns of the batch, `answer` among them.

    Returns:
      `B` judgements.

    Raises:
      RewardFailedError: The user's function failed.
    """
    if reward.function != BUILTIN:
        try:
            scores = build(reward)(prompts=prompts, completions=completions, **columns)
        except NotFiniteError as error:
            scores = error.scores
        return [
            Judgement(value, value >= reward.correct, value >= reward.format)
            if math.isfinite(value)
            else Judgement(None, False, False)
            for value in scores
        ]
    judged = []
    for text, truth in zip(completions, columns["answer"], strict=True):
        found = extract_answer(text, reward.clip_chars)
        value = score(
            text,
            truth,
            correct=reward.correct,
            format=reward.format,
            clip_chars=reward.clip_chars,
        )
        judged.append(Judgement(value, _equal(found, truth), found is not None))
    return judged


def build(reward: Reward) -> RewardFn:
    """Make the function that a trainer calls from the recipe's reward.

    Of `correct`, `format` and `clip_chars`, those that the named function has
    among its parameters are passed to it, before any column of that name.

    Args:
      reward: The recipe's reward; `reward.function` is `module:name`.

    Returns:
      A function `(prompts, completions, **columns)` with the name of the one
      it calls, that gives one finite float per completion. It raises
      RewardFailedError where the named function raises, takes longer than
      `reward.timeout_seconds` or gives anything else, and NotFiniteError where
      a number is not finite.

    Raises:
      HarnessError: The module cannot be imported, or has no such function.
    """
    function = _resolve(reward.function)
    settings = _settings(reward, function)

    def checked(
        prompts: Sequence[str] | np.ndarray, completions: Sequence[str], **columns: Any
    ) -> list[float]:
        arguments = {
            "prompts": prompts,
            "completions": completions,
            **columns,
            **settings,
        }
        values = called(reward, function, arguments)
        return floats(reward.function, values, len(completions))

    # The trainer names its metrics after the function, and passes on whatever
    # its own settings and the function's parameters share: the name is kept,
    # the parameters stay hidden.
    checked.__name__ = reward.function.partition(":")[2]
    return checked


def check_signature(reward: Reward, columns: Sequence[str]) -> None:
    """Refuse a reward function that cannot be called with a batch.

    Args:
      reward: The recipe's reward.
      columns: Names of the columns that a trainer passes beside `prompts` and
        `completions`.

    Raises:
      HarnessError: The function is a coroutine function, or its parameters do
        not take what it would be passed.
    """
    function = _resolve(reward.function)
    if any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each)
        for each in (function, getattr(function, "__call__", None))  # noqa: B004
    ):
        raise HarnessError(
            f"reward.function '{reward.function}' is a coroutine function: the trainer calls it "
            "as a plain one; run its loop inside, such as by asyncio.run"
        )
    try:
        signature = inspect.signature(function)
    except ValueError:
        return
    passed = dict.fromkeys(("prompts", "completions", *columns, *_settings(reward, function)))
    try:
        signature.bind(**passed)
    except TypeError as error:
        raise HarnessError(
            f"reward.function '{reward.function}' cannot be called with prompts, completions and "
            f"the columns {', '.join(columns)} ({error}): give it the parameters prompts, "
            "completions and **columns"
        ) from None


def _settings(reward: Reward, function: Callable[..., Any]) -> dict[str, Any]:
    """Return those settings of the recipe that a function has among its parameters."""
    try:
        parameters: Mapping[str, Any] = inspect.signature(function).parameters
    except ValueError:  # Some functions written in C do not tell theirs.
        parameters = {}
    return {
        name: getattr(reward, name)
        for name in ("correct", "format", "clip_chars")
        if name in parameters
    }


def _resolve(path: str) -> Callable[..., Any]:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    # A module of the user's may fail in any way while it is imported.
    except Exception as error:
        raise HarnessError(
            f"reward.function '{path}': cannot import {module_name} "
            f"({type(error).__name__}: {error}): correct it, or put its folder on PYTHONPATH"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise HarnessError(
            f"reward.function '{path}': {module_name} has no function '{name}': "
            "name one as module:name"
        )
    return function
