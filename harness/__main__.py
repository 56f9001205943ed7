"""`python -m harness`."""

from harness.cli import command

command()
