"""The command `e2e`."""

import pathlib
from typing import Any

import click
from rich.console import Console

from harness import downloads
from harness.cli import common, options, render


@click.command()
@options.of_recipe
@click.option(
    "--device",
    type=click.Choice(["tpu", "gpu"]),
    default="tpu",
    show_default=True,
    help="What the machine must have; a GPU takes bfloat16.",
)
@click.option(
    "--max-batches",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train on and evaluate at most N batches: a smoke run.",
)
@options.out
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@options.log_probs
@options.force
def e2e(
    device: str,
    max_batches: int | None,
    out: pathlib.Path,
    resume: bool,
    log_probs: pathlib.Path | None,
    force: bool,
    **recipe_options: Any,
) -> int:
    """Run the recipe on a chip, and hold every figure to what it should be."""
    common.quiet_libraries()
    from harness import doctor

    doctor.require(device)
    from harness import e2e as e2e_lib
    from harness import training

    recipe = e2e_lib.recipe_for(options.load_recipe(**recipe_options), device, max_batches)
    if not (resume and (out / "result.json").exists()):
        downloads.check(recipe)
    console = Console()
    console.print(render.checks(e2e_lib.examine(recipe, force=force)))
    chip = e2e_lib.chip()
    planned = e2e_lib.plan(recipe, chip, "patched") if chip else None
    console.print(
        f"planned for {chip}: it fits" if planned else "not planned: no `plan` for this chip here"
    )
    with common.until_terminated(out, at_once=False) as stop:
        result = training.run(
            recipe, out, console=console, resume=resume, stop=stop, log_probs=log_probs
        )
    render.result(console, recipe, "patched", result, out)
    figures = e2e_lib.figures(result, planned)
    console.print(render.figures(figures))
    return int(any(each.holds is False for each in figures))
