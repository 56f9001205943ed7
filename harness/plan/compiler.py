"""Asks the compiler: from the store, or from processes that compile."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import psutil

from harness import errors
from harness.plan import chips, store, worker

# A compilation of the 1B model peaks below 5 GiB; a worker that has grown past
# this is replaced before its next job.
_GROWN = 4 * 2**30
_ROOM = 5 * 2**30


def workers_that_fit(cores: int, available: int) -> int:
    """Tells how many compilers run side by side: one a core, two at most, by memory.

    Args:
      cores: Of this machine.
      available: Bytes of memory that are free.

    Returns:
      At least 1.
    """
    return max(1, min(2, cores, available // _ROOM))


class Compiler:
    """Answers jobs, from the store where it can; to be used as a context."""

    def __init__(
        self,
        place: chips.Slice,
        kept: store.Store,
        *,
        workers: int | None = None,
        progress: Callable[[str], None] = lambda text: None,
    ):
        """Prepares; no process is started before it is needed.

        Args:
          place: The chips to compile for.
          kept: Where answers are looked up and kept.
          workers: Processes at most; as many as fit if none.
          progress: Told what is being done, a line at a time.

        Raises:
          HarnessError: The compiler is not installed.
        """
        if store.versions()["libtpu"] is None:
            raise errors.HarnessError(
                "the TPU compiler is not installed: pip install 'tunix-ppo-harness[tpu-compiler]'"
            )
        self.place = place
        self.workers = workers or workers_that_fit(
            os.cpu_count() or 1, psutil.virtual_memory().available
        )
        self.host_bytes = 0
        self._kept = kept
        self._progress = progress
        self._free: queue.Queue[_Process | None] = queue.Queue()
        for _ in range(self.workers):
            self._free.put(None)
        self._started: list[_Process] = []
        self._lock = threading.Lock()

    def __enter__(self) -> "Compiler":
        """Begins."""
        return self

    def __exit__(self, *error: object) -> None:
        """Ends every process."""
        for process in self._started:
            process.end()

    def ask(self, job: store.Job) -> tuple[dict[str, Any], bool]:
        """Answers a job; safe to call from several threads.

        Args:
          job: The question.

        Returns:
          The answer, and whether it was kept from before.

        Raises:
          HarnessError: The compiler failed for a reason other than memory.
          CrashedElsewhere: What builds the program failed.
        """
        known = self._kept.get(job)
        if known is not None:
            return known, True
        process = self._free.get()
        try:
            if process is None or process.grown:
                if process is not None:
                    process.end()
                process = _Process(self.place)
                with self._lock:
                    self._started.append(process)
            self._progress(f"compiling {job.program} for {job.rows} sequence(s)")
            answer = process.answer(job)
        except BaseException:
            if process is not None:
                process.end()
            process = None
            raise
        finally:
            self._free.put(process)
        self._kept.put(job, answer)
        if answer.get("compile_seconds"):
            self._progress(
                f"{'refused' if answer['refused'] else 'compiled'} {job.program} for {job.rows} "
                f"sequence(s) in {answer['compile_seconds']:.0f} s"
            )
        with self._lock:
            self.host_bytes = max(self.host_bytes, answer.get("host_bytes", 0))
        return answer, False

    def figures(self, job: store.Job) -> tuple[store.Figures, bool]:
        """Answers a job about a program; see `ask`."""
        answer, cached = self.ask(job)
        return store.Figures.from_dict(answer), cached


class _Process:
    """A worker process."""

    def __init__(self, place: chips.Slice):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.grown = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.plan.worker", place.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **worker.surroundings(place)},
        )

    def answer(self, job: store.Job) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(job.to_dict()) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        name = f"{job.program} for {job.rows} sequence(s) on {job.place}"
        if not line:
            code = self._process.wait()
            raise errors.HarnessError(
                f"the compiler's process ended (code {code}) at {name}, "
                f"{self._last_words() or 'without a word'}: if memory ran out, close other programs"
            )
        said = json.loads(line)
        if "crash" in said:
            raise errors.CrashedElsewhere(f"at {name}: {said['crash']}", said["traceback"])
        if "error" in said:
            raise errors.HarnessError(f"{name} cannot be compiled: {said['error'][:500]}")
        self.grown = said["answer"].get("host_bytes", 0) > _GROWN
        return said["answer"]

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream:
                    stream.close()
        self._errors.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return f"saying '{lines[-1][:200]}'" if lines else ""
