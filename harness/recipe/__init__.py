"""The recipe: every hyper-parameter of GSM8K PPO in one frozen, validated tree.

`schema` has the tree, `load` reads it from a preset (`harness/presets`), a TOML file and
`group.field=value` assignments, in that order, and `summary` works out what a recipe will do.
Whatever the way in, the same rules refuse the same values.
"""

from harness.recipe.fields import Dtype
from harness.recipe.load import PRESETS, from_dict, from_toml, load, replace, to_dict, to_toml
from harness.recipe.schedule import (
    global_steps,
    learning_rate,
    max_steps,
    optimizer_steps_per_batch,
    whitening_groups,
)
from harness.recipe.schema import (
    Batching,
    Checkpoints,
    Critic,
    Lora,
    Model,
    Optimizers,
    Ppo,
    Precision,
    Recipe,
    Rollout,
    Sharding,
    train_batches,
)
from harness.recipe.summary import Summary, summarize
from harness.recipe.task import (
    Arithmetic,
    Data,
    Evaluation,
    Generation,
    Metrics,
    Reward,
    WarmStart,
)
from harness.recipe.warnings import RecipeWarning

__all__ = [
    "PRESETS",
    "Arithmetic",
    "Batching",
    "Checkpoints",
    "Critic",
    "Data",
    "Dtype",
    "Evaluation",
    "Generation",
    "Lora",
    "Metrics",
    "Model",
    "Optimizers",
    "Ppo",
    "Precision",
    "Recipe",
    "RecipeWarning",
    "Reward",
    "Rollout",
    "Sharding",
    "Summary",
    "WarmStart",
    "from_dict",
    "from_toml",
    "global_steps",
    "learning_rate",
    "load",
    "max_steps",
    "optimizer_steps_per_batch",
    "replace",
    "summarize",
    "to_dict",
    "to_toml",
    "train_batches",
    "whitening_groups",
]
