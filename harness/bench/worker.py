"""A process that measures for the gate, and reports what it found in JSON lines.

`exact` prints the exact figures and ends. `serve` times one round of a
benchmark each time it is asked to, so that two such processes can alternate.
`memory` prints the peak of one benchmark, which needs a process of its own
because no device resets its peak.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from harness import jsonlines, programs
from harness.artifacts import bench, parts

SHAPING = (
    *("name", "model", "precision", "lora", "critic", "sharding", "rollout"),
    *("ppo", "batching", "optimizers"),
)
WARM_UP_STEPS, STEADY_STEPS = 2, 3


def main(argv: list[str] | None = None) -> None:
    """Run one of the commands.

    Args:
      argv: Arguments; those of the process if None.
    """
    parser = argparse.ArgumentParser(prog="harness.bench.worker")
    parser.add_argument("command", choices=("exact", "serve", "memory"))
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--dtype")
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--upstream", choices=("patched", "stock"), default="patched")
    parser.add_argument("--core", type=int)
    parser.add_argument("--only", action="append", default=[])
    given = parser.parse_args(argv)
    if given.core is not None:
        # Before XLA counts the cores that it may use.
        os.sched_setaffinity(0, {given.core})
    out = jsonlines.own_stdout()
    from absl import logging

    logging.set_verbosity(logging.ERROR)
    from harness.bench import context as context_lib

    recipe = context_lib.recipe_for(
        given.preset,
        assignments=tuple(given.assignments),
        dtype=given.dtype,
        micro_batch=given.micro_batch,
        alone=given.only[0] if given.command == "memory" else None,
    )
    if given.command == "memory":
        jsonlines.write(out, memory(recipe, given.upstream, given.only[0]).to_json())
        return
    from harness.measure import compiles

    with (
        compiles.Listener() as listener,
        context_lib.Context(recipe, mode=given.upstream) as context,
    ):
        if given.command == "exact":
            found = bench.Measured(**header(recipe), benchmarks=exact(context, listener))
            jsonlines.write(out, found.to_json())
        else:
            calls = {name: context.call(name) for name in given.only or context_lib.NAMES}
            serve(bench.Header(**header(recipe), names=list(calls)), calls, sys.stdin, out)


def header(recipe: Any) -> dict[str, Any]:
    """Return what the first answer of every command holds, as arguments of `bench.Header`."""
    from harness.measure import environment

    return {
        **conditions(recipe).to_json(),
        "environment": parts.Environment.model_validate(environment.fingerprint()),
    }


def conditions(recipe: Any, **judged: Any) -> bench.Conditions:
    """Return what the figures of a recipe depend on, and what is judged beside Tunix."""
    from harness import recipe as recipe_lib
    from harness.measure import environment

    tree = recipe_lib.to_dict(recipe)
    return bench.Conditions(
        schema=bench.SCHEMA,
        conditions=environment.conditions(),
        # The groups on which the programs depend.
        recipe={name: tree[name] for name in SHAPING},
        judged={**environment.versions(["google-tunix"]), **judged},
    )


def exact(context: Any, listener: Any) -> dict[str, bench.Figures]:
    """Measure the exact figures of a context.

    Args:
      context: `harness.bench.context.Context`, whose learner has not trained yet.
      listener: It has listened since before the context was made.

    Returns:
      Benchmark -> figure -> value. `global_step` counts the programs that were
      asked for until training is steady, and what is traced or compiled after.
    """
    from harness.bench import context as context_lib

    size = context_lib.size_name(context.recipe)
    found = {f"{name}[{size}]": bench.Figures(**context.figures(name)) for name in context.programs}
    for _ in range(WARM_UP_STEPS):
        context.steps.step()
    warm = listener.statistics
    for _ in range(STEADY_STEPS):
        context.steps.step()
    steady = listener.statistics.since(warm)
    found[f"global_step[{size}]"] = bench.Figures(
        compile_count=warm.compiles + warm.cache_hits,
        retraces=steady.traces + steady.compiles + steady.cache_hits,
    )
    return found


def serve(head: bench.Header, calls: Mapping[str, Any], orders: TextIO, out: TextIO) -> None:
    """Time rounds as ordered, until orders end.

    Args:
      head: Written first, when all is ready.
      calls: Name -> `harness.bench.context.Call`.
      orders: JSON lines of `bench.Order`, to the end of the file.
      out: A line of `bench.Seconds` each.
    """
    from harness.measure.processor import Stopwatch

    jsonlines.write(out, head.to_json())
    for line in orders:
        order = bench.Order.model_validate_json(line)
        call = calls[order.name]
        wall_clock = cpu = 0.0
        for _ in range(order.calls):
            given = call.prepare()
            with Stopwatch() as watch:
                call.run(given)
            wall_clock += watch.wall_clock
            cpu += watch.cpu
        answer = bench.Seconds(wall_clock=wall_clock / order.calls, cpu=cpu / order.calls)
        jsonlines.write(out, answer.to_json())


def memory(recipe: Any, mode: Any, name: str) -> bench.Peak:
    """Measure the peak of one program, at the sizes of `context.recipe_for(alone=name)`.

    Args:
      recipe: Shapes.
      mode: `patched` or `stock`.
      name: The program's name.
    """
    from harness.bench import context as context_lib
    from harness.measure import memory as memory_lib

    with context_lib.Context(recipe, mode=mode, updates=name in programs.TRAIN) as context:
        measured = memory_lib.peak_bytes()
        return bench.Peak(
            **header(recipe),
            name=name,
            compiled_peak_bytes=context.figures(name)["peak_bytes"],
            measured_peak_bytes=measured,
        )


if __name__ == "__main__":
    main()
