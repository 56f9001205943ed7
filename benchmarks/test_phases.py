"""The programs of a global step, and the step itself, each on its own.

Inputs are on the device before the clock starts, donated ones are made anew
outside it, every round waits for all outputs, and nothing is compiled in a
round: `compile_seconds` is reported apart.
"""

import pytest

from harness.measure import compiles


def test_prefill(timed):
    timed("prefill")


def test_decode(timed):
    timed("decode")


def test_rollout(timed):
    timed("rollout")


def test_logps(timed):
    timed("logps")


def test_values(timed):
    timed("values")


def test_advantages(timed):
    timed("advantages", rounds=50)


def test_evaluate(timed):
    timed("evaluate")


@pytest.mark.updates
def test_actor_step(timed):
    timed("actor_step")


@pytest.mark.updates
def test_critic_step(timed):
    timed("critic_step")


@pytest.mark.updates
def test_global_step(timed, context, benchmark):
    with compiles.Listener() as listener:
        for _ in range(2):
            context.steps.step()
        warm = listener.statistics
        timed("global_step")
    steady = listener.statistics.since(warm)
    benchmark.extra_info["compile_count"] = warm.compiles + warm.cache_hits
    benchmark.extra_info["compile_seconds"] = warm.compile_seconds
    benchmark.extra_info["retraces"] = steady.traces + steady.compiles + steady.cache_hits
