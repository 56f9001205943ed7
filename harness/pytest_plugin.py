"""The recipe's pieces as pytest fixtures.

`recipe` → `mesh`, `tokenizer`, `dataset`, `policy`, `actor`, `critic` →
`cluster` → `learner` → `rollout_batch`, `train_example`. Override any one in a
conftest, usually `recipe`, and all that rests on it follows:

    import pytest
    from harness import recipe as recipe_lib

    @pytest.fixture
    def recipe():
        return recipe_lib.load("tiny", assignments=["lora.rank=4"])

Fixtures are made anew for each test, so tests cannot spoil each other's
weights; what makes that cheap is that XLA programs are compiled once per
session and kept in a temporary folder. `--harness-scope=module` (or `session`)
shares the fixtures too.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

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
def compiled_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """Folder in which XLA programs are kept for this session, so that each compiles once."""
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
    if before["jax_compilation_cache_dir"]:  # the user keeps one already
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
def recipe() -> Any:
    """The `tiny` recipe (`harness.recipe.Recipe`); the fixture to override."""
    from harness import recipe as recipe_lib

    return recipe_lib.load("tiny")


@pytest.fixture(scope=_scope)
def mesh(recipe: Any) -> Any:
    """The (fsdp, tp) mesh of the recipe (`jax.sharding.Mesh`)."""
    from harness import models

    return models.make_mesh(recipe.sharding)


@pytest.fixture(scope=_scope)
def tokenizer(recipe: Any) -> Any:
    """The recipe's tokenizer (`harness.tokenizer.Tokenizer`)."""
    from harness import tokenizer as tokenizer_lib

    return tokenizer_lib.load(recipe)


@pytest.fixture(scope=_scope)
def dataset(recipe: Any, tokenizer: Any) -> Any:
    """Batches of problems (`harness.data.Dataset`): `train`, `validation`, `test`."""
    from harness import data

    return data.load(recipe, tokenizer)


@pytest.fixture(scope=_scope)
def policy(recipe: Any, mesh: Any) -> Any:
    """The Gemma 3 before LoRA and without warm start, random or from the checkpoint."""
    from harness import pipeline

    return pipeline.make_policy(recipe, mesh)


@pytest.fixture(scope=_scope)
def actor(recipe: Any, mesh: Any, policy: Any) -> Any:
    """The policy with LoRA; at the start it computes what `policy` computes."""
    from harness import models

    return models.build_actor(recipe, policy, mesh)


@pytest.fixture(scope=_scope)
def critic(recipe: Any, mesh: Any, policy: Any) -> Any:
    """The value model (`harness.models.GemmaCritic`), begun from the policy's weights."""
    from harness import models

    return models.build_critic(recipe, policy, mesh)


@pytest.fixture(scope=_scope)
def reward_fn(recipe: Any) -> Any:
    """The recipe's reward, `(prompts, completions, **columns) -> list[float]`."""
    from harness import rewards

    return rewards.build(recipe.reward)


@pytest.fixture(scope=_scope)
def fixes(request: pytest.FixtureRequest) -> Any:
    """Ids of the Tunix defects that are fixed, by `--harness-upstream`."""
    from harness import upstream

    mode: Any = request.config.getoption("--harness-upstream")
    return upstream.choose_fixes(mode)


@pytest.fixture(scope=_scope)
def cluster(
    recipe: Any,
    mesh: Any,
    tokenizer: Any,
    policy: Any,
    actor: Any,
    critic: Any,
    fixes: Any,
    compiled_programs: Any,
) -> Any:
    """Tunix's cluster of actor, critic and rollout; it writes nothing to disk."""
    from harness import upstream

    del compiled_programs
    return upstream.make_cluster(
        recipe,
        mesh=mesh,
        actor=actor,
        critic=critic,
        reference=policy if recipe.ppo.beta > 0 else None,
        tokenizer=tokenizer,
        fixes=fixes,
    )


@pytest.fixture(scope=_scope)
def learner(recipe: Any, cluster: Any, reward_fn: Any, fixes: Any) -> Iterator[Any]:
    """Tunix's PPO learner; `learner.train(dataset.train)` trains."""
    from harness import upstream

    made = upstream.make_learner(recipe, cluster=cluster, reward_fn=reward_fn, fixes=fixes)
    yield made
    upstream.release(made)


@pytest.fixture(scope=_scope)
def rollout_batch(dataset: Any) -> Any:
    """The first training batch: `prompts`, `question` and `answer`, each [batch]."""
    return dataset.train[0]


@pytest.fixture(scope=_scope)
def train_example(learner: Any, rollout_batch: Any) -> Any:
    """What one rollout of `rollout_batch` gives the trainers.

    Prompt ids [B, P]; completion ids, masks, old log-probs, old values,
    advantages and returns [B, T].
    """
    from harness import upstream

    return upstream.generate_example(learner, rollout_batch)
