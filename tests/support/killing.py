"""Kills runs at seeded moments, lets them go on, and holds them to the run that was never killed.

`python -m tests.support.killing --kills 20 --seed 0` is the study; it exits with 1 if a
resumed run differs in a bit, times aside.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from orbax import checkpoint as ocp
from tensorboardX.proto import event_pb2

from harness import crash

_EVENT: Any = vars(event_pb2)["Event"]  # protobuf makes it when it is imported
TIMES = ("step_time_sec", "steps_per_sec")  # by the trainers of Tunix before 0.1.7
PHASES = ("warm_start", "baseline", "rollout", "train", "checkpoint", "trained")
# Four batches of two mini-batches, two epochs each; a checkpoint falls due in
# mid-batch. A policy that answers some problems, so that there is a gradient.
RECIPE = (
    "model.num_layers=2",
    'model.attention_pattern=["local", "global"]',
    "model.embed_dim=32",
    "model.hidden_dim=64",
    "model.head_dim=8",
    "lora.rank=4",
    "data.num_batches=4",
    "data.num_test_batches=4",
    "data.arithmetic.train_problems=1024",
    "data.arithmetic.test_problems=64",
    "data.arithmetic.max_operand=3",
    "batching.rollout_batch_size=16",
    "batching.mini_batch_size=8",
    "batching.train_micro_batch_size=4",
    "batching.rollout_micro_batch_size=8",
    "batching.compute_logps_micro_batch_size=8",
    "warm_start.max_steps=60",
    "warm_start.batch=64",
    "warm_start.check_problems=64",
    "warm_start.check_every=10",
    "checkpoints.save_interval_steps=3",
)


@dataclasses.dataclass(frozen=True)
class Moment:
    """When a run is killed.

    Attributes:
      phase: One of `PHASES`.
      global_step: Of a phase that each global step has; else none.
      fraction: Share of the phase's usual time.
    """

    phase: str
    global_step: int | None
    fraction: float


def scalars(out: pathlib.Path) -> list[tuple[str, int, float]]:
    """Read what the training logged in a run's TensorBoard files, sorted.

    JAX and Orbax put figures of their own beside it, most of them times.
    """
    found = []
    for path in (out / "tensorboard").glob("events.out.tfevents.*"):
        for record in _records(path.read_bytes()):
            event = _EVENT.FromString(record)
            found += [
                (each.tag, event.step, each.simple_value)
                for each in event.summary.value
                if not each.tag.startswith("jax/") and _timeless(each.tag)
            ]
    return sorted(found)


def _timeless(tag: str) -> bool:
    return tag.rsplit("/", 1)[-1] not in TIMES


def journal(out: pathlib.Path) -> list[Any]:
    """Read what each global step logged, times left out."""
    lines = (out / "progress" / "journal.jsonl").read_text().splitlines()
    return [
        {**entry, "scalars": [each for each in entry["scalars"] if _timeless(each[0])]}
        for entry in map(json.loads, lines)
    ]


def _records(content: bytes) -> Iterator[bytes]:
    """Cut a TFRecord file: length, its checksum, content, its checksum."""
    place = 0
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        yield content[place + 12 : place + 12 + length]
        place += length + 16


def weights(out: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """Read weights and moments of both models from a run's checkpoint."""
    found = {}
    with warnings.catch_warnings(), ocp.PyTreeCheckpointer() as checkpointer:
        warnings.simplefilter("ignore", UserWarning)  # of shardings, which do not matter here
        for role in ("actor", "critic"):
            for item in ("model_params", "optimizer_state"):
                tree = checkpointer.restore(
                    (out / "checkpoints" / role / str(step) / item).absolute()
                )
                for path, leaf in _leaves(tree):
                    found[f"{role}/{item}/{path}"] = np.asarray(leaf)
    return found


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _leaves(value, f"{path}/{name}")
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from _leaves(value, f"{path}/{index}")
    elif tree is not None:
        yield path, tree


def differences(got: pathlib.Path, want: pathlib.Path) -> list[str]:
    """Name what differs between two finished runs, times aside."""
    found = []
    results = [json.loads((out / "result.json").read_text()) for out in (got, want)]
    for name in sorted(results[1].keys() - {"phases", "resumed_at"}):
        if results[0][name] != results[1][name]:
            found.append(f"result.json: {name}")
    if (got / "samples.jsonl").read_bytes() != (want / "samples.jsonl").read_bytes():
        found.append("samples.jsonl")
    if journal(got) != journal(want):
        found.append("progress/journal.jsonl")
    if scalars(got) != scalars(want):
        found.append("tensorboard")
    step = results[1]["checkpoint_step"]
    there, here = weights(want, step), weights(got, step)
    if there.keys() != here.keys():
        found.append("names in the checkpoint")
    found += [
        name
        for name in there.keys() & here.keys()
        if there[name].dtype != here[name].dtype or there[name].tobytes() != here[name].tobytes()
    ]
    return found


def now(out: pathlib.Path) -> tuple[str, int | None]:
    """Return what a run does: the phase, and the global step if it has one."""
    try:
        tree = json.loads((out / "progress" / "now.json").read_text())
    except FileNotFoundError:
        return "start", None
    return tree["phase"], tree.get("global_step")


def start(out: pathlib.Path, folder: pathlib.Path, *options: str) -> subprocess.Popen:
    """Start a run in a process group of its own; its words go to `out` with `.log`."""
    command = [sys.executable, "-m", "harness", "run", "--out", os.fspath(out), *options]
    environment = {
        **os.environ,
        # A warm start that is kept from another run could not be killed.
        "PPO_HARNESS_CACHE": os.fspath(out.with_suffix(".cache")),
        "JAX_COMPILATION_CACHE_DIR": os.fspath(folder / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with out.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def assignments() -> list[str]:
    """Return the options of the study's recipe."""
    return [word for each in RECIPE for word in ("--set", each)]


def timeline(out: pathlib.Path, process: subprocess.Popen) -> dict[tuple[str, int | None], float]:
    """Watch a run to its end; gives the seconds of each phase."""
    seconds: dict[tuple[str, int | None], float] = collections.defaultdict(float)
    last, began = now(out), time.monotonic()
    while process.poll() is None:
        time.sleep(0.002)
        if (found := now(out)) != last:
            seconds[last] += time.monotonic() - began
            last, began = found, time.monotonic()
    return dict(seconds)


def _files(out: pathlib.Path) -> int:
    """Count the files of checkpoints, finished or not."""
    return sum(len(names) for _, _, names in os.walk(out / "checkpoints"))


def kill(
    out: pathlib.Path,
    folder: pathlib.Path,
    moment: Moment,
    seconds: dict[Any, float],
    files: float,
) -> tuple[str, int | None] | None:
    """Start a run and kills it; gives what it was doing, none if it had ended."""
    process = start(out, folder, *assignments())
    wanted = (moment.phase, moment.global_step)
    while now(out) != wanted and process.poll() is None:
        time.sleep(0.001)
    if moment.phase == "checkpoint":
        # Too short to be hit by the clock; its files come in their order.
        last = _files(out) + moment.fraction * files
        while _files(out) < last and now(out) == wanted:
            pass
    else:
        deadline = time.monotonic() + moment.fraction * seconds[wanted]
        while time.monotonic() < deadline and now(out) == wanted:
            time.sleep(0.001)
    if process.poll() is not None:
        return None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return now(out)


def moments(seed: int, steps: int, phases: Sequence[str] = PHASES) -> Iterator[Moment]:
    """Draw moments without end: the phases in turn, each time in another order."""
    rng = random.Random(seed)
    while True:
        for phase in rng.sample(phases, len(phases)):
            stepped = phase in ("rollout", "train", "checkpoint")
            yield Moment(phase, rng.randint(1, steps) if stepped else None, rng.random())


def study(
    kills: int, seed: int, folder: pathlib.Path, phases: Sequence[str] = PHASES
) -> list[dict[str, Any]]:
    """Kill and resumes; gives a row per kill, at least as many and each phase hit twice."""
    reference = folder / "reference"
    process = start(reference, folder, *assignments())
    if process.wait() != 0:
        raise RuntimeError(reference.with_suffix(".log").read_text())
    # A second one, since the first also compiled.
    twin = folder / "twin"
    process = start(twin, folder, *assignments())
    seconds = timeline(twin, process)
    if output := differences(twin, reference):
        raise RuntimeError(f"two runs that were not killed differ: {output}")
    files = _files(reference) / 4  # of one of its four checkpoints
    rows: list[dict[str, Any]] = []
    hits: collections.Counter[str] = collections.Counter()
    for number, moment in enumerate(moments(seed, 4, phases)):
        if len(rows) >= kills and all(hits[phase] >= 2 for phase in phases):
            break
        if (moment.phase, moment.global_step) not in seconds:
            continue  # no checkpoint fell due in that global step
        out = folder / f"run-{number}"
        phase = kill(out, folder, moment, seconds, files)
        if phase is None:
            continue
        torn = len(list((out / "checkpoints").glob("*/*.orbax-checkpoint-tmp*")))
        code = start(out, folder, "--resume").wait()
        output = differences(out, reference) if code == 0 else [f"exit code {code}"]
        hits[phase[0]] += 1
        rows.append(
            {
                "phase": phase[0],
                "global_step": phase[1],
                "fraction": moment.fraction,
                "torn_checkpoints": torn,
                "resumed_at": json.loads((out / "result.json").read_text())["resumed_at"]
                if code == 0
                else None,
                "differences": output,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; 1 if a resumed run differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phase", action="append", choices=PHASES, help="may be repeated")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ppo-harness-killing-") as folder:
        phases = options.phase or PHASES
        rows = study(options.kills, options.seed, pathlib.Path(folder), phases)
    hits = collections.Counter(row["phase"] for row in rows)
    identical = sum(not row["differences"] for row in rows)
    print(f"{len(rows)} kills, {identical} resumed runs identical; hits: {dict(hits)}")
    if options.json:
        options.json.write_text(json.dumps({"kills": rows, "hits": hits}, indent=2) + "\n")
    return int(identical < len(rows))


if __name__ == "__main__":
    crash.end(main)
