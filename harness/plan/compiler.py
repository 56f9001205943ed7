"""Ask the compiler: the store of its answers, or processes that compile."""

import os
import queue
import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

import psutil

from harness import errors, hardware, jsonlines
from harness.plan import store, worker

# A compilation of the 1B model peaks below 5 GiB; a worker that has grown past
# this is replaced before its next job.
_GROWN = 4 * 2**30
_ROOM = 5 * 2**30
_BAD_FLAG = re.compile(r"(?:Unknown|Illegal)[^\n]*\bflags?\b[^\n]*")


def workers_that_fit(cores: int, available: int) -> int:
    """Return how many compilers run side by side: one a core, two at most, by memory.

    Args:
      cores: Of this machine.
      available: Bytes of memory that are free.

    Returns:
      At least 1.
    """
    return max(1, min(2, cores, available // _ROOM))


class Answerer(Protocol):
    """What lowers programs and compiles them."""

    @property
    def grown(self) -> bool:
        """Whether it holds so much memory that another should take its place."""
        ...

    def lower(self, job: store.Job) -> dict[str, Any]:
        """Return `text`, or `answer` where there is no program; see `worker.Worker`."""
        ...

    def compile(self, job: store.Job) -> dict[str, Any]:
        """Return the figures of the job that was lowered last."""
        ...

    def end(self) -> None:
        """End it; it may have ended before."""
        ...


class Compiler:
    """Answers jobs, from the store where it can; to be used as a context."""

    def __init__(
        self,
        slice_: hardware.Slice,
        answers: store.Store,
        *,
        workers: int | None = None,
        progress: Callable[[str], None] = lambda text: None,
        start: "Callable[[], Answerer] | None" = None,
    ):
        """Prepare; no process is started before it is needed.

        Args:
          slice_: The chips to compile for.
          answers: Where answers are looked up and saved.
          workers: Processes at most; as many as fit if None.
          progress: Called with a line for each thing that is done.
          start: Returns what lowers and compiles; a process of its own if `None`.

        Raises:
          HarnessError: The compiler is not installed.
        """
        if store.versions()["libtpu"] is None:
            raise errors.HarnessError(
                "the TPU compiler is not installed: pip install 'tunix-ppo-harness[tpu-compiler]' "
                "(its wheel is for Linux on x86-64)"
            )
        self.slice = slice_
        self.workers = workers or workers_that_fit(
            os.cpu_count() or 1, psutil.virtual_memory().available
        )
        self.host_bytes = 0
        self.not_passed_on = worker.not_passed_on(slice_, os.environ)
        if self.not_passed_on:
            progress(
                f"not passed on to the TPU compiler: {', '.join(self.not_passed_on)} (flags for it "
                "are given with --compiler-flags)"
            )
        self._answers = answers
        self._start = start or (lambda: _Process(slice_, answers.compiler_flags))
        self._progress = progress
        self._free: queue.Queue[Answerer | None] = queue.Queue()
        for _ in range(self.workers):
            self._free.put(None)
        self._started: list[Answerer] = []
        self._outside: dict[str, str] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "Compiler":
        """Begin; until the end this process, too, is without the user's compiler variables."""
        # JAX's own CPU backend starts here for arithmetic, and an unknown flag ends it.
        for name in self.not_passed_on:
            if name in os.environ:
                self._outside[name] = os.environ.pop(name)
        return self

    def __exit__(self, *error: object) -> None:
        """End every process."""
        os.environ.update(self._outside)
        for process in self._started:
            process.end()

    def ask(self, job: store.Job) -> tuple[dict[str, Any], bool]:
        """Answer a job; safe to call from several threads.

        Args:
          job: The question.

        Returns:
          The answer, and whether it was saved before.

        Raises:
          HarnessError: The compiler failed for a reason other than memory.
          CrashedElsewhere: What builds the program failed.
        """
        known = self._answers.get(job)
        if known is not None:
            return known, True
        process = self._free.get()
        try:
            if process is None or process.grown:
                if process is not None:
                    process.end()
                process = self._start()
                with self._lock:
                    self._started.append(process)
            answer, cached = self._answer(process, job)
        except BaseException:
            if process is not None:
                process.end()
            process = None
            raise
        finally:
            self._free.put(process)
        with self._lock:
            self.host_bytes = max(self.host_bytes, answer.get("host_bytes", 0))
        return answer, cached

    def _answer(self, process: "Answerer", job: store.Job) -> tuple[dict[str, Any], bool]:
        """Answer what the sources as they are were not asked; see `ask`."""
        lowered = process.lower(job)
        if "text" not in lowered:
            self._answers.put(job, lowered["answer"])
            return lowered["answer"], False
        text = lowered["text"]
        known = self._answers.get_program(job.slice, text)
        if known is not None:
            # Sources were edited, and the program is the same.
            self._answers.put(job, known, text)
            return known, True
        name = f"{job.program} for {job.sequences} sequence(s)"
        self._progress(f"compiling {name}")
        answer = process.compile(job)
        self._answers.put(job, answer, text)
        self._progress(
            f"{'refused' if answer['refused'] else 'compiled'} {name} in "
            f"{answer['compile_seconds']:.0f} s"
        )
        return answer, False

    def figures(self, job: store.Job) -> tuple[store.Figures, bool]:
        """Answer a job about a program; see `ask`."""
        answer, cached = self.ask(job)
        return store.Figures.from_dict(answer), cached


class _Process:
    """A worker process."""

    def __init__(self, slice_: hardware.Slice, flags: str):
        self.grown = False
        self._child = jsonlines.Child(
            [sys.executable, "-m", "harness.plan.worker", slice_.name],
            env=worker.environment(slice_, flags, os.environ),
        )

    def lower(self, job: store.Job) -> dict[str, Any]:
        return self._request({"job": job.to_dict()}, job)

    def compile(self, job: store.Job) -> dict[str, Any]:
        answer = self._request({"compile": True}, job)["answer"]
        self.grown = answer["host_bytes"] > _GROWN
        return answer

    def _request(self, request: dict[str, Any], job: store.Job) -> dict[str, Any]:
        name = f"{job.program} for {job.sequences} sequence(s) on {job.slice}"
        try:
            reply = self._child.ask(request)
        except jsonlines.Ended as ended:
            raise errors.HarnessError(died(name, ended.code, ended.output)) from None
        if "crash" in reply:
            raise errors.CrashedElsewhere(f"at {name}: {reply['crash']}", reply["traceback"])
        if "error" in reply:
            raise errors.HarnessError(f"{name} cannot be compiled: {reply['error'][:500]}")
        return reply

    def end(self) -> None:
        self._child.close()


def died(name: str, code: int, output: str) -> str:
    """Say why a compiler's process ended, and what helps.

    Args:
      name: What was being compiled.
      code: Its exit code, negative for a signal.
      output: What it wrote to the standard error.

    Returns:
      One line.
    """
    bad = _BAD_FLAG.findall(output)
    if bad:
        messages = "; ".join(dict.fromkeys(each.strip() for each in bad))
        return f"the TPU compiler refuses a flag ({messages[:300]}): correct --compiler-flags"
    if code == -signal.SIGKILL:
        return (
            f"the compiler's process was killed (signal 9) at {name}, most likely because memory "
            "ran out: close other programs, or use --workers 1"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = f"; its last message: {lines[-1][:300]}" if lines else " without a message"
    return f"the compiler's process ended (code {code}) at {name}{last}"
