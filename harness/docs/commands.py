"""The page of the commands and their options, read from the command line itself."""

import inspect

import click

from harness import cli
from harness.docs import markdown


def page() -> str:
    """Return the page: what each command does, and its options."""
    group: click.Group = cli.cli
    context = click.Context(group, info_name="python -m harness", **group.context_settings)
    blocks = [
        "`python -m harness COMMAND`, or `ppo-harness COMMAND`. How a command ends is described in "
        "[Commands and exit codes](../commands.md)."
    ]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None and not command.hidden:
            blocks += _command(click.Context(command, info_name=name, parent=context))
    return markdown.page("Command reference", *blocks)


def _command(context: click.Context) -> list[str]:
    command = context.command
    usage = " ".join(command.collect_usage_pieces(context))
    records = [each.get_help_record(context) for each in command.get_params(context)]
    lines = [[markdown.code(names), text] for names, text in filter(None, records)]
    return [
        f"## {context.info_name}",
        f"`python -m harness {context.info_name} {usage}`",
        inspect.cleandoc(command.help or ""),
        markdown.table(("option", "what it does"), lines),
    ]
