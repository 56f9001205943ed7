"""The command `make-log-probs`."""

import pathlib
from typing import Any

import click

from harness import downloads
from harness import recipe as recipe_lib
from harness.cli import common, options


@click.command("make-log-probs")
@options.of_recipe
@click.argument("path", type=options.PATH)
def make_log_probs(path: pathlib.Path, **recipe_options: Any) -> None:
    """Write the model's log-probs of a fixed prompt to PATH, to hold later loads to."""
    recipe = options.load_recipe(**recipe_options)
    downloads.check(recipe_lib.replace(recipe, "data.source=arithmetic"))  # weights alone
    common.quiet_libraries()
    from harness import models, tokenizer
    from harness.models import kaggle, probe

    def report(line: str) -> None:
        click.echo(line, err=True)

    recipe = kaggle.local(recipe, report)
    mesh = models.make_mesh(recipe.sharding)
    policy = models.make_policy(recipe, mesh, report)
    probe.write(probe.log_probs(policy, tokenizer.load(recipe), mesh), path)
    click.echo(f"written: {path}")
