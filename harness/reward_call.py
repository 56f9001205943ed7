"""A call of a user's reward function: its limit of time, its answer, and how it fails."""

import contextvars
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import numpy as np

from harness.errors import HarnessError
from harness.recipe import Reward

BUILTIN = "harness.rewards:gsm8k_reward"


class NotFiniteError(HarnessError):
    """A reward is NaN or infinite.

    Attributes:
      scores: All rewards of the call.
    """

    def __init__(self, message: str, scores: list[float]):
        """Store the scores beside the message."""
        super().__init__(message)
        self.scores = scores


class RewardFailedError(HarnessError):
    """A reward function raised, took too long, or returned what is no reward.

    Attributes:
      traceback: The function's own traceback, or where it stood when its time
        was up; None where it returned.
    """

    def __init__(self, message: str, traceback: str | None = None):
        """Store the traceback beside the message."""
        super().__init__(message)
        self.traceback = traceback


def called(reward: Reward, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a function, within its time limit if there is one."""

    def call() -> Any:
        return function(**arguments)

    limit = reward.timeout_seconds
    try:
        if limit is None or reward.function == BUILTIN:
            values = call()
        else:
            values = _within(limit, call, reward.function)
    except HarnessError:
        raise
    # A user's function may fail in any way; sys.exit in it is no wish to end.
    except (Exception, SystemExit) as error:
        raise RewardFailedError(
            f"reward.function '{reward.function}' raised {_described(error, function)}",
            _own_traceback(error),
        ) from error
    if inspect.iscoroutine(values):
        values.close()
        raise RewardFailedError(
            f"reward.function '{reward.function}' must give a list of finite numbers, one per "
            "completion, not a coroutine: run its loop inside, such as by asyncio.run"
        )
    return values


def _within(limit: float, call: Callable[[], Any], path: str) -> Any:
    """Call a function on a thread of its own, for at most `limit` seconds."""
    found: list[Any] = []
    failed: list[BaseException] = []
    context = contextvars.copy_context()

    def work() -> None:
        try:
            found.append(context.run(call))
        except BaseException as error:
            failed.append(error)

    # A daemon, so that a function that never returns does not hold the process.
    thread = threading.Thread(target=work, name="reward", daemon=True)
    thread.start()
    thread.join(limit)
    if thread.is_alive():
        frame = sys._current_frames().get(thread.ident or -1)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else None
        raise RewardFailedError(
            f"reward.function '{path}' took longer than reward.timeout_seconds = {limit:g}", stack
        )
    if failed:
        raise failed[0]
    return found[0]


def _user_frames(error: BaseException) -> TracebackType | None:
    """Return the traceback from the first frame that is not of this module."""
    tail = error.__traceback__
    while tail is not None and tail.tb_frame.f_code.co_filename == __file__:
        tail = tail.tb_next
    return tail or error.__traceback__


def _own_traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, _user_frames(error)))


def _described(error: BaseException, function: Callable[..., Any]) -> str:
    """Name an error and the innermost line of the function's own file."""
    frames = traceback.extract_tb(_user_frames(error))
    code = getattr(inspect.unwrap(function), "__code__", None)
    own = [each for each in frames if code is not None and each.filename == code.co_filename]
    message = " ".join(str(error).split())[:200]
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if not frames:
        return text
    last = (own or list(frames))[-1]
    return f"{text} ({last.filename}, line {last.lineno})"


def floats(path: str, values: Any, count: int) -> list[float]:
    """Return what a function returned as one float for each completion.

    Raises:
      RewardFailedError: It is no such thing.
      NotFiniteError: A number is not finite.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.asarray(None)
    refusal = (
        f"reward.function '{path}' must give a list of finite numbers, "
        f"one per completion, not {_shortened(values)}"
    )
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise RewardFailedError(refusal)
    if len(array) != count:
        raise RewardFailedError(
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
