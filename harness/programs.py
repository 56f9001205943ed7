"""The compiled programs of a global step: their names, and what sizes each."""

import enum
from collections.abc import Mapping


class Program(enum.StrEnum):
    """A compiled program, in the order of a step; a member equals its name as text."""

    PREFILL = "prefill"
    DECODE = "decode"
    LOGPS = "logps"
    REFERENCE_LOGPS = "reference_logps"
    VALUES = "values"
    ACTOR_STEP = "actor_step"
    CRITIC_STEP = "critic_step"


# Of every recipe; the reference has a program of its own only where there is a KL penalty.
ALWAYS = tuple(each for each in Program if each is not Program.REFERENCE_LOGPS)
ROLLOUT = (Program.PREFILL, Program.DECODE)
TRAIN = (Program.ACTOR_STEP, Program.CRITIC_STEP)
# The fields of a recipe's `batching`, and the programs whose sequences each one sets.
SIZED_BY: Mapping[str, tuple[Program, ...]] = {
    "rollout_micro_batch_size": ROLLOUT,
    "compute_logps_micro_batch_size": (Program.LOGPS, Program.REFERENCE_LOGPS, Program.VALUES),
    "train_micro_batch_size": TRAIN,
}
# The phases of a global step, and the programs of each.
PHASES: Mapping[str, tuple[Program, ...]] = {
    "rollout": ROLLOUT,
    "old log-probs": (Program.LOGPS,),
    "reference log-probs": (Program.REFERENCE_LOGPS,),
    "values": (Program.VALUES,),
    "actor step": (Program.ACTOR_STEP,),
    "critic step": (Program.CRITIC_STEP,),
}


def setting_of(program: str) -> str:
    """Return the field of a recipe's `batching` that sets the sequences of a program's call.

    Args:
      program: Its name.

    Raises:
      ValueError: There is no such program.
    """
    for setting, members in SIZED_BY.items():
        if program in members:
            return setting
    raise ValueError(f"there is no program '{program}'")
