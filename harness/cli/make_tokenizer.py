"""The command `make-tokenizer`."""

import pathlib

import click

from harness.cli import options


@click.command("make-tokenizer")
@click.argument("path", type=options.PATH)
@click.option("--vocab-size", default=512, show_default=True)
def make_tokenizer(path: pathlib.Path, vocab_size: int) -> None:
    """Train the small tokenizer of the tiny preset and write it to PATH."""
    from harness import tokenizer

    tokenizer.train(path, vocab_size)
    click.echo(f"written: {path}")
