import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import tunix
from tunix.generate import sampler as sampler_lib
from tunix.rl import rl_cluster
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import vanilla_rollout

from harness import models, upstream
from harness import recipe as recipe_lib
from harness.checks.context import Context
from harness.errors import HarnessError
from harness.upstream import known_issues, rebind
from harness.upstream.engine import rollout as rollout_lib


def test_the_supported_releases_are_those_that_pip_may_install():
    assert known_issues.installed_version() in upstream.SUPPORTED


def test_the_defects_of_this_release_are_found_and_named_in_the_registrys_order():
    version = upstream.installed_version()
    had = tuple(
        each.id for each in upstream.KNOWN_ISSUES if each.probe and version in each.releases
    )
    assert upstream.present() == had
    fixes = upstream.choose_fixes("patched")
    avoided = [each.id for each in upstream.KNOWN_ISSUES if each.engine]
    assert fixes.ids == tuple(each for each in had if each not in avoided)
    assert list(fixes.avoided) == [each for each in avoided if each in had]
    assert upstream.choose_fixes("stock") == upstream.STOCK


def test_a_defect_without_a_probe_stands_in_the_releases_that_it_names(monkeypatch):
    monkeypatch.setattr(known_issues, "installed_version", lambda: "0.1.6")
    assert upstream.standing("lengths-compile")
    monkeypatch.setattr(known_issues, "installed_version", lambda: "0.1.7")
    assert not upstream.standing("lengths-compile")
    # A release that is newer than the known issues is taken for the newest that it knows.
    monkeypatch.setattr(known_issues, "installed_version", lambda: "9.0")
    assert not upstream.standing("lengths-compile")
    assert upstream.standing("prompt-list-torn")


def test_known_issues_say_all_that_a_reader_needs():
    for defect in upstream.KNOWN_ISSUES:
        for text in (defect.title, defect.effect, defect.fix or "."):
            assert text.endswith("."), defect.id
        assert defect.where.startswith("tunix/")


@pytest.mark.parametrize(
    "defect",
    [each for each in upstream.KNOWN_ISSUES if each.releases[-1] == upstream.installed_version()],
    ids=lambda defect: defect.id,
)
def test_a_line_number_points_at_code(defect):
    name, line = defect.where.split(":")
    text = (pathlib.Path(tunix.__file__).parents[1] / name).read_text().splitlines()
    code = text[int(line) - 1].strip()
    assert code
    assert not code.startswith("#")


@pytest.fixture(scope="module")
def patched(own_cache):
    del own_cache
    context = Context("patched")
    yield context
    context.close()


def test_stock_is_tunix_exactly_as_installed():
    context = Context("stock")
    try:
        components = context.components
        assert type(components.learner) is ppo_learner.PPOLearner
        assert type(components.cluster) is rl_cluster.RLCluster
        assert type(components.cluster.rollout) is vanilla_rollout.VanillaRollout
        worker: Any = components.cluster.rollout
        assert type(worker._sampler) is sampler_lib.Sampler
    finally:
        context.close()


def test_fixes_leave_upstreams_own_classes_alone(patched):
    assert type(patched.components.learner) is not ppo_learner.PPOLearner
    upstream.present.cache_clear()
    fixable = {each.id for each in upstream.KNOWN_ISSUES if each.fix}
    assert {each for each in upstream.present() if each in fixable} == {
        *patched.fixes,
        *patched.fixes.avoided,
    }


def test_the_engines_worker_and_the_plain_one_take_foreign_tokenizers(patched):
    components = patched.components

    class Foreign:
        """Shows stop tokens in its text, as a plain SentencePiece model does."""

        def encode(self, text):
            return components.tokenizer.encode(text)

        def decode(self, ids):
            return " ".join(map(str, ids))

        def bos_id(self):
            return components.tokenizer.bos_id()

        def eos_id(self):
            return components.tokenizer.eos_id()

        def pad_id(self):
            return components.tokenizer.pad_id()

    worker = rollout_lib.EngineRollout(
        components.actor,
        Foreign(),
        components.mesh,
        components.cluster.cluster_config.rollout_config,
        fixes=components.cluster.fixes,
        seed=0,
    )
    config: Any = components.cluster.cluster_config.rollout_config
    batch: Any = components.dataset.train[0]
    with models.entered(components.mesh):
        found = worker.generate([str(each) for each in batch["prompts"][:4]], config)
    ends = {str(each) for each in config.eos_tokens}
    assert any(row[-1] in config.eos_tokens for row in found.tokens)
    assert not any(ends & set(text.split()) for text in found.text)


def test_rebinding_a_name_that_is_not_looked_up_fails():
    def double(x):
        return jnp.add(x, x)

    assert rebind.rebind(double, jnp=np)(2) == 4
    with pytest.raises(AttributeError, match="does not look up 'nothing'"):
        rebind.rebind(double, nothing=1)
    with pytest.raises(AttributeError):
        rebind.Overlay(jnp, no_such_function=1)


def _fresh_actor(recipe: recipe_lib.Recipe):
    mesh = models.make_mesh(recipe.sharding)
    policy = models.make_policy(recipe, mesh)
    return models.apply_lora(policy, recipe.lora, mesh, recipe.seed)


def test_a_folder_without_checkpoints_is_refused(ppo_recipe, tmp_path):
    assert upstream.saved_steps(tmp_path) == []
    with pytest.raises(HarnessError, match="holds no checkpoint: train first"):
        upstream.restore_actor(_fresh_actor(ppo_recipe), tmp_path)
