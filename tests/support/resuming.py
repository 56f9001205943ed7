"""What tests of resuming share."""

import dataclasses
import errno
import os
import pathlib
from collections.abc import Callable

import pytest

from harness.training import run_dir
from tests.support.cli import call


def refuse_to_write(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def whose(out: pathlib.Path) -> run_dir.Identity:
    found = run_dir.identity_of(out)
    assert found is not None
    return found


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """Return the sentence with which a command is refused, by the exit code 2 and no other word."""
    code, _, err = call(capsys, *arguments)
    (line,) = err.splitlines()
    assert (code, line[:7]) == (2, "error: ")
    return line[7:]


def nan_at_the_third(prompts, completions, **columns):
    """A reward that fails on one completion."""
    del columns
    scores = [1.0] * len(completions)
    scores[2] = float("nan")
    return scores


class Killed(BaseException):
    """Ends a run where it stands, as a signal would: nothing in the harness takes it."""


def at(
    patch: pytest.MonkeyPatch, phase: str, global_step: int | None, act: Callable[[], object]
) -> None:
    """Act when the next run reports that it begins a phase."""
    now = run_dir.RunDirectory.now

    def saying(self: run_dir.RunDirectory, what: str, **details) -> None:
        now(self, what, **details)
        if (what, details.get("global_step")) == (phase, global_step):
            act()

    patch.setattr(run_dir.RunDirectory, "now", saying)


@dataclasses.dataclass
class Recorded:
    """Figures as a cluster would log them."""

    figures: list

    def __len__(self):
        return len(self.figures)

    def since(self, count):
        return self.figures[count:]
