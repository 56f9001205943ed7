"""What is trained of a critic by LoRA."""

import dataclasses
from collections.abc import Collection, Iterator
from typing import Any

from flax import nnx

from harness import models
from harness import recipe as recipe_lib
from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.property import EXACT, Comparison, Observed, Property
from harness.upstream.instrument import programs


@dataclasses.dataclass(frozen=True)
class Trained:
    """Parameters of a critic by LoRA, and how many of them the optimizer has.

    Attributes:
      adapters: LoRA factors that are trained.
      adapters_in_all: LoRA factors.
      head: Weights of the value head that are trained.
      base: Weights of the backbone that are trained.
    """

    adapters: int
    adapters_in_all: int
    head: int
    base: int


def _observe(context: Context) -> Observed:
    recipe = recipe_lib.replace(context.recipe, "critic.lora.rank=2")
    mesh = models.make_mesh(recipe.sharding)
    trainer: Any = programs.abstract_learner(recipe, mesh, context.fixes).rl_cluster.critic_trainer
    everything = _paths(nnx.state(trainer.model, nnx.Param))
    trained = _paths(nnx.state(trainer.model, trainer.optimizer.wrt))
    adapters = {path for path in everything if "_lora_" in path}
    head = {path for path in trained if path.startswith("score/")}
    return {
        "trained": Trained(
            adapters=len(trained & adapters),
            adapters_in_all=len(adapters),
            head=len(head),
            base=len(trained - adapters - head),
        )
    }


def _paths(state: Any) -> set[str]:
    return {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(state)}


def _compare(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    found = observed["trained"]
    yield Comparison("adapters that are trained", found.adapters, found.adapters_in_all)
    frozen = "lora-critic-head-frozen" in known
    yield Comparison("weights of the head that are trained", found.head, 0 if frozen else 1)
    yield Comparison("weights of the frozen base that are trained", found.base, 0)


def _changed(**changes: int) -> Any:
    return wrong.value("trained", lambda found: dataclasses.replace(found, **changes))


PROPERTIES = (
    Property(
        id="lora-critic-trains-its-head",
        area="update",
        statement="Of a critic by LoRA, the adapters and the value head are trained, nothing else.",
        tolerance=EXACT,
        observe=_observe,
        compare=_compare,
        wrong={
            "an adapter left out": _changed(adapters=1),
            "a bias of the head besides": _changed(head=2),
            "the base trained": _changed(base=1),
        },
        defects=("lora-critic-head-frozen",),
    ),
)
