"""Runs the whole recipe on every mesh of up to eight devices, and compares it with one device.

`python -m tests.support.meshes` is the study. Each run is stopped after its first batch and goes
on by `--resume`; weights come from a checkpoint, and there is one head of keys and values, as the
real 1B has. It exits with 1 if a mesh ends elsewhere than one device does.

`--donation` compares something else: steps that donate their weights with steps that do not, with
and without a reference model, on one device and on eight, to the last bit.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

MESHES = tuple((fsdp, tp) for fsdp in (1, 2, 4, 8) for tp in (1, 2, 4, 8) if 1 <= fsdp * tp <= 8)
RECIPE = (
    "model.weights=checkpoint",
    "model.num_layers=2",
    'model.attention_pattern=["local", "global"]',
    "model.embed_dim=32",
    "model.hidden_dim=64",
    "model.num_heads=8",
    "model.num_kv_heads=1",
    "model.head_dim=8",
    "model.sliding_window=16",
    "lora.rank=4",
    "data.num_batches=2",
    "data.num_test_batches=1",
    "data.arithmetic.train_problems=256",
    "data.arithmetic.test_problems=16",
    "batching.rollout_batch_size=16",
    "batching.mini_batch_size=8",
    "batching.train_micro_batch_size=8",
    "batching.rollout_micro_batch_size=16",
    "batching.compute_logps_micro_batch_size=8",
    "checkpoints.save_interval_steps=4",
)
# Figures are sums of some hundred float32 numbers of order one, in another order.
FIGURE = 1e-4
# Adam moves a weight by about the learning rate (3e-3) a step, eight times; where the gradient
# is next to nothing the order of its sums decides the sign.
WEIGHT = 5e-3


# Two gradients behind a step: a sum of one has no accumulator where models are donated.
DONATION = ("batching.train_micro_batch_size=4",)


def run(out: pathlib.Path, recipe: Any, fixes: str = "all") -> dict[str, Any]:
    """Run the recipe, stopped after its first batch and resumed; return its result."""
    from harness import errors, training

    asked = []

    def stop() -> bool:
        # Asked at the start of each stage, and after each batch.
        done = out / "progress" / "journal.jsonl"
        asked.append(done.exists() and len(done.read_text().splitlines()) == 1)
        return asked[-1]

    try:
        training.run(recipe, out, fixes=fixes, stop=stop)
    except errors.Terminated:
        training.run(recipe, out, fixes=fixes, resume=True)
    else:
        raise RuntimeError("the run was not stopped")
    return json.loads((out / "result.json").read_text())


def compare(got: pathlib.Path, want: pathlib.Path) -> dict[str, float]:
    """Return the largest differences of logged figures, accuracies and trained weights."""
    import numpy as np

    from tests.support import killing

    results = [json.loads((out / "result.json").read_text()) for out in (got, want)]
    steps = [[value for row in result["steps"] for value in row.values()] for result in results]
    accuracies = [
        [result[stage]["accuracy"] for stage in ("baseline", "trained")] for result in results
    ]
    weights = [
        killing.weights(out, result["checkpoint_step"])
        for out, result in zip((got, want), results, strict=True)
    ]
    trained = [name for name in weights[1] if "/model_params/" in name]
    return {
        "figures": _distance(np.asarray(steps[0]), np.asarray(steps[1])),
        "accuracy": _distance(np.asarray(accuracies[0]), np.asarray(accuracies[1])),
        "weights": max(_distance(weights[0][name], weights[1][name]) for name in trained),
    }


def meshes(
    folder: pathlib.Path, plain: Any, chosen: Sequence[tuple[int, int]]
) -> list[dict[str, Any]]:
    """Run the recipe on meshes; return a row for each."""
    from harness import recipe as recipe_lib

    rows = []
    for fsdp, tp in dict.fromkeys([(1, 1), *chosen]):
        recipe = recipe_lib.replace(plain, f"sharding.fsdp={fsdp}", f"sharding.tp={tp}")
        out = folder / f"{fsdp}x{tp}"
        run(out, recipe)
        found = compare(out, folder / "1x1")
        ok = found["figures"] <= FIGURE and found["weights"] <= WEIGHT
        rows.append({"fsdp": fsdp, "tp": tp, **found, "ok": ok and not found["accuracy"]})
        print(json.dumps(rows[-1]), flush=True)
    return rows


def donation(folder: pathlib.Path, plain: Any) -> list[dict[str, Any]]:
    """Run the recipe with and without donation; return a row for each pair."""
    from harness import recipe as recipe_lib
    from tests.support import killing

    rows = []
    for fsdp, tp in ((1, 1), (4, 2)):
        for beta in (0.0, 0.05):
            recipe = recipe_lib.replace(
                plain,
                *DONATION,
                f"sharding.fsdp={fsdp}",
                f"sharding.tp={tp}",
                f"ppo.beta={beta}",
            )
            outs = []
            for fixes in ("all", "all,-model-not-donated"):
                outs.append(folder / f"{fsdp}x{tp}-{beta}-{len(outs)}")
                run(outs[-1], recipe, fixes)
            # The results name the fixes that are in place.
            found = [each for each in killing.differences(*outs) if each != "result.json: upstream"]
            rows.append(
                {"fsdp": fsdp, "tp": tp, "beta": beta, "differences": found, "ok": not found}
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _distance(got: Any, want: Any) -> float:
    return float(abs(got - want).max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; return 1 if a mesh ends elsewhere than one device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mesh", action="append", help="FSDPxTP; may be repeated; all if none")
    parser.add_argument("--donation", action="store_true", help="with donation beside without")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args(arguments)
    given = [each.split("x") for each in options.mesh or []]
    chosen = [(int(fsdp), int(tp)) for fsdp, tp in given] or MESHES
    from harness import models
    from harness import recipe as recipe_lib
    from harness.models import checkpoint, gemma

    with tempfile.TemporaryDirectory(prefix="ppo-harness-meshes-") as name:
        folder = pathlib.Path(name)
        plain = recipe_lib.load(
            "tiny", assignments=(*RECIPE, f"model.checkpoint={folder / 'published'}")
        )
        drawn = models.random_gemma(plain.model, models.make_mesh(plain.sharding), 0)
        checkpoint.write(gemma.weights_of(drawn), folder / "published")
        rows = donation(folder, plain) if options.donation else meshes(folder, plain, chosen)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    return int(not all(row["ok"] for row in rows))


if __name__ == "__main__":
    # Before JAX is imported.
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()
    sys.exit(main())
