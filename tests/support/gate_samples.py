"""What the tests of the gate share: files in the layouts that it reads."""

import json

from harness.artifacts import bench
from harness.gate import (
    exact,
    records,
)

FIGURES = tuple(exact.FIGURES)


def record(figures, **conditions):
    return records.Record("a file", "benchmarks", {"jax": "1", **conditions}, {}, figures)


def bench_json(**changes):
    tree = {
        "version": "5.3.1",
        "machine_info": {},
        "harness": {
            "schema": bench.SCHEMA,
            "conditions": {"jax": "1"},
            "recipe": {"name": "tiny", "model": {"num_layers": 3}},
            "judged": {"google-tunix": "0.1.7"},
        },
        "benchmarks": [
            {
                "name": "test_values[float32-64]",
                "extra_info": {"temp_bytes": 5, "flops": None, "tokens": 9},
                "stats": {
                    "median": 0.5,
                    "q1": 0.4,
                    "q3": 0.6,
                    "rounds": 3,
                    "data": [0.4, 0.5, 0.6],
                },
            }
        ],
    }
    return {**tree, **changes}


PLAN = {
    "schema": "tunix-ppo-harness/plan/2",
    "chip": "v6e-1",
    "hbm_bytes": 33_554_432_000,
    "versions": {"jax": "0.10.2", "libtpu": "0.0.52", "google-tunix": "0.1.7"},
    "recipe": {"name": "gemma3-1b"},
    "upstream": {"mode": "patched", "version": "0.1.7"},
    "phases": [],
    "programs": [
        {"name": "values", "micro_batch": 4, "fits": True, "temp_bytes": 7, "flops": 8},
        {"name": "values", "micro_batch": 16, "fits": True, "temp_bytes": 28, "flops": 32},
        {"name": "values", "micro_batch": 64, "fits": False, "temp_bytes": None},
    ],
}


def written(folder, tree, name="a.json"):
    path = folder / name
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return path
