"""What a recommendation may change of a recipe, and what each change does to the algorithm.

Sizes of micro-batches, rematerialisation and the mesh are always searched: they
change results by rounding alone, as long as Tunix's dependence of the loss and
of the whitening on them is fixed. Everything else is changed only where it is
allowed by name (`plan --recommend F.toml --allow NAME`).
"""

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from typing import Any

from harness import errors
from harness import recipe as recipe_lib

EVERYTHING = "all"
STOP_TOKENS = "stop-tokens"
END_OF_TURN = "<end_of_turn>"


@dataclasses.dataclass(frozen=True)
class Change:
    """A change that has to be allowed.

    Attributes:
      name: As on the command line.
      title: For a table.
      assignments: What is set in the recipe.
      effect: What it does to the algorithm.
      group: Of changes of one group one is made at most.
    """

    name: str
    title: str
    assignments: tuple[str, ...]
    effect: str
    group: str


# In the order of how little each changes.
CHANGES = (
    Change(
        "rollout-bfloat16",
        "bfloat16 for rollout only",
        ("rollout.dtype=bfloat16",),
        "completions are drawn from a bfloat16 copy of the policy, and trained on with the "
        "log-probs of the policy itself: the ratio's denominator is not quite the probability with "
        "which a token was drawn",
        "numbers",
    ),
    Change(
        "bfloat16-compute",
        "bfloat16 but for what is trained",
        ("model.dtype=bfloat16",),
        "activations and frozen weights are rounded to bfloat16; what is trained, its moments and "
        "sums stay float32",
        "numbers",
    ),
    Change(
        "lora-critic",
        "a critic by LoRA",
        tuple(
            f"critic.lora.{field.name}={getattr(recipe_lib.Lora(), field.name)!r}"
            for field in dataclasses.fields(recipe_lib.Lora)
        ),
        "the critic trains LoRA pairs and its head on the policy's frozen weights, not every "
        "weight of a copy: it fits values less closely, and its learning rate may want another "
        "value",
        "critic",
    ),
    Change(
        "bfloat16",
        "bfloat16 for everything",
        (
            "model.dtype=bfloat16",
            "precision.trained=bfloat16",
            "precision.moments=bfloat16",
            "precision.accumulators=bfloat16",
        ),
        "what is trained, its moments and sums are bfloat16 too: updates that are small beside a "
        "weight are lost, and second moments do not decay",
        "numbers",
    ),
)
NAMES = (STOP_TOKENS, *(each.name for each in CHANGES))


def check(names: Collection[str]) -> None:
    """Refuse names that cannot be allowed.

    Args:
      names: As on the command line.

    Raises:
      HarnessError: One is unknown; the message lists all.
    """
    for name in names:
        if name not in (*NAMES, EVERYTHING):
            raise errors.HarnessError(
                f"--allow {name} is not known: use one of {', '.join((*NAMES, EVERYTHING))}"
            )


def allowed(name: str, names: Collection[str]) -> bool:
    """Return whether a change is allowed."""
    return name in names or EVERYTHING in names


def combinations(recipe: recipe_lib.Recipe) -> list[tuple[Change, ...]]:
    """Return every combination of changes, the one that changes least first.

    Args:
      recipe: What is changed; a change that it holds already is left out.

    Returns:
      The empty combination, then each that takes at most one of a group.
    """
    real = [each for each in CHANGES if recipe_lib.replace(recipe, *each.assignments) != recipe]
    found = [
        chosen
        for count in range(len(real) + 1)
        for chosen in itertools.combinations(real, count)
        if len({each.group for each in chosen}) == len(chosen)
    ]
    return sorted(found, key=lambda chosen: [CHANGES.index(each) for each in reversed(chosen)])


def apply(recipe: recipe_lib.Recipe, chosen: Sequence[Change]) -> recipe_lib.Recipe:
    """Return the recipe with changes made."""
    assignments = [text for each in chosen for text in each.assignments]
    return recipe_lib.replace(recipe, *assignments) if assignments else recipe


def stops_at_end_of_turn(recipe: recipe_lib.Recipe) -> bool:
    """Return whether a completion ends where an instruction-tuned Gemma ends its turn."""
    return END_OF_TURN in recipe.rollout.stop_tokens


def with_stop_tokens(recipe: recipe_lib.Recipe) -> recipe_lib.Recipe:
    """Return the recipe with completions that end with the model's turn, too."""
    if stops_at_end_of_turn(recipe):
        return recipe
    pieces = [*recipe.rollout.stop_tokens, END_OF_TURN]
    tree = recipe_lib.to_dict(recipe)
    tree["rollout"]["stop_tokens"] = pieces
    return recipe_lib.from_dict(tree)


def assignments(before: recipe_lib.Recipe, after: recipe_lib.Recipe) -> list[str]:
    """Return what makes one recipe of another, as `group.field=value`."""
    return _assignments(recipe_lib.to_dict(before), recipe_lib.to_dict(after), "")


def _assignments(old: dict[str, Any], new: dict[str, Any], above: str) -> list[str]:
    found = []
    for name, value in new.items():
        was, path = old.get(name), f"{above}{name}"
        if isinstance(value, dict):
            found += _assignments(was if isinstance(was, dict) else {}, value, f"{path}.")
        elif name not in old or value != was:
            found.append(f"{path}={_text(value)}")
    return found


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return "[" + ", ".join(f'"{each}"' for each in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
