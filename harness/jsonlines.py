"""Two processes that talk in JSON lines: one value a line, each way, in turn.

The one that was started takes its standard output for the answers alone
(`own_stdout`) and writes each with `write`; the other one is a `Child` of it.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TextIO


def own_stdout() -> TextIO:
    """Return the standard output for answers alone; what libraries print goes to the errors."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def write(stream: TextIO, value: Any) -> None:
    """Write one value and flush.

    Args:
      stream: A text file.
      value: Plain JSON values.
    """
    stream.write(json.dumps(value) + "\n")
    stream.flush()


class Ended(Exception):
    """A process ended, or was ended, instead of answering.

    Attributes:
      code: Its exit code, negative for a signal.
      output: What it wrote to the standard error.
      silent: Whether it was ended because it did not answer in time.
    """

    def __init__(self, code: int, output: str, *, silent: bool):
        """Take the process's end."""
        super().__init__(f"exit code {code}")
        self.code, self.output, self.silent = code, output, silent


class Child:
    """A process that answers in JSON lines; `close` it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: pathlib.Path | None = None,
    ):
        """Start it.

        Args:
          command: Program and arguments.
          env: Its whole environment.
          cwd: Its folder; this process's if None.

        Raises:
          OSError: It cannot be started.
        """
        # It lives as long as the process, whose errors it takes.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ask(self, value: Any, *, timeout: float | None = None) -> Any:
        """Send a value and wait for the answer.

        Args:
          value: Plain JSON values.
          timeout: As for `receive`.

        Returns:
          The answer.

        Raises:
          Ended: There is none.
        """
        # A reader that is gone shows again where the answer is missing.
        with contextlib.suppress(OSError):
            write(self._process.stdin, value)  # type: ignore[arg-type]
        return self.receive(timeout=timeout)

    def receive(self, *, timeout: float | None = None) -> Any:
        """Wait for an answer.

        Args:
          timeout: Seconds after which the process is killed; None waits for ever.

        Returns:
          The answer.

        Raises:
          Ended: There is none.
        """
        silent = threading.Event()

        def kill() -> None:
            silent.set()
            self._process.kill()

        timer = threading.Timer(timeout, kill) if timeout is not None else None
        if timer is not None:
            timer.start()
        try:
            line = self._process.stdout.readline()  # type: ignore[union-attr]
        finally:
            if timer is not None:
                timer.cancel()
        if not line:
            raise self._ended(silent.is_set())
        return json.loads(line)

    def close(self, *, grace: float = 0.0) -> None:
        """End the process, which may have ended before, and close its files.

        Args:
          grace: Seconds that it has to end by itself once nothing more is sent.
        """
        process = self._process
        with contextlib.suppress(OSError):
            process.stdin.close()  # type: ignore[union-attr]
        try:
            process.wait(timeout=grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()  # type: ignore[union-attr]
        self._errors.close()

    def _ended(self, silent: bool) -> Ended:
        code = self._process.wait()
        self._errors.flush()
        self._errors.seek(0)
        return Ended(code, self._errors.read(), silent=silent)
