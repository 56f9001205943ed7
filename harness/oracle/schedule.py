"""Which problem trains when, and which optimizer step it is part of."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Use:
    """One problem's part in one gradient. All numbers count from 0.

    Attributes:
      problem: Place in the data; a further pass over the data counts on.
      batch: Rollout batch, that is, global step.
      mini_batch: Mini-batch within the batch.
      micro_batch: Micro-batch within the mini-batch.
      epoch: PPO epoch over the mini-batch.
      optimizer_step: Optimizer step, over the whole training.
    """

    problem: int
    batch: int
    mini_batch: int
    micro_batch: int
    epoch: int
    optimizer_step: int


def schedule(
    num_batches: int,
    batch: int,
    mini_batch: int,
    micro_batch: int,
    epochs: int,
    max_steps: int,
) -> list[Use]:
    """Every use of every problem, in the order of training.

    PPO makes several epochs over minibatches of what was sampled (Schulman et
    al., arXiv:1707.06347, algorithm 1). Here a mini-batch is sampled, then
    all its epochs follow, each one optimizer step over all its micro-batches.
    Optimizer steps are held against `max_steps` after whole batches only.

    Args:
      num_batches: Batches that the data offers, over all passes.
      batch: Problems in one batch.
      mini_batch: Problems behind one optimizer step; divides `batch`.
      micro_batch: Problems in one gradient; divides `mini_batch`.
      epochs: PPO epochs.
      max_steps: Optimizer steps asked for.

    Returns:
      The uses. Within an epoch, micro-batches come in the order of the data;
      as they accumulate into one step, their order changes nothing.

    Raises:
      ValueError: An argument is not positive, or a size does not divide.
    """
    if min(num_batches, batch, mini_batch, micro_batch, epochs, max_steps) < 1:
        raise ValueError("all arguments must be positive")
    if batch % mini_batch or mini_batch % micro_batch:
        raise ValueError("micro_batch must divide mini_batch, and mini_batch must divide batch")
    uses: list[Use] = []
    step = 0
    for global_step in range(num_batches):
        if step >= max_steps:
            break
        for mini in range(batch // mini_batch):
            first = global_step * batch + mini * mini_batch
            for epoch in range(epochs):
                uses += [
                    Use(first + i, global_step, mini, i // micro_batch, epoch, step)
                    for i in range(mini_batch)
                ]
                step += 1
    return uses


def global_steps(uses: Sequence[Use]) -> int:
    """Number of batches used."""
    return len({use.batch for use in uses})


def optimizer_steps(uses: Sequence[Use]) -> int:
    """Number of optimizer steps."""
    return len({use.optimizer_step for use in uses})


def generations(uses: Sequence[Use]) -> int:
    """Number of mini-batches rolled out.

    Each is sampled once, before the first of its epochs, however many calls of
    a sampler that takes.
    """
    return len({(use.batch, use.mini_batch) for use in uses})
