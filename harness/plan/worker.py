"""A process that compiles: it alone loads libtpu.

`python -m harness.plan.worker SLICE` reads one JSON job a line and writes one
JSON answer a line. What libraries print goes to the standard error.
"""

import dataclasses
import json
import os
import re
import resource
import sys
import time
import traceback
from typing import Any, TextIO

from harness.errors import HarnessError
from harness.plan import chips, store

GIB = 2**30
_HBM = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)")
_REFUSALS = ("RESOURCE_EXHAUSTED", "FAILED_PRECONDITION")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def surroundings(place: chips.Slice) -> dict[str, str]:
    """Gives the environment in which libtpu compiles for chips that are not here."""
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": place.name,
        "TPU_WORKER_HOSTNAMES": "localhost",
        # Without it a lock file that another process left ends this one.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def refusal(message: str) -> store.Refusal:
    """Reads the compiler's message that a program does not fit.

    Args:
      message: As the error says it.

    Returns:
      The refusal.
    """
    text = message.split("\n")[0].strip()
    found = _HBM.search(message)
    if not found:
        return store.Refusal(None, None, text)
    needed = int(float(found[1]) * _UNITS[found[2]])
    return store.Refusal(needed, int(float(found[3]) * _UNITS[found[4]]), text)


class Worker:
    """Builds abstract learners and compiles their programs for one slice."""

    def __init__(self, place: chips.Slice):
        """Loads the compiler.

        Args:
          place: The chips.
        """
        import jax
        import numpy as np
        from jax.experimental import topologies

        self._place = place
        description = topologies.get_topology_desc(
            str(place.topology), platform="tpu", chips_per_host_bounds=place.bounds
        )
        self._devices = np.asarray(description.devices)
        self._jax = jax
        self.compiler_errors = (jax.errors.JaxRuntimeError,)
        self._built: tuple[Any, Any] | None = None

    def answer(self, job: store.Job) -> dict[str, Any]:
        """Answers one job.

        Args:
          job: The question.

        Returns:
          `Figures` as plain JSON values, or what `resident` gives.
        """
        from harness.plan import resident
        from harness.upstream import programs

        learner = self._learner(job)
        if job.program == "resident":
            return resident.describe(learner, job.rows, job.recipe.batching.mini_batch)
        lowered = programs.lower(learner, job.program, job.rows)  # type: ignore[arg-type]
        start = time.perf_counter()
        try:
            compiled = lowered.compile()
        except self._jax.errors.JaxRuntimeError as error:
            # Near the wall the compiler may fail at what it does to save memory.
            if not any(status in str(error) for status in _REFUSALS):
                raise
            found = store.Figures(refused=refusal(str(error)))
        else:
            memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
            found = store.Figures(
                argument_bytes=memory.argument_size_in_bytes,
                output_bytes=memory.output_size_in_bytes,
                alias_bytes=memory.alias_size_in_bytes,
                temp_bytes=memory.temp_size_in_bytes,
                code_bytes=memory.generated_code_size_in_bytes,
                flops=cost["flops"],
                bytes_accessed=cost["bytes accessed"],
            )
            del compiled
        del lowered
        seconds = time.perf_counter() - start
        self._jax.clear_caches()
        return dataclasses.asdict(
            dataclasses.replace(found, compile_seconds=seconds, host_bytes=host_bytes())
        )

    def _learner(self, job: store.Job) -> Any:
        from harness.upstream import programs

        key = (job.recipe, job.mends)
        if self._built is None or self._built[0] != key:
            sharding = job.recipe.sharding
            mesh = self._jax.sharding.Mesh(
                self._devices.reshape(sharding.fsdp, sharding.tp), ("fsdp", "tp")
            )
            self._built = (key, programs.abstract_learner(job.recipe, mesh, job.mends))
        return self._built[1]


def host_bytes() -> int:
    """Gives the most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(place: chips.Slice, questions: TextIO, answers: TextIO) -> None:
    """Answers jobs until there are no more.

    Args:
      place: The chips.
      questions: One job a line.
      answers: One answer a line: `answer`; `error` with the reason, where the
        question cannot be answered; or `crash` and `traceback`.
    """
    worker = Worker(place)
    for line in questions:
        try:
            said: dict[str, Any] = {"answer": worker.answer(store.Job.from_dict(json.loads(line)))}
        except HarnessError as error:
            said = {"error": str(error)}
        except worker.compiler_errors as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        except Exception as error:
            said = {
                "crash": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }
        answers.write(json.dumps(said) + "\n")
        answers.flush()


def main() -> None:
    """Serves on the standard streams."""
    place = chips.find(sys.argv[1])
    os.environ.update(surroundings(place))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(place, sys.stdin, answers)


if __name__ == "__main__":
    main()
