"""The command `recipe`."""

from typing import Any

import click

from harness import recipe as recipe_lib
from harness.cli import options


@click.command()
@options.of_recipe
def recipe(**recipe_options: Any) -> None:
    """Print a recipe as TOML, ready to be edited and used with --recipe."""
    click.echo(recipe_lib.to_toml(options.load_recipe(**recipe_options)), nl=False)
