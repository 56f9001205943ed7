"""A user's reward function tried before anything is trained, and recorded when it fails later."""

import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness import errors, files, reward_call, rewards
from harness.recipe import Reward

FOLDER = "reward_failed"

# What the trainer passes beside the columns of the data.
_MODE = "mode"


def try_out(reward: Reward, batch: Mapping[str, np.ndarray]) -> str | None:
    """Hold a reward function to a batch, so that it fails now and not after hours.

    The built-in function is not called. The parameters of one of the user's own
    are held against the columns of the data; then, unless `reward.trial` says
    otherwise, it is called once on the batch's prompts with made-up completions:
    in turn the right answer, a wrong one, and nothing.

    Args:
      reward: The recipe's reward.
      batch: Columns `prompts`, `question`, `answer`, each [B].

    Returns:
      What was done, in a line; None for the built-in function.

    Raises:
      HarnessError: The function cannot be called with such a batch, raises,
        takes too long, or returns something other than B numbers.
    """
    if reward.function == rewards.BUILTIN:
        return None
    columns = {name: column for name, column in batch.items() if name != "prompts"}
    rewards.check_signature(reward, [*columns, _MODE])
    if reward.trial == "signature":
        return f"reward.function '{reward.function}' takes the columns of the data; not called"
    made_up = (lambda answer: f"#### {answer}", lambda answer: f"#### {answer}0", lambda _: "")
    completions = [made_up[row % 3](answer) for row, answer in enumerate(batch["answer"])]
    tried = f"on {len(completions)} prompts of the data with made-up completions"
    try:
        scores = rewards.build(reward)(
            prompts=batch["prompts"], completions=completions, **columns, **{_MODE: "train"}
        )
    except reward_call.NotFiniteError:
        return f"reward.function '{reward.function}' was tried {tried}: not all are finite"
    except reward_call.RewardFailedError as error:
        raise errors.HarnessError(
            f"{error}, when it was tried {tried}: fix it, or set reward.trial to signature, so "
            "that it is not called before training"
        ) from None
    return (
        f"reward.function '{reward.function}' was tried {tried}: rewards of {min(scores):g} to "
        f"{max(scores):g}"
    )


def stopped(
    out: pathlib.Path,
    name: str,
    where: str,
    error: reward_call.RewardFailedError,
    batch: Mapping[str, Any],
) -> errors.RunStopped:
    """Record the failure of a reward function in a run's folder.

    Args:
      out: The run's folder.
      name: Name of the files, without suffix.
      where: Stage or step, and the sequences.
      error: The failure.
      batch: Prompts, completions and columns of the call.

    Returns:
      The error to raise, which names the files.

    Raises:
      HarnessError: The folder cannot be written.
    """
    folder = out / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as cause:
        raise files.cannot_write(folder, cause) from None
    buffer = io.BytesIO()
    np.savez(buffer, **arrays(batch))  # type: ignore[arg-type]
    files.write_whole(folder / f"{name}.npz", buffer.getvalue())
    text = error.traceback
    files.write_whole(folder / f"{name}.txt", text or f"{error}\n")
    return errors.RunStopped(
        f"{error}, in {where}: its traceback is in {folder / f'{name}.txt'}, the batch in "
        f"{folder / f'{name}.npz'}; fix the function, then go on by --resume --out {out}"
    )


def arrays(batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the columns of a batch as arrays; what is no column is left out."""
    return {
        name: np.asarray(column)
        for name, column in batch.items()
        if isinstance(column, Sequence | np.ndarray) and not isinstance(column, str)
    }
