"""Options that several commands have, and the recipe that they make up."""

import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import click

from harness import recipe as recipe_lib

_Command = TypeVar("_Command", bound=Callable[..., Any])
PATH = click.Path(path_type=pathlib.Path)

json_file = click.option("--json", "json_file", metavar="F", type=PATH)
out = click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=PATH,
    help="Folder for everything that the run writes; new or empty.",
)
log_probs = click.option(
    "--log-probs",
    metavar="F.json",
    type=PATH,
    help="Hold the loaded model to log-probs made by make-log-probs.",
)
force = click.option(
    "--force",
    is_flag=True,
    help="Go on where the recipe needs more memory than there is.",
)
assignment = click.option(
    "--set", "assignments", multiple=True, metavar="A.B=V", help="One field changed."
)
fixes = click.option(
    "--fixes",
    default="all",
    show_default=True,
    metavar="WHICH",
    help="Which known issues are fixed: all, none, all,-ID,-ID or ID,ID.",
)


def upstream(
    description: str, *, default: str | None = "patched"
) -> Callable[[_Command], _Command]:
    """Return the option `--upstream`.

    Args:
      description: Its help.
      default: Its default, which the help shows; None for a default that the
        command chooses.
    """
    return click.option(
        "--upstream",
        "mode",
        type=click.Choice(["patched", "stock"]),
        default=default,
        show_default=default is not None,
        help=description,
    )


def of_recipe(command: _Command) -> _Command:
    """Add the options that make up a recipe, for `load_recipe`."""
    for option in reversed(
        (
            click.option(
                "--preset",
                default="tiny",
                show_default=True,
                help=f"One of {', '.join(sorted(recipe_lib.PRESETS))}.",
            ),
            click.option("--recipe", "toml", metavar="F.toml", help="TOML laid over the preset."),
            click.option(
                "--set",
                "assignments",
                multiple=True,
                metavar="A.B=V",
                help="One field, such as batching.train_micro_batch_size=4; may be repeated.",
            ),
            click.option(
                "--data",
                "source",
                metavar="SOURCE",
                help="arithmetic, tfds, tfds:DIR or jsonl:DIR.",
            ),
            click.option(
                "--checkpoint",
                metavar="PATH",
                help="Orbax folder of a Gemma 3, or kaggle:OWNER/MODEL/flax/VARIATION.",
            ),
            click.option("--seed", type=int, metavar="N", help="Seed of the run."),
        )
    ):
        command = option(command)
    return command


def load_recipe(
    preset: str,
    toml: str | None,
    assignments: tuple[str, ...],
    source: str | None,
    checkpoint: str | None,
    seed: int | None,
) -> recipe_lib.Recipe:
    """Return the recipe that the options of `of_recipe` make up.

    Args:
      preset: Name of the preset.
      toml: File laid over it.
      assignments: Fields, `a.b=value`, laid over both.
      source: Where the data is from.
      checkpoint: Where the weights are from.
      seed: Seed of the run.

    Raises:
      HarnessError: A name or a value is not allowed.
    """
    overrides: dict[str, Any] = {}
    if checkpoint is not None:
        overrides["model"] = {"weights": "checkpoint", "checkpoint": checkpoint}
    if seed is not None:
        overrides["seed"] = seed
    return recipe_lib.load(
        preset, toml=toml, assignments=assignments, source=source, overrides=overrides
    )
