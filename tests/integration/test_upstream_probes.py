"""Probes of the known issues: silent where Tunix is right, loud where they cannot tell."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.rl import common, rl_cluster, rl_learner
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import vanilla_rollout
from tunix.sft import peft_trainer

from harness import upstream
from harness.errors import HarnessError
from harness.upstream import compat, known_issues, rebind
from harness.upstream.fixes import end_token_dropped, masked_gradient_nan, reward_truncated


def _float_rewards(patch):
    method = ppo_learner.PPOLearner._generate_and_compute_advantage
    fixed = reward_truncated.Fix().advantages(method)
    patch(ppo_learner.PPOLearner, "_generate_and_compute_advantage", fixed)


def _kept_end_token(patch):
    call = end_token_dropped.Fix().sampler_call(sampler_lib.Sampler.__call__)
    patch(sampler_lib.Sampler, "__call__", call)


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


def _with_temperature(patch):
    def changed(self, prompts, completions, micro_batch_size=None):
        return self.rollout.get_per_token_logps(prompts, completions, temperature=0.7)

    patch(rl_cluster.RLCluster, "get_old_per_token_logps", changed)


def _reference_with(patch):
    def changed(self, prompts, completions, pad_id, eos_id):
        return self.inference_worker.get_ref_per_token_logps(
            prompts, completions, pad_id, eos_id, temperature=0.7
        )

    patch(rl_cluster.RLCluster, "get_ref_per_token_logps", changed)


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

    patch(compat.algorithms, "masked_mean", by_rows)


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

    patch(compat.algorithms, "masked_mean", safe)


def _safe_whitening(patch):
    patch(compat.algorithms, "masked_whiten", lambda x, mask: jnp.zeros_like(x))


def _safe_ratio(patch):
    plain = masked_gradient_nan.loss_of_log_probs

    def safe(log_probs, advantages, mask, old):
        return plain(log_probs, advantages, mask, jnp.where(mask, old, 0))

    patch(masked_gradient_nan, "loss_of_log_probs", safe)


def _sampled(patch):
    plain = sampler_lib.Sampler.init_sample_state

    def sampled(self, *args, top_p, **kwargs):
        return plain(self, *args, top_p=1.0 if top_p is None else top_p, **kwargs)

    patch(sampler_lib.Sampler, "init_sample_state", sampled)


def _plain_number_of_prompt_tokens(patch):
    plain = sampler_lib.Sampler.init_sample_state

    def started(self, all_input_ids, *args, **kwargs):
        state = plain(self, all_input_ids, *args, **kwargs)
        return dataclasses.replace(state, num_input_tokens=all_input_ids.shape[1])

    patch(sampler_lib.Sampler, "init_sample_state", started)


def _zero_epsilon(patch):
    patch(ppo_learner.PPOConfig, "__post_init__", lambda self: None)


def _with_mode(patch):
    plain = ppo_learner.PPOLearner._generate_and_compute_advantage

    def changed(self, training_input, mode):
        self.rl_cluster.generate = functools.partial(self.rl_cluster.generate, mode=mode)
        return plain(self, training_input, mode)

    patch(ppo_learner.PPOLearner, "_generate_and_compute_advantage", changed)


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


# A Tunix in which the issue is corrected, in one way or another.
RIGHT = {
    "clip-fraction-unweighted": _token_sum,
    "critic-last-metric-after-close": _late_close,
    "decode-one-too-many": _shorter_loop,
    "empty-completion-reward-lost": _kept_end_token,
    "end-token-dropped": _kept_end_token,
    "epsilon-zero-ignored": _zero_epsilon,
    "eval-rollout-config-unused": _with_mode,
    "last-checkpoint-no-metadata": _described_checkpoint,
    "log-prob-temperature": _with_temperature,
    "lora-critic-head-frozen": _trained_head,
    "masked-gradient-nan": _safe_ratio,
    "masked-nan-leaks": _safe_mean,
    "micro-batch-token-mean": _token_sum,
    "mini-batch-off-policy": _whole_batches,
    "model-not-donated": _donated_model,
    "noise-repeats": _fresh_noise,
    "noise-shared-by-micro-batches": _fresh_noise,
    "pad-mid-sequence": _counted_pads,
    "pad-not-trained": _trained_pads,
    "policy-anchored": _no_anchor,
    "reference-temperature": _with_temperature,
    "reference-without-temperature": _reference_with,
    "resume-actor-critic-apart": _refused_pair,
    "resume-mid-batch-step": _saving_left_to_others,
    "resume-restarts-noise": _advanced_seed,
    "resume-skips-data": _shared_position,
    "reward-truncated": _float_rewards,
    "sampler-state-static-array": _plain_number_of_prompt_tokens,
    "seed-array-donated": _copied_seed,
    "shuffle-without-effect": _whole_batches,
    "top-p-none-greedy": _sampled,
    "values-not-micro-batched": _cut_values,
    "whiten-one-token": _safe_whitening,
    "whitening-group": _whole_groups,
}


def test_each_probe_has_a_corrected_tunix():
    assert list(RIGHT) == [each.id for each in upstream.KNOWN_ISSUES if each.probe]


@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible:FutureWarning")
@pytest.mark.parametrize("name", RIGHT)
def test_a_probe_is_silent_once_tunix_is_right(name, monkeypatch):
    probe = upstream.known_issue(name).probe
    assert probe
    RIGHT[name](monkeypatch.setattr)
    assert not probe()


def test_a_probe_that_fails_names_its_issue_and_asks_for_a_report(monkeypatch):
    def probe():
        raise AttributeError("there is no such method")

    issue = dataclasses.replace(upstream.known_issue("noise-repeats"), probe=probe)
    monkeypatch.setattr(known_issues, "KNOWN_ISSUES", (issue,))
    with pytest.raises(HarnessError) as raised:
        upstream.present.__wrapped__()
    for part in (
        "the probe of 'noise-repeats' does not show",
        f"Tunix {upstream.installed_version()}",
        "AttributeError: there is no such method",
        "report this",
    ):
        assert part in str(raised.value)
