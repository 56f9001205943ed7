"""Which programs a recipe runs, and for how many sequences at once."""

from collections.abc import Collection

from harness import errors, hardware, programs
from harness import recipe as recipe_lib
from harness.programs import Program


def of(recipe: recipe_lib.Recipe) -> tuple[Program, ...]:
    """Return the programs of a recipe: six, and the reference's if it has a KL penalty."""
    return tuple(Program) if recipe.ppo.beta > 0 else programs.ALWAYS


def group(recipe: recipe_lib.Recipe, fixes: Collection[str]) -> int:
    """Return the sequences that are generated and valued together, before micro-batches."""
    if "whitening-group" in fixes:
        whole = "mini-batch-off-policy" in fixes
        return recipe.batching.rollout_batch_size if whole else recipe.batching.mini_batch_size
    return max(recipe_lib.whitening_groups(recipe.batching))


def sequences(recipe: recipe_lib.Recipe, program: str, fixes: Collection[str]) -> int:
    """Return the sequences in one call of a program.

    Args:
      recipe: The batch sizes.
      program: Its name.
      fixes: Ids of the fixes of Tunix: without one of them, values are computed
        for the whole group at once.
    """
    size = getattr(recipe.batching, programs.setting_of(program))
    if program in programs.TRAIN:
        return size
    whole = group(recipe, fixes)
    if program == Program.VALUES and "values-not-micro-batched" not in fixes:
        return whole
    return min(size, whole)


def check(names: Collection[str]) -> None:
    """Refuse names that are no programs.

    Args:
      names: As on the command line.

    Raises:
      HarnessError: One is unknown; the message lists all.
    """
    known = programs.ALWAYS
    for name in names:
        if name not in known:
            raise errors.HarnessError(f"unknown program '{name}': use one of {', '.join(known)}")


def check_mesh(slice_: hardware.Slice, sharding: recipe_lib.Sharding) -> None:
    """Refuse a mesh that does not lie over all chips of a slice.

    Args:
      slice_: The slice.
      sharding: Sizes of the mesh.

    Raises:
      HarnessError: Their product is not the number of chips.
    """
    if sharding.fsdp * sharding.tp != slice_.count:
        raise errors.HarnessError(
            f"the mesh of fsdp {sharding.fsdp} x tp {sharding.tp} does not divide the "
            f"{slice_.count} chip(s) of {slice_.name}: set sharding.fsdp and sharding.tp so that "
            f"their product is {slice_.count}"
        )
