import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tunix
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.rl import common, rl_cluster, rl_learner
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import vanilla_rollout
from tunix.sft import peft_trainer

from harness import models, pipeline, upstream
from harness import recipe as recipe_lib
from harness.checks.lab import Lab
from harness.errors import HarnessError
from harness.upstream import learner as learner_lib
from harness.upstream import ledger, probes, rebind, versions
from harness.upstream import rollout as rollout_lib

PROBED = {defect.id: defect.probe for defect in upstream.DEFECTS if defect.probe}


def test_the_supported_releases_are_those_that_pip_may_install():
    assert ledger.installed_version() in upstream.SUPPORTED


def test_the_defects_of_this_release_are_found_and_named_in_the_ledgers_order():
    version = upstream.installed_version()
    had = tuple(each.id for each in upstream.DEFECTS if each.probe and version in each.releases)
    assert upstream.present() == had
    fixes = upstream.mends("mended")
    avoided = [each.id for each in upstream.DEFECTS if each.engine]
    assert fixes.ids == tuple(each for each in had if each not in avoided)
    assert list(fixes.avoided) == [each for each in avoided if each in had]
    assert upstream.mends("stock") == upstream.STOCK


def test_a_defect_without_a_probe_stands_in_the_releases_that_the_ledger_names(monkeypatch):
    monkeypatch.setattr(ledger, "installed_version", lambda: "0.1.6")
    assert upstream.standing("lengths-compile")
    monkeypatch.setattr(ledger, "installed_version", lambda: "0.1.7")
    assert not upstream.standing("lengths-compile")
    # A release that is newer than the ledger is taken for the newest that it knows.
    monkeypatch.setattr(ledger, "installed_version", lambda: "9.0")
    assert not upstream.standing("lengths-compile")
    assert upstream.standing("prompt-list-torn")


def test_ledger_entries_say_all_that_a_reader_needs():
    for defect in upstream.DEFECTS:
        for text in (defect.title, defect.effect, defect.mend or "."):
            assert text.endswith("."), defect.id
        assert defect.where.startswith("tunix/")


@pytest.mark.parametrize(
    "defect",
    [each for each in upstream.DEFECTS if each.releases[-1] == upstream.installed_version()],
    ids=lambda defect: defect.id,
)
def test_a_ledger_line_number_points_at_code(defect):
    name, line = defect.where.split(":")
    text = (pathlib.Path(tunix.__file__).parents[1] / name).read_text().splitlines()
    code = text[int(line) - 1].strip()
    assert code
    assert not code.startswith("#")


def _float_rewards(patch):
    names = {"jnp": rebind.Overlay(jnp, zeros_like=learner_lib._float_zeros_like)}
    method = ppo_learner.PPOLearner._generate_and_compute_advantage
    patch(ppo_learner.PPOLearner, "_generate_and_compute_advantage", rebind.rebind(method, **names))


def _kept_end_token(patch):
    patch(sampler_lib.Sampler, "__call__", rollout_lib.MendedSampler._call_with_end_token)


def _fresh_noise(patch):
    keys = iter(jax.random.split(jax.random.PRNGKey(0), 9))
    plain = vanilla_rollout.VanillaRollout.generate

    def seeded(self, texts, config):
        config.seed = next(keys)
        return plain(self, texts, config)

    patch(vanilla_rollout.VanillaRollout, "generate", seeded)


def _copied_seed(patch):
    plain = vanilla_rollout.VanillaRollout.generate

    def copied(self, texts, config):
        return plain(self, texts, dataclasses.replace(config, seed=jnp.array(config.seed)))

    patch(vanilla_rollout.VanillaRollout, "generate", copied)


def _told_temperature(patch):
    def told(self, prompts, completions, micro_batch_size=None):
        return self.rollout.get_per_token_logps(prompts, completions, temperature=0.7)

    patch(rl_cluster.RLCluster, "get_old_per_token_logps", told)


def _told_reference(patch):
    def told(self, prompts, completions, pad_id, eos_id):
        return self.inference_worker.get_ref_per_token_logps(
            prompts, completions, pad_id, eos_id, temperature=0.7
        )

    patch(rl_cluster.RLCluster, "get_ref_per_token_logps", told)


def _cut_values(patch):
    def cut(self, prompts, completions, pad_id, eos_id):
        size = self.cluster_config.training_config.compute_logps_micro_batch_size
        for start in range(0, len(prompts), size):
            self.inference_worker.get_values(prompts[start : start + size], completions, 0, 1)

    patch(rl_cluster.RLCluster, "get_values", cut)


def _whole_groups(patch):
    plain = rl_learner.RLLearner._prepare_data

    def whole(self, *, service_target_batch_size, **kwargs):
        del service_target_batch_size
        plain(self, service_target_batch_size=99, **kwargs)

    patch(rl_learner.RLLearner, "_prepare_data", whole)


def _token_sum(patch):
    def by_rows(x, mask, axis=None):
        return jnp.sum(jnp.where(mask, x, 0), axis=axis) / len(x)

    patch(versions.algorithms, "masked_mean", by_rows)


def _shared_position(patch):
    plain = rl_learner.RLLearner.__init__

    def shared(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        self._last_iter_step //= self._num_iterations()

    patch(rl_learner.RLLearner, "__init__", shared)


def _advanced_seed(patch):
    plain = rl_learner.RLLearner.__init__

    def advanced(self, *args, **kwargs):
        plain(self, *args, **kwargs)
        self._data_shuffle_seed = jax.random.fold_in(self._data_shuffle_seed, 2)

    patch(rl_learner.RLLearner, "__init__", advanced)


def _refused_pair(patch):
    plain = rl_learner.RLLearner.__init__

    def refusing(self, rl_cluster, *args, **kwargs):
        if rl_cluster.actor_trainer.iter_steps != rl_cluster.critic_trainer.iter_steps:
            raise ValueError("of two steps")
        plain(self, rl_cluster, *args, **kwargs)

    patch(rl_learner.RLLearner, "__init__", refusing)


def _saving_left_to_others(patch):
    patch(peft_trainer.PeftTrainer, "train", lambda self, *args, **kwargs: None)


def _described_checkpoint(patch):
    def save(self):
        self.checkpoint_manager.save(1, custom_metadata=self.custom_checkpoint_metadata())

    patch(peft_trainer.PeftTrainer, "_save_last_checkpoint", save)


def _late_close(patch):
    def close(self):
        self.critic_trainer._write_train_metrics()
        self.actor_trainer.close()

    patch(rl_cluster.RLCluster, "close", close)


def _shorter_loop(patch):
    plain = sampler_lib.Sampler._decode_fn

    def shorter(self, params, state):
        limit = state.total_sampling_steps - 1
        return plain(self, params, dataclasses.replace(state, total_sampling_steps=limit))

    patch(sampler_lib.Sampler, "_decode_fn", shorter)


def _counted_pads(patch):
    def counted(prompts, completions, **ids):
        length = prompts.shape[1] + completions.shape[1]
        return None, jnp.arange(length)[None], None, None

    patch(common, "process_ids", counted)


def _trained_pads(patch):
    # Every token counts for the learner, pads too.
    every = rebind.Overlay(np, not_equal=lambda x, y: np.ones_like(x, bool))
    method = ppo_learner.PPOLearner._generate_and_compute_advantage
    changed = rebind.rebind(method, np=every)
    patch(ppo_learner.PPOLearner, "_generate_and_compute_advantage", changed)


def _safe_mean(patch):
    def safe(x, mask, axis=None):
        return jnp.sum(jnp.where(mask, x, 0), axis=axis) / jnp.sum(mask, axis=axis)

    patch(versions.algorithms, "masked_mean", safe)


def _safe_whitening(patch):
    patch(versions.algorithms, "masked_whiten", lambda x, mask: jnp.zeros_like(x))


def _safe_ratio(patch):
    plain = probes._policy_loss

    def safe(log_probs, advantages, mask, old=None):
        return plain(log_probs, advantages, mask, None if old is None else jnp.where(mask, old, 0))

    patch(probes, "_policy_loss", safe)


def _sampled(patch):
    plain = sampler_lib.Sampler.init_sample_state

    def sampled(self, *args, top_p, **kwargs):
        return plain(self, *args, top_p=1.0 if top_p is None else top_p, **kwargs)

    patch(sampler_lib.Sampler, "init_sample_state", sampled)


def _zero_epsilon(patch):
    patch(ppo_learner.PPOConfig, "__post_init__", lambda self: None)


def _told_mode(patch):
    plain = ppo_learner.PPOLearner._generate_and_compute_advantage

    def told(self, training_input, mode):
        self.rl_cluster.generate = functools.partial(self.rl_cluster.generate, mode=mode)
        return plain(self, training_input, mode)

    patch(ppo_learner.PPOLearner, "_generate_and_compute_advantage", told)


def _donated_model(patch):
    plain = nnx.jit
    patch(peft_trainer, "nnx", rebind.Overlay(nnx, jit=functools.partial(_donating, plain)))


def _donating(jit, function, donate_argnames=(), **kwargs):
    names = ("model", "optimizer") if donate_argnames else ()
    return jit(function, donate_argnames=names, **kwargs)


def _whole_batches(patch):
    plain = rl_learner.RLLearner._run_global_step

    def whole(self, batch, mini_batch, *args):
        del mini_batch
        plain(self, batch, batch, *args)

    patch(rl_learner.RLLearner, "_run_global_step", whole)


def _trained_head(patch):
    everything = rebind.Overlay(peft_trainer.utils, is_lora_enabled=lambda model: False)
    patch(peft_trainer, "utils", everything)


def _no_anchor(patch):
    patch(rl_cluster.RLCluster, "_init_cluster", lambda self: None)


RIGHT = {
    probes.rewards_truncated: _float_rewards,
    probes.end_token_dropped: _kept_end_token,
    probes.noise_repeats: _fresh_noise,
    probes.seed_is_given_away: _copied_seed,
    probes.log_probs_without_temperature: _told_temperature,
    probes.reference_at_another_temperature: _told_temperature,
    probes.reference_without_temperature: _told_reference,
    probes.values_take_all_rows: _cut_values,
    probes.whitened_in_groups: _whole_groups,
    probes.micro_batches_count_alike: _token_sum,
    probes.resume_skips_epochs: _shared_position,
    probes.resume_restarts_noise: _advanced_seed,
    probes.resume_takes_any_two: _refused_pair,
    probes.saves_within_a_batch: _saving_left_to_others,
    probes.last_checkpoint_is_bare: _described_checkpoint,
    probes.critic_writes_after_close: _late_close,
    probes.decodes_past_the_limit: _shorter_loop,
    probes.pad_shifts_positions: _counted_pads,
    probes.pad_is_not_trained: _trained_pads,
    probes.masked_nan_leaks: _safe_mean,
    probes.one_token_is_not_finite: _safe_whitening,
    probes.masked_log_prob_spoils_gradient: _safe_ratio,
    probes.top_p_none_is_greedy: _sampled,
    probes.epsilon_zero_is_ignored: _zero_epsilon,
    probes.eval_config_unused: _told_mode,
    probes.weights_are_not_donated: _donated_model,
    probes.mini_batches_are_sampled_apart: _whole_batches,
    probes.policy_is_copied_to_the_host: _no_anchor,
    probes.lora_leaves_out_a_head: _trained_head,
}


@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible:FutureWarning")
@pytest.mark.parametrize("probe", dict.fromkeys(PROBED.values()), ids=lambda p: p.__name__)
def test_a_probe_is_silent_once_upstream_is_right(probe, monkeypatch):
    RIGHT[probe](monkeypatch.setattr)
    assert not probe()


@pytest.fixture(scope="module")
def mended(own_cache):
    del own_cache
    lab = Lab("mended")
    yield lab
    lab.close()


def test_stock_is_tunix_exactly_as_installed():
    lab = Lab("stock")
    try:
        pieces = lab.pieces
        assert type(pieces.learner) is ppo_learner.PPOLearner
        assert type(pieces.cluster) is rl_cluster.RLCluster
        assert type(pieces.cluster.rollout) is vanilla_rollout.VanillaRollout
        worker: Any = pieces.cluster.rollout
        assert type(worker._sampler) is sampler_lib.Sampler
    finally:
        lab.close()


def test_mends_leave_upstreams_own_classes_alone(mended):
    assert type(mended.pieces.learner) is not ppo_learner.PPOLearner
    upstream.present.cache_clear()
    fixable = {each.id for each in upstream.DEFECTS if each.mend}
    assert {each for each in upstream.present() if each in fixable} == {
        *mended.mends,
        *mended.mends.avoided,
    }


def test_the_mended_worker_and_the_plain_one_take_foreign_tokenizers(mended):
    pieces = mended.pieces

    class Foreign:
        """Shows end tokens in its text, as a plain SentencePiece model does."""

        def encode(self, text):
            return pieces.tokenizer.encode(text)

        def decode(self, ids):
            return " ".join(map(str, ids))

        def bos_id(self):
            return pieces.tokenizer.bos_id()

        def eos_id(self):
            return pieces.tokenizer.eos_id()

        def pad_id(self):
            return pieces.tokenizer.pad_id()

    worker = rollout_lib.MendedRollout(
        pieces.actor,
        Foreign(),
        pieces.mesh,
        pieces.cluster.cluster_config.rollout_config,
        mends=mended.mends,
        seed=0,
    )
    config: Any = pieces.cluster.cluster_config.rollout_config
    batch: Any = pieces.dataset.train[0]
    with pieces.mesh:
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
    policy = pipeline.make_policy(recipe, mesh)
    return models.apply_lora(policy, recipe.lora, mesh, recipe.seed)


def test_a_folder_without_checkpoints_is_refused(recipe, tmp_path):
    assert upstream.saved_steps(tmp_path) == []
    with pytest.raises(HarnessError, match="holds no checkpoint: train first"):
        upstream.restore_actor(_fresh_actor(recipe), tmp_path)
