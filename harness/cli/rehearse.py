"""The command `rehearse`."""

import os
import pathlib

import click
from rich.console import Console
from rich.markup import escape

from harness.cli import common, options, render


@click.command()
@options.assignment
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=options.PATH,
    help="Folder for checkpoint and run; new or empty. At the real size it takes 15 GB.",
)
@click.option(
    "--max-gib",
    type=click.FloatRange(min=0, min_open=True),
    default=16.0,
    show_default=True,
    help="Host memory at which the process is ended.",
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=15.0,
    show_default=True,
    help="Exit with 1 if it took longer.",
)
@options.json_file
def rehearse(
    assignments: tuple[str, ...],
    out: pathlib.Path,
    max_gib: float,
    max_minutes: float,
    json_file: pathlib.Path | None,
) -> int:
    """Run the path of e2e on random weights of the real size, on the CPU.

    Writes a Gemma 3 1B checkpoint, loads it, evaluates, trains both models on short sequences
    in bfloat16, saves, restores and evaluates again; prints seconds and bytes of each part.
    """
    # Nothing here is for an accelerator: one that happens to be in this machine is left alone.
    os.environ["JAX_PLATFORMS"] = "cpu"
    common.quiet_libraries()
    from harness import rehearse as rehearse_lib

    console = Console()
    limits = rehearse_lib.Limits(bytes=int(max_gib * 2**30), seconds=60 * max_minutes)
    found = rehearse_lib.run(out, assignments=assignments, limits=limits, console=console)
    common.write_json(json_file, found.to_dict())
    console.print(render.rehearsal(found))
    for sentence in found.wrong:
        console.print(f"[bold]wrong[/bold]: {escape(sentence)}", soft_wrap=True)
    console.print(
        f"{found.seconds:.0f} seconds, peak resident set {found.peak_bytes / 2**30:.2f} GiB; "
        f"checkpoint {found.checkpoint_bytes / 1e9:.2f} GB, saved by training "
        f"{found.saved_bytes / 1e9:.2f} GB"
    )
    return int(bool(found.wrong))
