"""The command `account`."""

import dataclasses
import pathlib
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from harness import recipe as recipe_lib
from harness.cli import common, options, render


@click.command()
@options.of_recipe
@options.json_file
def account(json_file: pathlib.Path | None, **recipe_options: Any) -> None:
    """Print what a recipe will do, by arithmetic alone, and warn of what one may not expect."""
    from harness import prompt_preview

    recipe = options.load_recipe(**recipe_options)
    found = recipe_lib.summarize(recipe)
    prompt = prompt_preview.preview(recipe)
    tree = {**found.to_dict(), "prompt": dataclasses.asdict(prompt)}
    common.write_json(json_file, tree)
    console = Console()
    console.print(render.account(tree))
    note = "" if prompt.status == "ok" else f" ({prompt.status})"
    console.print(f"[bold]First prompt[/bold]{note}: {escape(prompt.text)}", soft_wrap=True)
    if found.warnings:
        console.print("[bold]Warnings[/bold]")
    for warning in found.warnings:
        console.print(f"  [bold]{warning.id}[/bold]: {escape(warning.text)}")
