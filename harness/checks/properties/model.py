"""The models: LoRA before it is trained, weights from a checkpoint, and any mesh."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from harness import models, upstream
from harness.checks import wrong
from harness.checks.context import Context, recipe
from harness.checks.property import EXACT, Comparison, Observed, Property, Tolerance
from harness.models import checkpoint, gemma

_MESHES = ((1, 1), (2, 1), (1, 2), (4, 2))


def _ids(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Prompts [8, P] of every length down to one token, and completions [8, T]."""
    rng = np.random.default_rng(2)
    rollout = context.recipe.rollout
    vocabulary = context.recipe.model.vocab_size
    prompts = rng.integers(10, vocabulary, (8, rollout.max_prompt_length))
    for row, pads in enumerate(np.linspace(0, rollout.max_prompt_length - 1, 8, dtype=int)):
        prompts[row, :pads] = 0
    return prompts, rng.integers(10, vocabulary, (8, rollout.max_new_tokens))


def _observe_lora(context: Context) -> Observed:
    components = context.components
    fresh = models.build_actor(context.recipe, components.policy, components.mesh)
    prompts, completions = (each[:4] for each in _ids(context))
    return {
        "got": [upstream.log_probs_of(fresh, prompts, completions)],
        "want": upstream.log_probs_of(components.policy, prompts, completions),
        "moved": upstream.log_probs_of(components.actor, prompts, completions),
    }


def _compare_lora(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    want = observed["want"]
    yield Comparison("log-probs with LoRA before it is trained", observed["got"][0], want)
    moved = bool(np.abs(observed["moved"] - want).max() > 1e-3)
    yield Comparison("LoRA that is not zero changes them", moved, True)


def _observe_layout(context: Context) -> Observed:
    folder = context.folder / "published"
    weights = gemma.weights_of(context.components.policy)
    if not folder.exists():
        checkpoint.write(weights, folder)
    read = checkpoint.read(recipe(f"model.checkpoint={folder}", "model.weights=checkpoint").model)
    names = sorted(weights)
    return {
        "names": [names, sorted(read)],
        "want": [np.array(weights[name]) for name in names],
        "got": [np.array(read[name]) for name in sorted(read)],
    }


def _compare_layout(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    want, got = observed["names"]
    yield Comparison(
        "names of the weights",
        ["/".join(map(str, each)) for each in got],
        ["/".join(map(str, each)) for each in want],
    )
    for name, mine, theirs in zip(want, observed["got"], observed["want"], strict=True):
        yield Comparison("/".join(map(str, name)), mine, theirs)


def _turned(array: np.ndarray) -> np.ndarray:
    """Return a matrix the other way round, in its own shape."""
    return array.T.reshape(array.shape)


def _observe_meshes(context: Context) -> Observed:
    prompts, completions = _ids(context)
    found: dict[str, Any] = {"names": [], "got": []}
    for fsdp, tp in _MESHES:
        components = context.build(
            f"sharding.fsdp={fsdp}", f"sharding.tp={tp}", "batching.train_micro_batch_size=8"
        )
        cluster = components.cluster
        found["names"].append(f"({fsdp}, {tp})")
        found["got"].append(
            np.stack(
                [
                    upstream.log_probs(cluster, prompts, completions),
                    upstream.values(cluster, prompts, completions),
                ]
            )
        )
    replay, ids = context.replay, (prompts, completions)
    temperature = 1.0 if "log-prob-temperature" not in context.fixes else None
    policy = replay.policy(upstream.weights(components.actor))
    critic = upstream.weights(components.critic)
    want = np.stack([replay.log_probs(policy, *ids, temperature), replay.values(critic, *ids)])
    return {**found, "want": want}


def _compare_meshes(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    for name, got in zip(observed["names"], observed["got"], strict=True):
        yield Comparison(f"log-probs and values on a mesh {name}", got, observed["want"])


PROPERTIES = (
    Property(
        id="lora-starts-as-nothing",
        area="models",
        statement=(
            "Before it is trained, an actor with LoRA gives bit for bit the log-probs of the "
            "policy that it was made of."
        ),
        tolerance=EXACT,
        observe=_observe_lora,
        compare=_compare_lora,
        wrong={
            "the second factor is not zero": wrong.each("got", lambda x: x * (1 + 1e-6)),
            "of another row": wrong.each("got", wrong.next_row),
        },
    ),
    Property(
        id="published-layout",
        area="models",
        statement=(
            "A checkpoint in the layout in which Gemma 3 is published, read by Tunix's own map of "
            "names, gives every weight its place and its orientation."
        ),
        tolerance=EXACT,
        observe=_observe_layout,
        compare=_compare_layout,
        wrong={
            "matrices are turned": wrong.each("got", _turned),
            "of another layer": wrong.value("names", lambda x: [x[0], [*x[1][1:], x[1][0]]]),
        },
    ),
    Property(
        id="meshes-agree",
        area="models",
        statement=(
            "Log-probs and values are the oracle's on meshes (fsdp, tp) of (1, 1), (2, 1), (1, 2) "
            "and (4, 2) devices."
        ),
        tolerance=Tolerance(1e-4, 1e-4, "sums over devices in another order differ by some 1e-6"),
        observe=_observe_meshes,
        compare=_compare_meshes,
        wrong={
            "a device's rows are its neighbour's": wrong.each(
                "got", lambda x: np.roll(x, 2, axis=1)
            ),
        },
        slow=True,
    ),
)
