"""What the benchmarks share: a context at each set of sizes, and what the JSON lacks."""

from collections.abc import Iterator
from typing import Any

import jax
import pytest

from harness.artifacts import bench
from harness.bench import context as context_lib
from harness.bench import worker
from harness.measure import memory, programs


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ppo-harness benchmarks")
    group.addoption(
        "--preset",
        default="tiny",
        help="Recipe whose shapes are timed; gemma3-1b needs a TPU or GPU (default: tiny).",
    )
    group.addoption(
        "--own-process",
        action="store_true",
        help="Measure each peak of test_memory.py in a process of its own; give that file alone, "
        "for this process must leave the device to them.",
    )
    group.addoption("--set", action="append", default=[], dest="assignments", metavar="A.B=V")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "size" in metafunc.fixturenames:
        metafunc.parametrize("size", _sizes(metafunc), indirect=True, ids="-".join, scope="session")


def _preset(config: pytest.Config) -> str:
    return str(config.getoption("--preset"))


def _assignments(config: pytest.Config) -> tuple[str, ...]:
    given: Any = config.getoption("assignments")
    return tuple(given)


def _sizes(metafunc: pytest.Metafunc) -> list[tuple[str, str]]:
    """Every micro-batch in the preset's own type; the largest in the other type too.

    On a CPU, where bfloat16 is emulated, the other type is looked at in what
    rollout and scoring run, not in whole steps.
    """
    config = metafunc.config
    recipe = context_lib.recipe_for(_preset(config), assignments=_assignments(config))
    micro_batches = [str(each) for each in context_lib.micro_batches(recipe)]
    own = recipe.model.dtype
    other = "float32" if own == "bfloat16" else "bfloat16"
    sizes = [(own, each) for each in micro_batches]
    heavy = metafunc.definition.get_closest_marker("updates") is not None
    if not metafunc.config.getoption("--own-process") and jax.default_backend() == "cpu":
        return sizes if heavy else [*sizes, (other, micro_batches[0])]
    return [*sizes, *((other, each) for each in micro_batches)]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "updates: needs the trainers' steps compiled too")


@pytest.fixture(scope="session")
def size(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Type and micro-batch."""
    return request.param


@pytest.fixture(scope="session")
def context(size: tuple[str, str], request: pytest.FixtureRequest) -> Iterator[context_lib.Context]:
    dtype, micro_batch = size
    config = request.config
    recipe = context_lib.recipe_for(
        _preset(config),
        assignments=_assignments(config),
        dtype=dtype,
        micro_batch=int(micro_batch),
    )
    own = context_lib.recipe_for(_preset(config)).model.dtype
    whole = dtype == own or jax.default_backend() != "cpu"
    with context_lib.Context(recipe, updates=whole) as made:
        yield made


@pytest.fixture
def timed(benchmark: Any, context: context_lib.Context) -> Any:
    """Time one of the context's calls, donated inputs made anew before each round."""

    def time_it(name: str, rounds: int = 10) -> None:
        call = context.call(name)
        call.run(call.prepare())  # whatever is compiled late is compiled now
        benchmark.group = name
        benchmark.pedantic(
            call.run,
            setup=lambda: ((call.prepare(),), {}),
            rounds=rounds,
            warmup_rounds=1,
        )
        info = extra_info(context, call, benchmark.stats.stats.median)
        benchmark.extra_info.update(info.to_json())

    return time_it


def extra_info(
    context: context_lib.Context, call: context_lib.Call, seconds: float
) -> bench.ExtraInfo:
    device = context_lib.device_kind()
    figures: dict[str, Any] = {}
    if call.name in context.programs:
        figures = context.figures(call.name)
        trips = context.trips(call.name)
        flops, moved = (
            None if figures[name] is None else figures[name] * trips
            for name in ("flops", "bytes_accessed")
        )
        figures |= {
            "loop_trips": trips,
            "compile_seconds": context.programs[call.name].compile_seconds,
            "roofline_fraction": programs.roofline_fraction(device, seconds, flops, moved),
        }
    return bench.ExtraInfo(
        micro_batch=context.recipe.batching.train_micro_batch_size,
        dtype=context.recipe.model.dtype,
        tokens=call.tokens,
        tokens_per_second=call.tokens / seconds,
        device=device,
        # Of this process so far: see test_memory.py for the peak of one program.
        device_peak_bytes=memory.peak_bytes(),
        **figures,
    )


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict) -> None:
    """Add the conditions by which the gate knows what may be compared."""
    del benchmarks
    recipe = context_lib.recipe_for(_preset(config), assignments=_assignments(config))
    conditions = worker.conditions(recipe, commit=output_json["commit_info"]["id"])
    output_json["harness"] = conditions.to_json()
