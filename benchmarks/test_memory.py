"""Memory of each program and micro-batch: the compiler's peak, and the device's beside it.

No device resets its peak, so that each is measured in a process of its own, in
which all other programs have the smallest micro-batch: `--own-process`. A CPU
reports no peak: there the compiler's figures are all there is, and the contexts of
the other benchmarks give them.
"""

import json
import subprocess
import sys

import pytest

from harness import programs

PROGRAMS = tuple(map(str, programs.ALWAYS))


@pytest.mark.updates
@pytest.mark.parametrize("name", PROGRAMS)
def test_peak(name, size, benchmark, request):
    benchmark.group = "memory"
    dtype, rows = size
    if request.config.getoption("--own-process"):
        found = benchmark.pedantic(measure, args=(name, dtype, rows, request.config), rounds=1)
    else:
        context = request.getfixturevalue("context")
        figures = benchmark.pedantic(context.figures, args=(name,), rounds=1)
        found = {"compiled_peak_bytes": figures["peak_bytes"], "measured_peak_bytes": None}
    benchmark.extra_info.update(found)
    benchmark.extra_info.update({"micro_batch": int(rows), "dtype": dtype})
    assert found["compiled_peak_bytes"] > 0
    # Whatever the device held, it held the program's own arguments and outputs.
    assert found["measured_peak_bytes"] is None or found["measured_peak_bytes"] > 0


def measure(name, dtype, rows, config):
    """Ask a fresh process for the peak of one program."""
    command = [sys.executable, "-m", "harness.bench.worker", "memory", "--only", name]
    command += ["--preset", config.getoption("--preset"), "--dtype", dtype, "--micro-batch", rows]
    command += [f"--set={each}" for each in config.getoption("assignments")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{found.stderr[-2000:]}")
    answer = json.loads(found.stdout)
    names = ("compiled_peak_bytes", "measured_peak_bytes")
    return {each: answer[each] for each in names} | {"device": answer["conditions"]["device"]}
