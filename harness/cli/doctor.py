"""The command `doctor`."""

import pathlib
from typing import Any

import click
from rich.console import Console

from harness.cli import common, options, render


@click.command()
@options.of_recipe
@options.json_file
def doctor(json_file: pathlib.Path | None, **recipe_options: Any) -> int:
    """Print what is here: versions, devices, memory, credentials, data, known issues."""
    recipe = options.load_recipe(**recipe_options)
    common.quiet_libraries()
    from harness import doctor as doctor_lib
    from harness import upstream

    present = upstream.present()
    issues = [
        doctor_lib.Check(
            f"defect {defect.id}",
            "warn" if defect.id in present else "ok",
            f"{defect.title} Fixed by default: {defect.fix}"
            if defect.id in present
            else "not in this Tunix: its fix can go",
        )
        for defect in upstream.KNOWN_ISSUES
        if defect.probe
    ]
    report = doctor_lib.examine(recipe, defects=issues)
    common.write_json(json_file, report.to_dict())
    Console().print(render.checks(report))
    return 0 if report.ok else 1
