"""The exact tier: each figure made worse on purpose in a program of its own."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness.gate import (
    Report,
    Verdict,
    exact,
)
from harness.measure import compiles, programs
from tests.support.gate_samples import FIGURES, record


def figures_of(function, *args, **options):
    lowered = jax.jit(function, **options).lower(*args)
    found = programs.figures(lowered, lowered.compile()).to_dict()
    return {name: found[name] for name in FIGURES if name in found}


def compared(before, after):
    (finding,) = exact.compare(record({"step": before}), record({"step": after}))
    return finding


def worse_in(finding):
    text = finding.text.partition("worse: ")[2].partition(";")[0]
    return {name for name in FIGURES if name in text}


STATE = jax.ShapeDtypeStruct((256, 256), jnp.float32)


def test_a_dropped_donation_is_caught():
    def step(state):
        return state * 2 + 1

    before, after = figures_of(step, STATE, donate_argnums=0), figures_of(step, STATE)
    finding = compared(before, after)
    assert finding.verdict == Verdict.FAIL
    assert {"donated_bytes", "alias_bytes"} <= worse_in(finding)


def test_an_upcast_to_float32_is_caught():
    half = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16)

    def step(upcast, x):
        return (x.astype(jnp.float32) if upcast else x) + 1

    finding = compared(
        figures_of(lambda x: step(False, x), half), figures_of(lambda x: step(True, x), half)
    )
    assert finding.verdict == Verdict.FAIL
    assert "output_bytes" in worse_in(finding)


def test_log_probs_that_are_no_longer_chunked_are_caught():
    hidden = jax.ShapeDtypeStruct((64, 32), jnp.float32)
    table = jax.ShapeDtypeStruct((32, 4096), jnp.float32)

    def whole(hidden, table):
        return jax.nn.logsumexp(hidden @ table, axis=-1)

    def chunked(hidden, table):
        return jax.lax.map(lambda chunk: whole(chunk, table), hidden.reshape(16, 4, 32))

    finding = compared(figures_of(chunked, hidden, table), figures_of(whole, hidden, table))
    assert finding.verdict == Verdict.FAIL
    assert "temp_bytes" in worse_in(finding)


def steady(steps):
    """Count what is traced and compiled after the first of several steps."""
    with compiles.Listener() as listener:
        next(steps)
        warm = listener.statistics
        for _ in steps:
            pass
        after = listener.statistics.since(warm)
    return {
        "compile_count": warm.compiles + warm.cache_hits,
        "retraces": after.traces + after.compiles + after.cache_hits,
    }


def calm_steps() -> Iterator[None]:
    step = jax.jit(lambda x: jnp.sin(x) + 0.5)
    for _ in range(4):
        yield step(np.ones(7, np.float32)).block_until_ready()


def jittering_steps() -> Iterator[None]:
    step = jax.jit(lambda x: jnp.sin(x) + 0.5)
    for length in (7, 8, 7, 9):
        yield step(np.ones(length, np.float32)).block_until_ready()


def unstable_steps() -> Iterator[None]:
    for _ in range(4):
        yield jax.jit(lambda x: jnp.sin(x) + 0.5)(np.ones(7, np.float32)).block_until_ready()


@pytest.mark.parametrize("steps", [jittering_steps, unstable_steps])
def test_a_step_that_is_compiled_again_is_caught(steps):
    calm = steady(calm_steps())
    assert calm["retraces"] == 0
    assert calm["compile_count"] > 0
    finding = compared(calm, steady(steps()))
    assert finding.verdict == Verdict.FAIL
    assert "retraces" in worse_in(finding)


def test_equal_figures_pass():
    figures = figures_of(lambda x: x + 1, STATE)
    assert figures["argument_bytes"] == 256 * 256 * 4
    assert compared(figures, figures).verdict == Verdict.PASS


@pytest.mark.parametrize("figure", FIGURES)
def test_each_figure_is_watched_both_ways(figure):
    up, down = compared({figure: 10}, {figure: 11}), compared({figure: 10}, {figure: 9})
    assert up.verdict == down.verdict == Verdict.FAIL
    worse, better = (up, down) if exact.FIGURES[figure] == "less" else (down, up)
    assert worse.text.startswith("worse: ")
    assert better.text.startswith("stale baseline, run `gate --update-baseline")


@pytest.mark.parametrize("figure", FIGURES)
def test_better_than_what_was_measured_beside_it_is_no_failure(figure):
    up, down = (
        exact.compare(record({"step": {figure: 10}}), record({"step": {figure: n}}), stored=False)
        for n in (11, 9)
    )
    (worse,), (better,) = (up, down) if exact.FIGURES[figure] == "less" else (down, up)
    assert (worse.verdict, better.verdict) == (Verdict.FAIL, Verdict.PASS)
    assert better.text.startswith("better by ")
    both = {figure: 10, "output_bytes": 10, "temp_bytes": 10}
    mixed = {**both, "output_bytes": 9, "temp_bytes": 11}
    (found,) = exact.compare(record({"step": both}), record({"step": mixed}), stored=False)
    assert found.verdict == Verdict.FAIL
    assert exact.UPDATE not in found.text


@pytest.mark.parametrize("stored", [True, False])
def test_a_missing_and_a_new_benchmark_fail(stored):
    old, new = record({"old": {"flops": 1}}), record({"new": {"flops": 1}})
    found = exact.compare(old, new, stored=stored)
    assert {each.subject: each.text.split(":")[0] for each in found} == {
        "new": "new",
        "old": "missing",
    }
    assert {each.verdict for each in found} == {Verdict.FAIL}


def test_a_figure_that_went_away_fails():
    assert compared({"flops": 1, "temp_bytes": 2}, {"flops": 1}).verdict == Verdict.FAIL


def test_other_conditions_are_not_comparable_and_named():
    found = exact.compare(
        record({"a": {"flops": 1}}), record({"a": {"flops": 2}}, jax="2", chip="v6e")
    )
    (finding,) = found
    assert finding.verdict == Verdict.NOT_COMPARABLE
    assert "jax is 1" in finding.text
    assert "chip is not reported" in finding.text


def test_nothing_measured_is_not_a_pass():
    assert exact.compare(record({}), record({}))[0].verdict == Verdict.NOT_COMPARABLE
    assert Report("a", "b", ()).verdict == Verdict.NOT_COMPARABLE
