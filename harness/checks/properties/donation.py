"""What a program writes over, and what it hands back."""

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

from flax import nnx

from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.property import EXACT, Comparison, Observed, Property
from harness.upstream.instrument import programs
from harness.upstream.instrument import resident as resident_lib


@dataclasses.dataclass(frozen=True)
class Program:
    """How the arrays of a compiled program stand to each other.

    Attributes:
      weights: Arrays of the model that it is given.
      donated: Arguments that its results may be written over.
      results: Arrays that it returns.
      figures: Arrays among them that are no weights and no optimizer state.
    """

    weights: int
    donated: int
    results: int
    figures: int


def _observe(context: Context) -> Observed:
    learner = context.components.learner
    cluster: Any = learner.rl_cluster
    trainers = {"actor_step": cluster.actor_trainer, "critic_step": cluster.critic_trainer}
    size = context.recipe.batching.train_micro_batch_size
    found = {}
    for name in ("actor_step", "critic_step", "values"):
        trainer = trainers.get(name, cluster.critic_trainer)
        role = name.split("_")[0]
        aux = next((len(u.aux) for u in context.trace.updates if u.role == role), 0)
        donated, results = programs.donated_and_results(learner, name, size)
        found[name] = Program(
            weights=len(nnx.to_flat_state(nnx.state(trainer.model))),
            donated=donated,
            results=results,
            # Loss, gradient norm and what is reported beside them; or the scores.
            figures=1 if name == "values" else 2 + aux,
        )
    anchors = [each.arrays for each in resident_lib.resident(learner) if each.pinned]
    return {"programs": found, "copies": sum(anchors)}


def _compare(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    not_donated = "model-not-donated" in known
    for name, each in observed["programs"].items():
        yield Comparison(
            f"results of {name} that are written over no argument",
            each.results - each.donated,
            each.figures + (each.weights if not_donated else 0),
        )
    weights = observed["programs"]["actor_step"].weights
    yield Comparison(
        "arrays of the policy that the host holds once more",
        observed["copies"],
        weights if "policy-anchored" in known else 0,
    )


def _changed(name: str, **changes: int) -> Any:
    return wrong.value(
        "programs", lambda found: {**found, name: dataclasses.replace(found[name], **changes)}
    )


PROPERTIES = (
    Property(
        id="steps-overwrite",
        area="compilation",
        statement=(
            "A train step writes new weights and moments over the old ones, and no program "
            "returns weights that it does not train."
        ),
        tolerance=EXACT,
        observe=_observe,
        compare=_compare,
        wrong={
            "nothing donated": _changed("critic_step", donated=0),
            "the frozen base returned": _changed("actor_step", results=200),
            "a weight returned with the values": _changed("values", results=2),
            "a copy of the policy": wrong.value("copies", lambda copies: copies + 27),
        },
        defects=("model-not-donated", "policy-anchored"),
    ),
)
