"""Which programs a recipe runs, and for how many sequences at once."""

from collections.abc import Collection

from harness import accounting, errors
from harness import recipe as recipe_lib

PROGRAMS = ("prefill", "decode", "logps", "values", "actor_step", "critic_step")
# The phases of a global step, and the programs of each.
PHASES = {
    "rollout": ("prefill", "decode"),
    "old log-probs": ("logps",),
    "reference log-probs": ("reference_logps",),
    "values": ("values",),
    "actor step": ("actor_step",),
    "critic step": ("critic_step",),
}


def of(recipe: recipe_lib.Recipe) -> tuple[str, ...]:
    """Names the programs of a recipe: six, and the reference's if it has a KL penalty."""
    return PROGRAMS[:3] + (("reference_logps",) if recipe.ppo.beta > 0 else ()) + PROGRAMS[3:]


def group(recipe: recipe_lib.Recipe, mends: Collection[str]) -> int:
    """Sequences that are generated and valued together, before micro-batches."""
    if "whitening-group" in mends:
        whole = "mini-batch-off-policy" in mends
        return recipe.batching.batch if whole else recipe.batching.mini_batch
    return max(accounting.whitening_groups(recipe.batching))


def rows(recipe: recipe_lib.Recipe, program: str, mends: Collection[str]) -> int:
    """Gives the sequences in one call of a program.

    Args:
      recipe: The batch sizes.
      program: Its name.
      mends: Ids of the mends of Tunix: unmended, values are computed for the
        whole group at once.

    Returns:
      Sequences.
    """
    batching, whole = recipe.batching, group(recipe, mends)
    if program in ("actor_step", "critic_step"):
        return batching.train_micro_batch
    if program in ("prefill", "decode"):
        return min(batching.rollout_micro_batch, whole)
    if program == "values" and "values-not-micro-batched" not in mends:
        return whole
    return min(batching.logps_micro_batch, whole)


def check(names: Collection[str]) -> None:
    """Refuses names that are no programs.

    Args:
      names: As on the command line.

    Raises:
      HarnessError: One is unknown; the message lists all.
    """
    for name in names:
        if name not in PROGRAMS:
            raise errors.HarnessError(f"unknown program '{name}': use one of {', '.join(PROGRAMS)}")
