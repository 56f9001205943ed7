"""Memory of each program and micro-batch: the compiler's peak, and the device's beside it.

No device resets its peak, so that each is measured in a process of its own, in
which all other programs have the smallest micro-batch: `--own-process`. A CPU
reports no peak: there the compiler's figures are all there is, and the contexts of
the other benchmarks report them.
"""

import subprocess
import sys

import pytest

from harness import programs
from harness.artifacts import bench

PROGRAMS = tuple(map(str, programs.ALWAYS))


@pytest.mark.updates
@pytest.mark.parametrize("name", PROGRAMS)
def test_peak(name, size, benchmark, request):
    benchmark.group = "memory"
    dtype, micro_batch = size
    info = {"micro_batch": int(micro_batch), "dtype": dtype}
    if request.config.getoption("--own-process"):
        command = worker_command(name, dtype, micro_batch, request.config)
        found = benchmark.pedantic(measure, args=(command,), rounds=1)
        compiled, measured = found.compiled_peak_bytes, found.measured_peak_bytes
        info["device"] = found.conditions["device"]
    else:
        context = request.getfixturevalue("context")
        figures = benchmark.pedantic(context.figures, args=(name,), rounds=1)
        compiled, measured = figures["peak_bytes"], None
    info |= {"compiled_peak_bytes": compiled, "measured_peak_bytes": measured}
    benchmark.extra_info.update(bench.ExtraInfo(**info).to_json())
    assert compiled > 0
    # Whatever the device held, it held the program's own arguments and outputs.
    assert measured is None or measured > 0


def worker_command(name, dtype, micro_batch, config):
    command = [sys.executable, "-m", "harness.bench.worker", "memory", "--only", name]
    command += ["--preset", config.getoption("--preset"), "--dtype", dtype]
    command += ["--micro-batch", micro_batch]
    return [*command, *(f"--set={each}" for each in config.getoption("assignments"))]


def measure(command):
    """Ask a fresh process for the peak of one program."""
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{found.stderr[-2000:]}")
    return bench.Peak.model_validate_json(found.stdout)
