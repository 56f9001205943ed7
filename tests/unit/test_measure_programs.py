"""What JAX compiled, and what a compiled program needs."""

import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from harness import hardware
from harness.measure import compiles, programs


def test_a_listener_removes_itself_alone():
    with compiles.Listener() as outer:
        with compiles.Listener() as inner:
            jax.jit(lambda x: x * 3 + 11).lower(np.ones(5)).compile()
        jax.jit(lambda x: x * 5 + 13).lower(np.ones(5)).compile()
    asked = [each.statistics.compiles + each.statistics.cache_hits for each in (inner, outer)]
    assert asked == [1, 2]
    assert outer.statistics.names == {"jit(<lambda>)": 2}
    assert outer.statistics.traces == 2


def test_a_program_from_the_cache_is_no_compile(tmp_path):
    program = textwrap.dedent("""
        import jax
        import numpy as np
        from harness.measure import compiles
        for _ in range(2):
            with compiles.Listener() as listener:
                jax.jit(lambda x: x * 3 + 17).lower(np.ones(5)).compile()
            print(listener.statistics.compiles, listener.statistics.cache_hits)
            jax.clear_caches()
    """)
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout.split() == ["1", "0", "0", "1"]


def test_the_roofline_is_the_slower_of_the_two_ceilings():
    chip, flops = hardware.V6E, hardware.V6E.bf16_flops
    fraction = programs.roofline_fraction
    assert fraction("TPU v6 lite", 2.0, flops, 0) == pytest.approx(0.5)
    assert fraction("TPU v6 lite", 2.0, flops, chip.bandwidth * 1.5) == pytest.approx(0.75)
    assert fraction("cpu", 2.0, 1e9, 1e9) is None
    assert fraction("TPU v6 lite", 2.0, None, 1e9) is None
