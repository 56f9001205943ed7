"""Which problem trains when, and which optimizer step it is part of."""

import dataclasses
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Use:
    """One problem's part in one gradient. All numbers count from 0.

    Attributes:
      problem: Position in the data; a further pass over the data counts on.
      batch: Rollout batch, that is, global step.
      mini_batch: Mini-batch within the pass over the batch.
      micro_batch: Micro-batch within the mini-batch.
      epoch: PPO epoch, that is, pass over the batch.
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
    order: Callable[[int, int], Sequence[int]] | None = None,
) -> list[Use]:
    """Every use of every problem, in the order of training.

    PPO samples a batch, then makes several epochs over mini-batches of it
    (Schulman et al., arXiv:1707.06347, algorithm 1). Each mini-batch is one
    optimizer step over its micro-batches. Optimizer steps are held against
    `max_steps` after whole batches only.

    Args:
      num_batches: Batches that the data offers, over all passes.
      batch: Problems in one batch.
      mini_batch: Problems behind one optimizer step; divides `batch`.
      micro_batch: Problems in one gradient; divides `mini_batch`.
      epochs: PPO epochs.
      max_steps: Optimizer steps asked for.
      order: Of a batch and an epoch, the position in the batch of each sequence of that pass;
        the order of the data if `None`.

    Returns:
      The uses, in the order of training.

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
        for epoch in range(epochs):
            positions = range(batch) if order is None else order(global_step, epoch)
            if sorted(positions) != list(range(batch)):
                raise ValueError("an epoch must take each sequence of its batch once")
            for taken, position in enumerate(positions):
                mini, within = divmod(taken, mini_batch)
                uses.append(
                    Use(
                        problem=global_step * batch + position,
                        batch=global_step,
                        mini_batch=mini,
                        micro_batch=within // micro_batch,
                        epoch=epoch,
                        optimizer_step=step + mini,
                    )
                )
            step += batch // mini_batch
    return uses


def global_steps(uses: Sequence[Use]) -> int:
    """Number of batches used."""
    return len({use.batch for use in uses})


def optimizer_steps(uses: Sequence[Use]) -> int:
    """Number of optimizer steps."""
    return len({use.optimizer_step for use in uses})


def generations(uses: Sequence[Use]) -> int:
    """Number of batches that are sampled, each before the first of its epochs."""
    return len({use.batch for use in uses})
