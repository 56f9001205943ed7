"""The command `check`."""

import pathlib
import warnings
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from harness.cli import common, options, render
from harness.files import write_whole


@click.command()
@click.option("--only", multiple=True, metavar="ID", help="One property; may be repeated.")
@options.upstream("Fix known issues of the installed Tunix, or leave it as it is.")
@options.fixes
@click.option("--slow", is_flag=True, help="Look also at properties that take minutes.")
@click.option("--reproduce", is_flag=True, help="Run each known issue's own script too.")
@click.option("--explain", metavar="ID", help="Print a property, or a known issue with its script.")
@click.option(
    "--tolerances",
    metavar="F.md",
    type=options.PATH,
    help="Measure noise and the smallest wrong of each tolerance, write the table, do no more.",
)
@options.json_file
def check(
    only: tuple[str, ...],
    mode: Any,
    fixes: str,
    slow: bool,
    reproduce: bool,
    explain: str | None,
    tolerances: pathlib.Path | None,
    json_file: pathlib.Path | None,
) -> int:
    """Hold the installed Tunix to every property, and name the known issues."""
    common.quiet_libraries()
    warnings.simplefilter("ignore")  # upstream's own, at every step
    if slow:
        import jax

        # For meshes; set before JAX looks for devices.
        jax.config.update("jax_num_cpu_devices", 8)
    from harness.checks import runner

    if explain is not None:
        click.echo(runner.explain(explain))
        return 0
    console = Console()
    if tolerances is not None:
        with console.status("measuring tolerances"):
            write_whole(tolerances, runner.tolerances(mode))
        render.line(console, f"written: {tolerances}")
        return 0
    with console.status("recording a training run") as status:
        report = runner.check(
            mode,
            fixes=fixes,
            only=only,
            slow=slow,
            reproduce=reproduce,
            progress=lambda what: status.update(escape(what)),
        )
    common.write_json(json_file, report.to_dict())
    render.conformance(console, report, mode)
    return 0 if report.ok else 1
