"""The group of all commands, and how it is run."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import click

from harness import crash
from harness.cli import (
    account,
    check,
    doctor,
    e2e,
    gate,
    make_log_probs,
    make_tokenizer,
    plan,
    recipe,
    rehearse,
    report,
    run,
)
from harness.errors import HarnessError


class _Commands(click.Group):
    """Commands that leave it to `harness.crash` how a broken pipe ends."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise crash.BrokenPipe(error) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tunix-ppo-harness")
def cli() -> None:
    """Tunix PPO on GSM8K: is it right, does it learn, will it fit, did it get worse?"""


for _command in (
    account.account,
    check.check,
    doctor.doctor,
    e2e.e2e,
    gate.gate,
    make_log_probs.make_log_probs,
    make_tokenizer.make_tokenizer,
    plan.plan,
    recipe.recipe,
    rehearse.rehearse,
    report.report,
    run.run,
):
    cli.add_command(_command)


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
      argv: Arguments after the program's name; those of the process if None.
    """
    crash.end(lambda: run_command(argv))


def run_command(argv: list[str] | None = None) -> int:
    """Run the command line.

    Args:
      argv: Arguments after the program's name; those of the process if None.

    Returns:
      The exit code.

    Raises:
      HarnessError: What was asked cannot be done.
    """
    try:
        with _without_tracebacks_of_threads():
            return cli.main(args=argv, prog_name="ppo-harness", standalone_mode=False) or 0
    except click.ClickException as error:
        raise HarnessError(error.format_message()) from None
    except click.Abort:
        raise KeyboardInterrupt from None


@contextlib.contextmanager
def _without_tracebacks_of_threads() -> Iterator[None]:
    """Hold back what writing threads die of: it reaches us too, and is reported in one line."""

    def has_no_traceback(record: logging.LogRecord) -> bool:
        return record.exc_info is None

    def not_of_callbacks(found: Any) -> None:
        # TensorStore calls back to what has gone.
        if str(found.exc_value) != "Event loop is closed":
            hook(found)

    loggers, hook = [logging.getLogger(name) for name in ("absl", "asyncio")], sys.unraisablehook
    sys.unraisablehook = not_of_callbacks
    for logger in loggers:
        logger.addFilter(has_no_traceback)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(has_no_traceback)
