"""Cases of the losses: unequal completions, and ratios about every bound."""

import dataclasses
from typing import Any

import numpy as np

from harness import recipe as recipe_lib
from harness.oracle import logprob
from harness.upstream.instrument.losses import Figures

ROWS, PROMPT, TOKENS, _VOCABULARY = 6, 3, 6, 8
LENGTHS = (6, 1, 3, 5, 2, 6)
# Below, between and above each bound of the two recipes; 1 itself is a kink where a
# bound is 0.
_RATIOS = (0.3, 0.7, 0.9, 0.93, 0.97, 1.03, 1.07, 1.13, 1.3, 1.6, 3.0)
GARBAGE = 1e6


@dataclasses.dataclass(frozen=True)
class Terms:
    """What the policy's loss is made of.

    Attributes:
      low: Lower clip range.
      high: Upper clip range.
      second: Bound of the second clip, if any.
      entropy: Weight of the entropy bonus, if any.
    """

    low: float
    high: float
    second: float | None
    entropy: float | None

    @classmethod
    def of(cls, ppo: recipe_lib.Ppo) -> "Terms":
        """Read a recipe."""
        low, high = ppo.epsilon_low, ppo.epsilon_high
        return cls(
            ppo.epsilon if low is None else low,
            ppo.epsilon if high is None else high,
            ppo.epsilon_c,
            ppo.entropy_coef,
        )


@dataclasses.dataclass(frozen=True)
class Case:
    """One input of a loss and what it gave.

    Attributes:
      name: What is special about it.
      outputs: [B, P + T, V] logits, or [B, P + T, 1] values.
      example: Fields of upstream's example.
      got: What Tunix made of it.
    """

    name: str
    outputs: np.ndarray
    example: dict[str, np.ndarray]
    got: Figures

    @property
    def mask(self) -> np.ndarray:
        """Real tokens, [B, T] bool."""
        return self.example["completion_mask"]

    @property
    def positions(self) -> np.ndarray:
        """The outputs' positions on which a real token depends, [B, P + T] bool."""
        found = np.zeros(self.outputs.shape[:2], bool)
        found[:, PROMPT - 1 : -1] = self.mask
        return found


def mask_of_lengths(lengths: tuple[int, ...] = LENGTHS) -> np.ndarray:
    """Return the mask [sequences, tokens] of completions of some lengths."""
    return np.arange(TOKENS) < np.array(lengths)[:, None]


def policy_inputs_of(temperature: float, mask: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Return logits and an example whose ratios at `temperature` are `_RATIOS` in turn."""
    rng = np.random.default_rng(3)
    shape = ROWS, TOKENS
    logits = rng.normal(0, 1.5, (ROWS, PROMPT + TOKENS, _VOCABULARY)).astype(np.float32)
    drawn = rng.integers(2, _VOCABULARY, shape)
    ids = np.where(mask, drawn, 0)
    log_probs = logprob.token_log_probs(logits[:, PROMPT - 1 : -1], ids, temperature)
    # Each ratio is met with advantages of both signs, at positions that are real.
    order = np.cumsum(mask).reshape(shape)
    ratios = np.array(_RATIOS)[order % len(_RATIOS)]
    signs = np.where(order // len(_RATIOS) % 2, -1, 1)
    return logits, {
        "prompt_ids": rng.integers(2, _VOCABULARY, (ROWS, PROMPT)),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": (signs * rng.uniform(0.3, 2.0, shape)).astype(np.float32),
        "old_per_token_logps": (log_probs - np.log(ratios)).astype(np.float32),
        "ref_per_token_logps": rng.normal(-2, 0.5, shape).astype(np.float32),
    }


def value_inputs_of(mask: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Return values and an example in which the recipe's clip acts on either side."""
    rng = np.random.default_rng(4)
    shape = ROWS, TOKENS
    order = np.cumsum(mask).reshape(shape)
    moves = np.array([-0.3, -0.05, -0.01, 0.01, 0.05, 0.3])[order % 6]
    targets = np.array([-0.6, -0.1, 0.11, 0.7])[order // 6 % 4]
    old = rng.normal(0, 0.5, shape).astype(np.float32)
    values = rng.normal(0, 1, (ROWS, PROMPT + TOKENS, 1)).astype(np.float32)
    values[:, PROMPT - 1 : -1, 0] = old + moves
    return values, {
        "prompt_ids": rng.integers(2, _VOCABULARY, (ROWS, PROMPT)),
        "completion_ids": np.where(mask, rng.integers(2, _VOCABULARY, shape), 0),
        "completion_mask": mask,
        "old_values": old,
        "returns": (old + targets).astype(np.float32),
    }
