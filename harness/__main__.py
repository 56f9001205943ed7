"""`python -m harness`, and the command `ppo-harness`."""

from harness import crash


def command() -> None:
    """Run the command line; the loading of what it needs is part of it."""
    try:
        crash.end(_run)
    finally:
        crash.quiet_end()


def _run() -> int:
    from harness import cli

    return cli.run_command()


if __name__ == "__main__":
    command()
