"""The command `report`."""

import pathlib

import click

from harness.cli import options
from harness.files import write_whole

_SKIPPED = 5


@click.command()
@click.argument("results", nargs=-1, required=True, metavar="DIR...", type=options.PATH)
@click.option("--out", required=True, metavar="F.html", type=options.PATH, help="Page.")
def report(results: tuple[pathlib.Path, ...], out: pathlib.Path) -> int:
    """Make one page of results: folders, or files of run, check, plan, gate and benchmarks."""
    from harness import report as report_lib

    page, sources = report_lib.make(results)
    write_whole(out, page)
    for each in sources.used:
        click.echo(f"{each.name}: {each.path}")
    for each in sources.skipped[:_SKIPPED]:
        click.echo(f"skipped {each.path}: {each.why}")
    if len(sources.skipped) > _SKIPPED:
        click.echo(f"skipped {len(sources.skipped) - _SKIPPED} more, which the page lists")
    click.echo(f"written: {out}")
    return 0
