"""The recipe's components as pytest fixtures.

`ppo_recipe` → `ppo_mesh`, `ppo_tokenizer`, `ppo_dataset`, `ppo_policy`, `ppo_actor`, `ppo_critic` →
`ppo_cluster` → `ppo_learner` → `ppo_rollout`, `ppo_train_example`. Override any one in a conftest,
usually `ppo_recipe`, and all that rests on it follows:

    import pytest
    from harness import recipe as recipe_lib

    @pytest.fixture
    def ppo_recipe():
        return recipe_lib.load("tiny", assignments=["lora.rank=4"])

Fixtures are made anew for each test, so tests cannot spoil each other's
weights; what makes that cheap is that XLA programs are compiled once per
session and stored in a temporary folder. `--harness-scope=module` (or `session`)
shares the fixtures too.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    # Imported by the fixtures that are used: pytest loads this module in every session.
    from jax.sharding import Mesh
    from tunix.models.gemma3.model import Gemma3

    from harness.data import Dataset
    from harness.models import GemmaCritic
    from harness.recipe import Recipe
    from harness.tokenizer import Tokenizer
    from harness.upstream import Cluster, Fixes, Learner, RewardFn, RolloutOutput, TrainExample

SCOPES = ("function", "class", "module", "package", "session")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this plugin."""
    group = parser.getgroup("ppo-harness", "Tunix PPO harness")
    group.addoption(
        "--harness-scope",
        choices=SCOPES,
        default="function",
        help="Scope of the harness fixtures (default: function).",
    )
    group.addoption(
        "--harness-upstream",
        choices=("patched", "stock"),
        default="patched",
        help="Fix known issues of the installed Tunix, or leave it as it is.",
    )


def _scope(fixture_name: str, config: pytest.Config) -> Any:
    del fixture_name
    return config.getoption("--harness-scope")


@pytest.fixture(scope="session")
def ppo_compiled_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """Folder in which XLA programs are stored for this session, so that each compiles once."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    # The workers of one pytest-xdist session share their programs too.
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "xla"
    names = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in names}
    if before["jax_compilation_cache_dir"]:  # the user has one already
        yield pathlib.Path(before["jax_compilation_cache_dir"])
        return
    for name, value in names.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield pathlib.Path(names["jax_compilation_cache_dir"])
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope=_scope)
def ppo_recipe() -> Recipe:
    """The `tiny` recipe (`harness.recipe.Recipe`); the fixture to override."""
    from harness import recipe as recipe_lib

    return recipe_lib.load("tiny")


@pytest.fixture(scope=_scope)
def ppo_mesh(ppo_recipe: Recipe) -> Mesh:
    """The (fsdp, tp) mesh of the recipe (`jax.sharding.Mesh`)."""
    from harness import models

    return models.make_mesh(ppo_recipe.sharding)


@pytest.fixture(scope=_scope)
def ppo_tokenizer(ppo_recipe: Recipe) -> Tokenizer:
    """The recipe's tokenizer (`harness.tokenizer.Tokenizer`)."""
    from harness import tokenizer as tokenizer_lib

    return tokenizer_lib.load(ppo_recipe)


@pytest.fixture(scope=_scope)
def ppo_dataset(ppo_recipe: Recipe, ppo_tokenizer: Tokenizer) -> Dataset:
    """Batches of problems (`harness.data.Dataset`): `train`, `validation`, `test`."""
    from harness import data

    return data.load(ppo_recipe, ppo_tokenizer)


@pytest.fixture(scope=_scope)
def ppo_policy(ppo_recipe: Recipe, ppo_mesh: Mesh) -> Gemma3:
    """The Gemma 3 before LoRA and without warm start, random or from the checkpoint."""
    from harness import models

    return models.make_policy(ppo_recipe, ppo_mesh)


@pytest.fixture(scope=_scope)
def ppo_actor(ppo_recipe: Recipe, ppo_mesh: Mesh, ppo_policy: Gemma3) -> Gemma3:
    """The policy with LoRA; at the start it computes what `ppo_policy` computes."""
    from harness import models

    return models.build_actor(ppo_recipe, ppo_policy, ppo_mesh)


@pytest.fixture(scope=_scope)
def ppo_critic(ppo_recipe: Recipe, ppo_mesh: Mesh, ppo_policy: Gemma3) -> GemmaCritic:
    """The value model (`harness.models.GemmaCritic`), begun from the policy's weights."""
    from harness import models

    return models.build_critic(ppo_recipe, ppo_policy, ppo_mesh)


@pytest.fixture(scope=_scope)
def ppo_reward_fn(ppo_recipe: Recipe) -> RewardFn:
    """The recipe's reward, `(prompts, completions, **columns) -> list[float]`."""
    from harness import rewards

    return rewards.build(ppo_recipe.reward)


@pytest.fixture(scope=_scope)
def ppo_fixes(request: pytest.FixtureRequest) -> Fixes:
    """Ids of the Tunix defects that are fixed, by `--harness-upstream`."""
    from harness import upstream

    mode: Any = request.config.getoption("--harness-upstream")
    return upstream.choose_fixes(mode)


@pytest.fixture(scope=_scope)
def ppo_cluster(
    ppo_recipe: Recipe,
    ppo_mesh: Mesh,
    ppo_tokenizer: Tokenizer,
    ppo_policy: Gemma3,
    ppo_actor: Gemma3,
    ppo_critic: GemmaCritic,
    ppo_fixes: Fixes,
    ppo_compiled_programs: pathlib.Path,
) -> Cluster:
    """Tunix's cluster of actor, critic and rollout; it writes nothing to disk."""
    from harness import upstream

    del ppo_compiled_programs
    return upstream.make_cluster(
        ppo_recipe,
        mesh=ppo_mesh,
        actor=ppo_actor,
        critic=ppo_critic,
        reference=ppo_policy if ppo_recipe.ppo.beta > 0 else None,
        tokenizer=ppo_tokenizer,
        fixes=ppo_fixes,
    )


@pytest.fixture(scope=_scope)
def ppo_learner(
    ppo_recipe: Recipe, ppo_cluster: Cluster, ppo_reward_fn: RewardFn, ppo_fixes: Fixes
) -> Iterator[Learner]:
    """Tunix's PPO learner; `ppo_learner.train(ppo_dataset.train)` trains."""
    from harness import upstream

    made = upstream.make_learner(
        ppo_recipe, cluster=ppo_cluster, reward_fn=ppo_reward_fn, fixes=ppo_fixes
    )
    yield made
    upstream.release(made)


@pytest.fixture(scope=_scope)
def ppo_batch(ppo_dataset: Dataset) -> Mapping[str, np.ndarray]:
    """The first training batch: `prompts`, `question` and `answer`, each [batch]."""
    return next(iter(ppo_dataset.train))


@pytest.fixture(scope=_scope)
def ppo_rollout(ppo_learner: Learner, ppo_batch: Mapping[str, np.ndarray]) -> RolloutOutput:
    """Completions of `ppo_batch` as Tunix returns them: `text` and `tokens`, a list each."""
    from harness import upstream

    return upstream.sample(ppo_learner, ppo_batch)


@pytest.fixture(scope=_scope)
def ppo_train_example(ppo_learner: Learner, ppo_batch: Mapping[str, np.ndarray]) -> TrainExample:
    """What the trainers receive for `ppo_batch`.

    Prompt ids [B, P]; completion ids, masks, old log-probs, old values,
    advantages and returns [B, T].
    """
    from harness import upstream

    return upstream.generate_example(ppo_learner, ppo_batch)
