"""One small result of each kind, in the layouts that the commands write."""

import json
import pathlib
from typing import Any

GIB = 2**30

ENVIRONMENT = {
    "python": "3.11.7",
    "platform": {"system": "Linux", "machine": "x86_64"},
    "cpu": {"model": "a processor", "count": 2},
    "packages": {"jax": "0.10.2", "libtpu": None},
    "backend": "cpu",
    "devices": {"kind": "cpu", "count": 1},
}


def run(before: float = 0.3, after: float = 0.8, seed: int = 0) -> dict[str, Any]:
    def evaluation(accuracy: float) -> dict[str, Any]:
        return {
            "accuracy": accuracy,
            "format_accuracy": 1.0,
            "total": 512,
            "accuracy_ci95": [accuracy - 0.04, accuracy + 0.04],
            "format_accuracy_ci95": [0.99, 1.0],
        }

    return {
        "schema": "tunix-ppo-harness/result/2",
        "recipe": {"name": "tiny", "seed": seed},
        "environment": ENVIRONMENT,
        "summary": {"warnings": [{"id": "first-step", "text": "It does nothing."}]},
        "upstream": {"mode": "patched", "version": "0.1.7", "fixes": ["reward-truncated"]},
        "baseline": evaluation(before),
        "trained": evaluation(after),
        "steps": [
            {
                "step": step,
                "reward_mean": before + (after - before) * step / 40 + 0.02 * (step % 3),
                "format_rate": 0.98,
                "completion_tokens_mean": 5.0 + step % 2,
                "clip_fraction": 0.01 * (step % 4),
                "policy_loss": -1e-3,
                "value_loss": 0.1 / step,
            }
            for step in range(1, 41)
        ],
        "phases": [
            {"name": "prepare", "seconds": 5.0, "compile_seconds": 0.0, "peak_bytes": None},
            {"name": "train", "seconds": 100.0, "compile_seconds": 15.0, "peak_bytes": 3 * GIB},
        ],
        "checkpoint_step": 80,
    }


def check(**statuses: str) -> dict[str, Any]:
    statuses = statuses or {"returns": "pass", "whitening": "known-defect"}
    return {
        "schema": "tunix-ppo-harness/check/2",
        "mode": "stock",
        "version": "0.1.7",
        "ok": True,
        "properties": [
            {
                "id": name,
                "area": "losses",
                "status": status,
                "tolerance": "1e-05 relative",
                "statement": f"What {name} must be.",
                "messages": [] if status == "pass" else [f"{name}: 1 at [2], not 2"],
            }
            for name, status in statuses.items()
        ],
        "defects": [
            {
                "id": f"defect-{number}",
                "present": present,
                "fixed": fixed,
                "title": "Rewards are cut.",
                "where": "tunix/rl/ppo/ppo_learner.py:353",
                "releases": ["0.1.6", "0.1.7"],
                "shown_by": ["returns"],
                "reproduction": None,
            }
            for number, (present, fixed) in enumerate(
                [(True, False), (True, True), (False, False), (None, False)]
            )
        ],
    }


def plan(peak: int = 20 * GIB, *, sweep: bool = True) -> dict[str, Any]:
    limit = 31 * GIB
    parts = [
        {"name": "actor base", "bytes": 4 * GIB},
        {"name": "actor LoRA", "bytes": GIB},
        {"name": "critic", "bytes": 4 * GIB},
        {"name": "critic first moment", "bytes": 4 * GIB},
        {"name": "temporaries", "bytes": peak - 13 * GIB},
    ]
    return {
        "schema": "tunix-ppo-harness/plan/2",
        "chip": "v6e-1",
        "chips": 1,
        "hbm_bytes": limit,
        "upstream": {"mode": "patched", "version": "0.1.7", "fixes": []},
        "versions": {"jax": "0.10.2", "libtpu": "0.0.52"},
        "recipe": {"name": "gemma3-1b"},
        "resident": [{"name": "actor base", "bytes": 4 * GIB}],
        "programs": [
            {
                "name": name,
                "micro_batch": size,
                "argument_bytes": 4 * GIB,
                "output_bytes": GIB,
                "alias_bytes": GIB,
                "temp_bytes": size * GIB,
                "peak_bytes": (5 + 2 * size) * GIB,
                "flops": 1e12,
                "bytes_accessed": 1e10,
                "fits": True,
                "refused": None,
            }
            for name in ("decode", "actor_step")
            for size in (2, 4)
        ],
        "phases": [
            {
                "name": "actor step",
                "program": "actor_step",
                "peak_bytes": peak,
                "fits": peak <= limit,
                "parts": parts,
            }
        ],
        "largest_micro_batches": [
            {
                "name": "actor_step",
                "programs": ["actor_step"],
                "reference": 2,
                "compiles": 12,
                "refused": 13,
                "refusal": None,
                "fits_beside_the_rest_about": 6,
            }
        ]
        if sweep
        else [],
        "roofline": {
            "phases": [
                {"name": "rollout", "seconds": 5.5, "tokens_per_second": 1479, "bound_by": "memory"}
            ],
            "seconds_per_global_step": 5.5,
        },
        "recommendation": {
            "searched": sweep,
            "settings": [
                {
                    "setting": "batching.train_micro_batch_size",
                    "reference": 2,
                    "recommended": 4 if sweep else None,
                    "bounds": {"1": 0.77, "2": 0.46, "4": 0.3},
                    "fit": [1, 2, 4] if sweep else None,
                }
            ],
        },
        "fits": peak <= limit,
    }


def bench() -> dict[str, Any]:
    def one(program: str, size: int, group: str, extra: dict[str, Any]) -> dict[str, Any]:
        return {
            "group": group,
            "name": f"test_{program}[float32-{size}]",
            "fullname": f"benchmarks/test_phases.py::test_{program}[float32-{size}]",
            "params": {"context": ["float32", str(size)], "name": program},
            "param": f"float32-{size}",
            "extra_info": {"micro_batch": size, "dtype": "float32", "device": "cpu", **extra},
            "options": {},
            "stats": {"median": 0.02, "q1": 0.018, "q3": 0.025, "rounds": 10, "mean": 0.02},
        }

    return {
        "machine_info": {
            "node": "a-name-of-no-machine",
            "python_version": "3.11.7",
            "cpu": {"brand_raw": "a processor", "count": 2},
        },
        "commit_info": {"id": "b8e72409328cc058306226d38e97cef9d830482d", "dirty": False},
        "benchmarks": [
            *(one("actor_step", size, "actor_step", {"tokens": 28 * size}) for size in (16, 64)),
            *(
                one(
                    "actor_step",
                    size,
                    "memory",
                    {"compiled_peak_bytes": size * 2**20, "measured_peak_bytes": None},
                )
                for size in (16, 64)
            ),
        ],
        "datetime": "2026-01-01T00:00:00+00:00",
        "version": "5.3.1",
        "harness": {
            "schema": "tunix-ppo-harness/bench/2",
            "conditions": {"device": "cpu", "devices": 1, "packages.jax": "0.10.2"},
            "recipe": {"name": "tiny"},
            "judged": {"google-tunix": "0.1.7", "commit": "b8e72409"},
        },
    }


def gate(verdict: str = "FAIL") -> dict[str, Any]:
    return {
        "schema": "tunix-ppo-harness/gate/1",
        "verdict": verdict,
        "baseline": "commit aaaaaaaaaa",
        "candidate": "commit bbbbbbbbbb",
        "tiers": {"exact": "PASS", "time": verdict},
        "findings": [
            {
                "tier": "exact",
                "subject": "actor_step[float32-64]",
                "verdict": "PASS",
                "text": "as before",
                "figures": {"baseline": {"flops": 3}, "candidate": {"flops": 3}},
            },
            {
                "tier": "time",
                "subject": "values[float32-64]",
                "verdict": "PASS",
                "text": "CPU time +0.1%",
                "figures": {"clock": "cpu", "ratio": 1.001, "ratio_lower": 0.99}
                | {"ratio_upper": 1.02, "pairs": 5},
            },
            {
                "tier": "time",
                "subject": "actor_step[float32-64]",
                "verdict": verdict,
                "text": "CPU time +9.0%",
                "figures": {"clock": "cpu", "ratio": 1.09, "ratio_lower": 1.06}
                | {"ratio_upper": 1.12, "pairs": 5},
            },
        ],
        "environment": ENVIRONMENT,
        "evidence": {},
    }


ALL = {"run": run, "check": check, "plan": plan, "bench": bench, "gate": gate}


def write(folder: pathlib.Path, **trees: Any) -> pathlib.Path:
    """Write trees as JSON files under their names; of each kind one if none are given."""
    trees = trees or {name: make() for name, make in ALL.items()}
    for name, tree in trees.items():
        (folder / f"{name}.json").write_text(json.dumps(tree))
    return folder
