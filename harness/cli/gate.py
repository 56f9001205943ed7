"""The command `gate`."""

import pathlib
from typing import Any

import click

from harness.cli import common, options
from harness.files import write_whole


@click.command()
@click.argument("files", nargs=-1, metavar="[BASELINE.json CANDIDATE.json]")
@click.option("--against", metavar="REF", help="Measure against a git reference, or tunix==X.")
@click.option(
    "--tier",
    "tiers",
    multiple=True,
    type=click.Choice(["exact", "time"]),
    help="Tier of --against; may be repeated; both if none is named.",
)
@click.option(
    "--learning",
    multiple=True,
    metavar="DIR",
    type=options.PATH,
    help="A run's folder to compare with the stored reference runs; one per seed.",
)
@click.option("--preset", default="tiny", show_default=True, help="Whose shapes are measured.")
@options.assignment
@options.upstream(
    "Fix Tunix or not [default: stock against another Tunix, else patched].", default=None
)
@click.option("--core", type=int, metavar="N", help="Core to which both arms are pinned.")
@click.option("--rounds", type=click.IntRange(3), default=9, show_default=True)
@click.option("--dirty", is_flag=True, help="Judge changes that are not committed too.")
@click.option("--update-baseline", is_flag=True, help="Take what was measured as the baseline.")
@click.option("--reason", default="", metavar="WHY", help="Why the baseline is changed; saved.")
@click.option(
    "--baselines",
    metavar="DIR",
    type=options.PATH,
    help="Where baselines live [default: baselines/ of the checkout].",
)
@options.json_file
@click.option("--markdown", metavar="F", type=options.PATH)
def gate(
    files: tuple[str, ...],
    json_file: pathlib.Path | None,
    markdown: pathlib.Path | None,
    **asked: Any,
) -> int:
    """Did it get worse? Compare figures, times and learning with a baseline.

    Without arguments the exact figures of this checkout are compared with the stored
    baseline. Exit code 0 for PASS, 1 for FAIL, 2 for INCONCLUSIVE and NOT
    COMPARABLE.
    """
    from harness import cache
    from harness.gate import command

    given = command.Request(
        [pathlib.Path(each) for each in files], environments=cache.cache_root() / "arms", **asked
    )
    report = command.run(given, progress=lambda what: click.echo(what, err=True))
    text = report.to_markdown()
    click.echo(text, nl=False)
    if markdown is not None:
        write_whole(markdown, text)
    common.write_json(json_file, report.to_dict())
    return report.exit_code
