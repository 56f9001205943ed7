"""The command `plan`."""

import os
import pathlib
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from harness.cli import common, options, render
from harness.errors import HarnessError
from harness.files import write_whole


@click.command()
@options.of_recipe
@click.option("--chip", default="v6e-1", show_default=True, help="Slice that is planned for.")
@click.option("--program", "names", multiple=True, metavar="NAME", help="One; may be repeated.")
@click.option(
    "--micro-batch",
    "micro_batches",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="N",
    help="Sequences in one call instead of the recipe's; may be repeated.",
)
@click.option(
    "--sweep",
    is_flag=True,
    help="Find the largest micro-batches that fit, and better sizes; takes long.",
)
@click.option(
    "--recommend",
    "recommended",
    metavar="F.toml",
    type=options.PATH,
    help="Search the fastest settings that fit, and write them for run --recipe; takes long.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="NAME",
    help="A change of the algorithm that --recommend may make; may be repeated; or all.",
)
@click.option(
    "--certain",
    is_flag=True,
    help="With --recommend, compile what a line predicts not to fit, too.",
)
@options.upstream("Plan for Tunix as `run` fixes it, or as it is.")
@options.fixes
@click.option("--workers", type=click.IntRange(1, 8), help="Compilers side by side.")
@click.option(
    "--compiler-flags",
    default="",
    metavar="FLAGS",
    help="Flags for the TPU compiler; no variable of the environment reaches it.",
)
@options.json_file
def plan(
    chip: str,
    names: tuple[str, ...],
    micro_batches: tuple[int, ...],
    sweep: bool,
    recommended: pathlib.Path | None,
    allow: tuple[str, ...],
    certain: bool,
    mode: Any,
    fixes: str,
    workers: int | None,
    compiler_flags: str,
    json_file: pathlib.Path | None,
    **recipe_options: Any,
) -> int:
    """Compile the recipe for a TPU that is not here: HBM, largest sizes, bounds of time."""
    # Nothing runs here: a TPU that happens to be in this machine is left alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    recipe = options.load_recipe(**recipe_options)
    common.quiet_libraries()
    from harness import hardware
    from harness.plan import changes, compiler, planner, planning, recommend, shapes, store

    slice_ = hardware.find_slice(chip)
    shapes.check(names)
    _check_recommendation(recommended, allow, certain, names or micro_batches or sweep)
    changes.check(allow)
    if recommended is None:
        shapes.check_mesh(slice_, recipe.sharding)
    console, errors = Console(), Console(stderr=True)

    def progress(text: str) -> None:
        errors.print(escape(text), style="dim", soft_wrap=True)

    answers = store.Store(compiler_flags=compiler_flags)
    with compiler.Compiler(slice_, answers, workers=workers, progress=progress) as compiling:
        asking = planner.Planner(
            recipe, mode, compiling, fixes=fixes, any_mesh=recommended is not None
        )
        if recommended is not None:
            found = recommend.make(asking, allow=allow, certain=certain, progress=progress)
        else:
            found = planning.make(asking, names=names, micro_batches=micro_batches, sweep=sweep)
    found["compiler_flags"] = compiler_flags
    found["host"]["variables_not_passed_on"] = list(compiling.not_passed_on)
    common.write_json(json_file, found)
    if recommended is None:
        from harness.plan import table

        console.print(table.render(found))
    else:
        _recommendation(console, found, recommended)
    return 0 if found["fits"] else 1


def _recommendation(console: Console, found: dict[str, Any], file: pathlib.Path) -> None:
    """Print a recommendation and write its recipe, if something fits."""
    from harness.plan import advice

    console.print(advice.render(found))
    if found["fits"]:
        write_whole(file, advice.to_toml(found))
        render.line(console, f"written: {file}")


def _check_recommendation(
    recommended: pathlib.Path | None, allow: tuple[str, ...], certain: bool, others: Any
) -> None:
    """Refuse options that make no sense together, and a file that could not be written."""
    if recommended is None:
        if allow or certain:
            raise HarnessError("--allow and --certain belong to --recommend F.toml: add it")
        return
    if others:
        raise HarnessError(
            "--recommend searches all programs and sizes: leave out --program, --micro-batch "
            "and --sweep"
        )
    folder = recommended.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or recommended.is_dir():
        raise HarnessError(
            f"the recommendation cannot be written to {recommended}: name a file in a folder "
            "that exists and can be written"
        )
