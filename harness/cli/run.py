"""The command `run`."""

import pathlib
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from harness import downloads
from harness import recipe as recipe_lib
from harness.cli import common, options, render


@click.command()
@options.of_recipe
@options.upstream("Fix known issues of the installed Tunix, or leave it as it is.")
@options.fixes
@options.out
@click.option(
    "--require-gain",
    is_flag=True,
    help="Exit with 1 unless the accuracy after PPO is above the interval before it.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the run in --out; the other options may then be left out.",
)
@click.option(
    "--continue-on-nan",
    is_flag=True,
    help="Report losses, rewards and gradients that are not finite, and go on.",
)
@options.log_probs
@options.force
def run(
    mode: Any,
    fixes: str,
    out: pathlib.Path,
    require_gain: bool,
    resume: bool,
    continue_on_nan: bool,
    log_probs: pathlib.Path | None,
    force: bool,
    **recipe_options: Any,
) -> int:
    """Run the recipe: evaluate, train by PPO, restore, evaluate again.

    On SIGTERM the batch in hand is finished, a checkpoint is saved, and the
    exit code is 143; a second one ends the run at once.
    """
    recipe, mode, fixes = _recipe_of_run(mode, fixes, out, resume, recipe_options)
    if not (resume and (out / "result.json").exists()):
        downloads.check(recipe)
    common.quiet_libraries()
    from harness import footprint

    if not force:
        footprint.check(recipe, footprint.capacity(recipe))
    from harness import training

    console = Console()
    with common.until_terminated(out, at_once=mode == "stock") as stop:
        result = training.run(
            recipe,
            out,
            mode=mode,
            fixes=fixes,
            console=console,
            resume=resume,
            stop=stop,
            continue_on_nan=continue_on_nan,
            log_probs=log_probs,
        )
    render.result(console, recipe, mode, result, out)
    return int(require_gain and not result.gained)


def _recipe_of_run(
    mode: Any, fixes: str, out: pathlib.Path, resume: bool, recipe_options: dict[str, Any]
) -> tuple[recipe_lib.Recipe, Any, str]:
    """Return recipe, mode and fixes, of the run in `out` if it goes on and none were asked for."""
    if not resume:
        return options.load_recipe(**recipe_options), mode, fixes
    from harness.training import run_dir

    found = run_dir.identity_of(out)
    if found is None:
        return options.load_recipe(**recipe_options), mode, fixes
    context = click.get_current_context()

    def is_set(name: str) -> bool:
        return context.get_parameter_source(name) is not ParameterSource.DEFAULT

    recipe = found.recipe
    if any(is_set(name) for name in recipe_options):
        recipe = options.load_recipe(**recipe_options)
    return (
        recipe,
        mode if is_set("mode") else found.mode,
        fixes if is_set("fixes") else found.fixes,
    )
