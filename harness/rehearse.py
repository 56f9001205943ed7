"""The path of `e2e` at its real size, on random weights: what it takes in seconds and bytes.

A random Gemma 3 is written as a checkpoint in the layout in which Gemma 3 is published, a
tokenizer beside it, and the recipe is run on it from the checkpoint to the second evaluation.
Weights, vocabulary and layers are the reference's; prompts, completions and batches are short,
so that a machine without an accelerator gets through it.
"""

import contextlib
import dataclasses
import gc
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console

from harness import e2e, errors, files, models, training
from harness import recipe as recipe_lib
from harness import tokenizer as tokenizer_lib
from harness.measure import environment, memory
from harness.measure import parts as parts_lib
from harness.models import checkpoint, gemma, probe

SCHEMA = "tunix-ppo-harness/rehearsal/1"
GIB = 2**30
# Share of the limit from which freed memory is given back.
_NEAR = 0.75

# One micro-batch is the mini-batch: no gradient is accumulated. Two batches, so that a batch is
# sampled with what the one before taught, and the second checkpoint replaces the first.
_SHORT = (
    "model.weights=checkpoint",
    "model.tokenizer=checkpoint",
    "model.dtype=bfloat16",
    # Masters and moments of a full critic in float32 are 12 bytes a weight; nothing is learned
    # here in two batches that would be lost.
    "precision.trained=bfloat16",
    "precision.moments=bfloat16",
    "data.source=arithmetic",
    "data.num_batches=2",
    "data.num_test_batches=1",
    "rollout.max_prompt_length=24",
    "rollout.max_new_tokens=8",
    "rollout.cache_size=32",
    'rollout.stop_tokens=["<eos>", "<end_of_turn>"]',
    "batching.rollout_batch_size=4",
    "batching.mini_batch_size=4",
    "batching.train_micro_batch_size=4",
    "batching.rollout_micro_batch_size=4",
    "batching.compute_logps_micro_batch_size=4",
    "optimizers.max_steps=all",
    "checkpoints.max_to_keep=1",
)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a rehearsal may take.

    Attributes:
      bytes: Resident set of the process.
      seconds: Wall time.
    """

    bytes: int = 16 * GIB
    seconds: float = 15 * 60


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal took.

    Attributes:
      recipe: What was run.
      limits: What it may take.
      seconds: Wall time, from the first weight drawn to the second evaluation.
      peak_bytes: Largest resident set of the process.
      peaks_are_reset: Whether the peak of a part is its own; if not, it is the peak since the
        process began.
      checkpoint_bytes: Bytes of the published layout on the disk.
      saved_bytes: Bytes of the last training checkpoint on the disk, both models.
      parts: As `harness.measure.parts.Parts.to_list` returns them.
      wrong: What did not hold, a sentence each.
      environment: Versions and devices.
    """

    recipe: recipe_lib.Recipe
    limits: Limits
    seconds: float
    peak_bytes: int
    peaks_are_reset: bool
    checkpoint_bytes: int
    saved_bytes: int
    parts: list[dict[str, Any]]
    wrong: tuple[str, ...]
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        tree = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            "schema": SCHEMA,
            **tree,
            "recipe": recipe_lib.to_dict(self.recipe),
            "limits": dataclasses.asdict(self.limits),
            "wrong": list(self.wrong),
        }


def recipe_for(folder: pathlib.Path, assignments: tuple[str, ...] = ()) -> recipe_lib.Recipe:
    """Return the reference recipe with short sequences and few steps.

    Args:
      folder: Where the checkpoint is, or will be.
      assignments: Changes, such as `model.num_layers=4`.

    Returns:
      The recipe.

    Raises:
      HarnessError: A change is not allowed, or weights would not come from the folder.
    """
    recipe = recipe_lib.load("gemma3-1b", assignments=(*_SHORT, *assignments))
    if recipe.model.weights != "checkpoint" or recipe.model.checkpoint is not None:
        raise errors.HarnessError(
            "a rehearsal writes the checkpoint that it loads: leave model.weights and "
            "model.checkpoint alone"
        )
    return recipe_lib.from_dict(
        recipe_lib.to_dict(recipe)
        | {"model": recipe_lib.to_dict(recipe)["model"] | {"checkpoint": str(folder)}}
    )


def run(
    out: pathlib.Path,
    *,
    assignments: tuple[str, ...] = (),
    limits: Limits = Limits(),
    console: Console | None = None,
) -> Rehearsal:
    """Write the checkpoint and run the recipe on it.

    Args:
      out: Folder to make, for `checkpoint/`, `log_probs.json` and `run/`; new or empty.
      assignments: Changes of the recipe.
      limits: The process is ended when its resident set grows past `limits.bytes`.
      console: Where progress goes.

    Returns:
      What it took, and what did not hold.

    Raises:
      HarnessError: A change is not allowed, or the folder cannot be used.
    """
    recipe = recipe_for(out / "checkpoint", assignments)
    _claim(out)
    parts = parts_lib.Parts()
    start = time.perf_counter()
    with ended_beyond(limits.bytes, parts), parts("rehearsal"):
        with parts("write checkpoint"):
            sha256 = write_checkpoint(recipe, out)
            gc.collect()  # modules refer to themselves, and would keep the weights
            memory.give_back()
        result = training.run(
            recipe, out / "run", console=console, log_probs=out / "log_probs.json", part=parts
        )
    seconds = time.perf_counter() - start
    found = parts.to_list()
    return Rehearsal(
        recipe=recipe,
        limits=limits,
        seconds=seconds,
        peak_bytes=next(each["peak_bytes"] for each in found if each["name"] == "rehearsal"),
        peaks_are_reset=parts.peaks_are_reset,
        checkpoint_bytes=_size(out / "checkpoint"),
        saved_bytes=sum(
            _size(out / "run" / "checkpoints" / role / str(result.checkpoint_step))
            for role in ("actor", "critic")
        ),
        parts=found,
        wrong=tuple(wrong(result, sha256, seconds, limits)),
        environment=environment.fingerprint(),
    )


def write_checkpoint(recipe: recipe_lib.Recipe, out: pathlib.Path) -> str:
    """Write random weights, a tokenizer and the log-probs of a prompt.

    Args:
      recipe: Shapes, dtype and seed.
      out: `checkpoint/` and `log_probs.json` are made in it.

    Returns:
      The checksum of the weights.
    """
    folder = out / "checkpoint"
    mesh = models.make_mesh(recipe.sharding)
    policy = models.random_gemma(recipe.model, mesh, recipe.seed)
    checkpoint.write(gemma.weights_of(policy), folder / "gemma3")
    (folder / "tokenizer.model").write_bytes(tokenizer_lib.builtin().model)
    found = probe.log_probs(policy, tokenizer_lib.load(recipe), mesh)
    probe.write(found, out / "log_probs.json")
    return models.checksum(policy)


def _claim(out: pathlib.Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise errors.HarnessError(f"{out} is not an empty folder: name a new one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.cannot_write(out, error) from None


def wrong(result: training.Result, sha256: str, seconds: float, limits: Limits) -> Iterator[str]:
    """Return what did not hold, a sentence each."""
    loaded = (result.model or {}).get("sha256")
    if loaded != sha256:
        yield f"loaded weights have checksum {loaded}, written were {sha256}"
    for figure in e2e.figures(result, None):
        if figure.holds is False:
            yield f"{figure.name} is {figure.measured}, expected is {figure.expected}"
    if seconds > limits.seconds:
        yield f"it took {seconds:.0f} seconds, more than {limits.seconds:.0f}"


def _size(folder: pathlib.Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _end(message: str) -> None:
    """End the process at once: a thread cannot stop a compiled program."""
    sys.stderr.write(f"error: {message}\n")
    sys.stderr.flush()
    os._exit(1)


@contextlib.contextmanager
def ended_beyond(
    limit: int,
    parts: parts_lib.Parts,
    *,
    resident: Callable[[], int] = memory.process_memory,
    give_back: Callable[[], None] = memory.give_back,
    end: Callable[[str], None] = _end,
) -> Iterator[None]:
    """End the process when it grows past a limit, rather than let the kernel choose.

    Compiling leaves gigabytes with the allocator that nothing uses: near the limit they are given
    back before the process is judged by them.
    """
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            held = resident()
            if held > _NEAR * limit:
                give_back()
                held = resident()
            if held > limit:
                end(
                    f"the rehearsal holds {held / GIB:.2f} GiB in {' > '.join(parts.running)}, "
                    f"more than the {limit / GIB:.2f} GiB that it may: give it more by "
                    "--max-gib, or fewer layers by --set model.num_layers=N"
                )
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
