"""A process that compiles: it alone loads libtpu.

`python -m harness.plan.worker SLICE` reads one JSON request a line and writes one
JSON reply a line. A job is answered with the digest of its lowered program, which
the other side may know already; `compile` then compiles what was lowered last. What
libraries print goes to the standard error.
"""

import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import resource
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from harness import hardware, jsonlines
from harness.errors import HarnessError
from harness.plan import store

_HBM = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)")
_REFUSALS = ("RESOURCE_EXHAUSTED", "FAILED_PRECONDITION")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


# Variables that change what is lowered or compiled, or how this process runs.
_OF_COMPILERS = re.compile(
    r"(JAX|XLA|TPU|LIBTPU|PJRT|MEGASCALE|TF_XLA)_.*|ALLOW_MULTIPLE_LIBTPU_LOAD"
    r"|PYTHONOPTIMIZE|PYTHONINSPECT"
)


def surroundings(slice_: hardware.Slice) -> dict[str, str]:
    """Return the variables with which libtpu compiles for chips that are not here.

    Args:
      slice_: The chips.
    """
    return {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": slice_.name,
        "TPU_WORKER_HOSTNAMES": "localhost",
        # Without it a lock file that another process left ends this one.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def environment(slice_: hardware.Slice, flags: str, outside: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a worker, in which nothing of the user's decides.

    Args:
      slice_: The chips.
      flags: Flags for the TPU compiler.
      outside: The environment of the process that starts it.
    """
    found = {name: each for name, each in outside.items() if not _OF_COMPILERS.fullmatch(name)}
    return {**found, **surroundings(slice_), **({"LIBTPU_INIT_ARGS": flags} if flags else {})}


def not_passed_on(slice_: hardware.Slice, outside: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the variables that a worker does not get as they are outside.

    Args:
      slice_: The chips.
      outside: The environment of the process that starts it.
    """
    own = surroundings(slice_)
    return tuple(
        name
        for name, value in sorted(outside.items())
        # What `plan` and JAX set themselves is none of the user's settings.
        if name not in ("JAX_PLATFORMS", "TPU_ML_PLATFORM", "TPU_ML_PLATFORM_VERSION")
        and not (name == "TPU_LIBRARY_PATH" and _is_installed_compiler(value))
        and value.strip()
        and _OF_COMPILERS.fullmatch(name)
        and own.get(name) != value
    )


def _is_installed_compiler(path: str) -> bool:
    spec = importlib.util.find_spec("libtpu")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return os.path.dirname(path) in folders


def refusal(message: str) -> store.Refusal:
    """Read the compiler's message that a program does not fit.

    Args:
      message: Of the error.

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

    def __init__(self, devices: Sequence[Any]):
        """Prepare; nothing is lowered before it is asked for.

        Args:
          devices: Those that are compiled for; see `topology`.
        """
        import jax
        import numpy as np

        self._devices = np.asarray(devices)
        self._jax = jax
        self.compiler_errors = (jax.errors.JaxRuntimeError,)
        self._lowered: Any = None
        self._built: tuple[Any, Any] | None = None

    def lower(self, job: store.Job) -> dict[str, Any]:
        """Lower a job's program and hold it for `compile`.

        Args:
          job: The question.

        Returns:
          `text`, the digest of the lowered program; for `resident`, for which there is
          no program, `answer`.
        """
        from harness.plan import resident
        from harness.upstream.instrument import programs

        self._lowered = None
        learner = self._learner(job)
        if job.program == "resident":
            return {
                "answer": resident.describe(
                    learner, job.sequences, job.recipe.batching.mini_batch_size
                )
            }
        self._lowered = programs.lower(learner, job.program, job.sequences)
        return {"text": digest(self._lowered)}

    def compile(self) -> dict[str, Any]:
        """Compile what was lowered last.

        Returns:
          `answer`: `Figures` as plain JSON values.

        Raises:
          RuntimeError: Nothing was lowered.
        """
        lowered, self._lowered = self._lowered, None
        if lowered is None:
            raise RuntimeError("there is no lowered program to compile")
        start = time.perf_counter()
        try:
            compiled = lowered.compile()
        except self._jax.errors.JaxRuntimeError as error:
            # Near the limit the compiler may fail at what it does to save memory.
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
        figures = dataclasses.replace(found, compile_seconds=seconds, host_bytes=host_bytes())
        return {"answer": dataclasses.asdict(figures)}

    def _learner(self, job: store.Job) -> Any:
        from harness.upstream.instrument import programs

        key = (job.recipe, job.fixes)
        if self._built is None or self._built[0] != key:
            sharding = job.recipe.sharding
            mesh = self._jax.sharding.Mesh(
                self._devices.reshape(sharding.fsdp, sharding.tp), ("fsdp", "tp")
            )
            self._built = (key, programs.abstract_learner(job.recipe, mesh, job.fixes))
        return self._built[1]


def topology(slice_: hardware.Slice) -> Sequence[Any]:
    """Load the TPU compiler and return the devices of a slice that is not here.

    Args:
      slice_: The chips.
    """
    from jax.experimental import topologies

    return topologies.get_topology_desc(
        slice_.topology, platform="tpu", chips_per_host_bounds=slice_.bounds
    ).devices


def digest(lowered: Any) -> str:
    """Digest a lowered program, so that equal digests mean equal programs.

    Args:
      lowered: From `jax.jit(...).lower`.

    Returns:
      SHA-256 of its StableHLO, which holds no locations in the sources, and of the compiler's
      options that the function was made with.
    """
    text = lowered.as_text(debug_info=False)
    options = getattr(getattr(lowered, "_lowering", None), "_compiler_options_kvs", ())
    if options:
        text += repr(sorted(options))
    return hashlib.sha256(text.encode()).hexdigest()


def host_bytes() -> int:
    """Return the most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(worker: Worker, requests: TextIO, replies: TextIO) -> None:
    """Serve requests until there are no more.

    Args:
      worker: Lowers and compiles.
      requests: One a line: `{"job": ...}`, or `{"compile": true}`.
      replies: One a line: what the worker returned, or `error` with the reason, where a
        request cannot be answered; or `crash` and `traceback`.
    """
    for line in requests:
        reply: dict[str, Any]
        try:
            request = json.loads(line)
            if "job" in request:
                reply = worker.lower(store.Job.from_dict(request["job"]))
            else:
                reply = worker.compile()
        except HarnessError as error:
            reply = {"error": str(error)}
        except worker.compiler_errors as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        except Exception as error:
            reply = {
                "crash": f"{type(error).__name__}: {error}",
                "traceback": traceback.format_exc(),
            }
        jsonlines.write(replies, reply)


def main() -> None:
    """Serve on the standard streams."""
    slice_ = hardware.find_slice(sys.argv[1])
    replies = jsonlines.own_stdout()
    serve(Worker(topology(slice_)), sys.stdin, replies)


if __name__ == "__main__":
    main()
