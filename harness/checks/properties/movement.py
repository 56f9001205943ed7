"""Which weights an optimizer step moves, and which weights are sampled from."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.properties.update import ROLES, observe_updates, without_movement
from harness.checks.property import EXACT, Comparison, Observed, Property


def _compare_movement(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    for role in ROLES:
        pairs = [
            (step, after)
            for step, after in zip(observed["steps"], observed["after"], strict=True)
            if step.role == role
        ]
        for step, _ in pairs:
            for index, update in enumerate(step.updates[:-1]):
                still = all(np.array_equal(update.after[n], update.before[n]) for n in update.after)
                yield Comparison(
                    f"{role}: weights rest while gradient {index} of step {step.number} is kept",
                    still,
                    True,
                )
        start, end = pairs[0][0].before, pairs[-1][1]
        for name in start:
            trained = role == "critic" or "_lora_" in name
            moved = not np.array_equal(start[name], end[name])
            yield Comparison(f"{role}: {name} has moved", moved, trained)


def _observe_freshness(context: Context) -> Observed:
    """Pairs weights that a part used with those that the last step left."""
    latest: dict[str, Any] = {}
    used: list[tuple[str, Any, Any]] = []
    trace = context.trace
    queues = {
        "generate": iter(trace.generations),
        "group": iter(trace.groups),
        "update": iter(trace.updates),
    }
    for event in trace.events:
        if event == "batch":
            continue
        found = next(queues[event if event in queues else "update"])
        if event == "generate":
            used.append(("actor of a generation", found.actor, latest.get("actor")))
        elif event == "group":
            used.append(("actor of a group", found.actor, latest.get("actor")))
            used.append(("critic of a group", found.critic, latest.get("critic")))
        else:
            used.append((f"{event} of an update", found.before, latest.get(event)))
            latest[event] = found.after
    return {"used": [each for each in used if each[2] is not None]}


def _compare_freshness(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    for what, got, want in observed["used"]:
        names = sorted(want)
        yield Comparison(
            what,
            np.concatenate([got[name].ravel() for name in names]),
            np.concatenate([want[name].ravel() for name in names]),
        )


def _all_move(observed: Observed) -> Observed:
    after = [{n: leaf + 1 for n, leaf in step.after.items()} for step in observed["steps"]]
    return {**observed, "after": after}


PROPERTIES = (
    Property(
        id="what-moves",
        area="update",
        statement=(
            "The base of the policy rests bit for bit, every LoRA factor and every weight of the "
            "critic moves, and none before its gradients are all there."
        ),
        tolerance=EXACT,
        observe=observe_updates,
        compare=_compare_movement,
        wrong={"nothing": without_movement, "everything": _all_move},
    ),
    Property(
        id="freshness",
        area="update",
        statement=(
            "Generation, log-probs and values, and the next update use the weights that the last "
            "update left."
        ),
        tolerance=EXACT,
        observe=_observe_freshness,
        compare=_compare_freshness,
        wrong={
            "one update late": wrong.value(
                "used", lambda used: [(w, {n: x + 1 for n, x in g.items()}, a) for w, g, a in used]
            )
        },
    ),
)
