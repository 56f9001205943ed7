"""Small experiments on the installed Tunix: is a known defect still there?

Each runs upstream's own code on inputs made by hand, needs no model, and takes
well under a second.
"""

import contextlib
import dataclasses
import types
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.rl import common, rl_cluster, rl_learner
from tunix.rl.ppo import ppo_learner
from tunix.rl.rollout import base_rollout, vanilla_rollout
from tunix.sft import peft_trainer

from harness.upstream import rebind, versions

_PAD, _END, _WORD = 0, 1, 7


class _Tokenizer:
    """The least tokenizer that upstream accepts."""

    def encode(self, text: str) -> list[int]:
        return [_WORD] * len(text)

    def decode(self, ids: list[int]) -> str:
        return " ".join(str(token) for token in ids)

    def bos_id(self) -> int:
        return 2

    def eos_id(self) -> int:
        return _END

    def pad_id(self) -> int:
        return _PAD


def _sampler_that_wrote(completion: list[int], seeds: list[Any]) -> sampler_lib.Sampler:
    """Gives a sampler whose compiled programs wrote `completion` for each prompt."""
    sampler = object.__new__(sampler_lib.Sampler)
    sampler.tokenizer = sampler_lib.tok_adapter.TokenizerAdapter(_Tokenizer())
    sampler.image_processor = None
    sampler.cache_config = sampler_lib.CacheConfig(64, 1, 1, 2)
    stub = cast(Any, sampler)
    stub._flattened_transformer_state = []
    stub._compiled_prefill_fn = lambda params, state, *args, **kwargs: state
    stub._compiled_decode_fn = lambda params, state: state

    def init_sample_state(all_input_ids: jax.Array, *, seed: Any, **kwargs: Any) -> Any:
        seeds.append(np.asarray(jax.random.key_data(seed)))
        rows = [[*row, *completion] for row in np.asarray(all_input_ids).tolist()]
        return types.SimpleNamespace(
            token_buffer=jnp.array(rows), logits_buffer=None, logprobs_buffer=None, sampling_mode=""
        )

    stub.init_sample_state = init_sample_state
    return sampler


def _rollout_config() -> base_rollout.RolloutConfig:
    return base_rollout.RolloutConfig(
        max_tokens_to_generate=4, max_prompt_length=4, kv_cache_size=64, eos_tokens=[_END]
    )


def end_token_dropped() -> bool:
    """Does a completion lack the end token that was sampled?"""
    sampler = _sampler_that_wrote([_WORD, _WORD, _END, _PAD], [])
    rollout = object.__new__(vanilla_rollout.VanillaRollout)
    rollout._sampler = sampler
    output = rollout.generate(["ab"], _rollout_config())
    return _END not in np.asarray(output.tokens[0]).tolist()


def noise_repeats() -> bool:
    """Do two generations without a configured seed draw the same noise?"""
    seeds: list[Any] = []
    rollout = object.__new__(vanilla_rollout.VanillaRollout)
    rollout._sampler = _sampler_that_wrote([_WORD, _END, _PAD, _PAD], seeds)
    rollout.generate(["ab"], _rollout_config())
    rollout.generate(["ab"], _rollout_config())
    return bool(np.array_equal(seeds[0], seeds[1]))


def rewards_truncated() -> bool:
    """Is a reward of one half lost on its way to the returns?"""
    example, _ = _one_group(rl_cluster.Mode.TRAIN)
    return bool(np.asarray(example.returns)[0, -1] != 0.5)


def eval_config_unused() -> bool:
    """Is a generation for evaluation not told what it is for?"""
    _, asked = _one_group(rl_cluster.Mode.EVAL)
    return asked.get("mode") is not rl_cluster.Mode.EVAL


def _one_group(
    mode: rl_cluster.Mode, completion: tuple[int, int, int] = (_WORD, _WORD, _END)
) -> tuple[Any, dict[str, Any]]:
    """Computes the advantage of one completion; gives also what generation was asked."""
    output = base_rollout.RolloutOutput(
        text=["a"],
        logits=[],
        tokens=[np.array(completion)],
        left_padded_prompt_tokens=np.full((1, 2), _WORD),
        logprobs=None,
    )
    zeros = jnp.zeros((1, 3))
    asked: dict[str, Any] = {}

    def generate(**kwargs: Any) -> Any:
        asked.update(kwargs)
        return output

    cluster = types.SimpleNamespace(
        cluster_config=types.SimpleNamespace(
            rollout_config=base_rollout.RolloutConfig(max_tokens_to_generate=3)
        ),
        rollout=types.SimpleNamespace(pad_id=lambda: _PAD, eos_id=lambda: _END),
        generate=generate,
        get_old_per_token_logps=lambda **kwargs: zeros,
        get_values=lambda **kwargs: jnp.zeros((1, 5)),
        buffer_metrics=lambda *args, **kwargs: None,
    )
    learner = types.SimpleNamespace(
        rl_cluster=cluster,
        algo_config=ppo_learner.PPOConfig(beta=0.0, gamma=1.0, gae_lambda=1.0),
        metric_fns=[],
        _use_reward_model=False,
        _rollout_micro_batch_size=1,
        _compute_logps_micro_batch_size=1,
        _compute_rewards=lambda **kwargs: np.array([0.5], np.float32),
    )
    example = ppo_learner.PPOLearner._generate_and_compute_advantage(
        cast(Any, learner), {"prompts": ["a"]}, mode
    )
    return example, asked


def log_probs_without_temperature() -> bool:
    """Are old log-probs asked for without the temperature at which rows were drawn?"""
    asked = _asked_for_log_probs(reference=False)
    return "temperature" not in asked


def reference_without_temperature() -> bool:
    """Are the reference's log-probs asked for without that temperature?"""
    return "temperature" not in _asked_for_log_probs(reference=True)


def reference_at_another_temperature() -> bool:
    """Is the reference told the temperature, and the policy not?"""
    return log_probs_without_temperature() and not reference_without_temperature()


def _asked_for_log_probs(*, reference: bool) -> dict[str, Any]:
    """Gives the arguments by name of upstream's call for log-probs."""
    asked: dict[str, Any] = {}

    def log_probs(*args: Any, **kwargs: Any) -> jax.Array:
        asked.update(kwargs)
        return jnp.zeros((1, 1))

    worker = types.SimpleNamespace(model=lambda: None, get_per_token_logps=log_probs)
    config = base_rollout.RolloutConfig(temperature=0.5)
    cluster = types.SimpleNamespace(
        rollout=worker,
        inference_worker=types.SimpleNamespace(
            get_model=lambda role: None, get_ref_per_token_logps=log_probs
        ),
        cluster_config=types.SimpleNamespace(
            offload_to_cpu=False, training_config=types.SimpleNamespace(data_sharding_axis=())
        ),
        get_rollout_config=lambda **kwargs: config,
        _get_mesh_and_logical_axis_rules_cm=lambda role: contextlib.nullcontext(),
        _maybe_load_model_from_cpu=lambda *args: None,
        _maybe_offload_model_to_cpu=lambda *args: None,
    )
    ids = jnp.zeros((1, 1), jnp.int32)
    ask: Any = rl_cluster.RLCluster
    if reference:
        ask.get_ref_per_token_logps(cluster, ids, ids, _PAD, _END)
    else:
        ask.get_old_per_token_logps(cluster, ids, ids)
    return asked


def values_take_all_rows() -> bool:
    """Are values computed for four rows at once where log-probs go two by two?"""
    rows: list[int] = []

    def values(prompts: Any, *args: Any, **kwargs: Any) -> jax.Array:
        rows.append(len(prompts))
        return jnp.zeros((len(prompts), 2))

    cluster = types.SimpleNamespace(
        inference_worker=types.SimpleNamespace(get_values=values),
        cluster_config=types.SimpleNamespace(
            training_config=types.SimpleNamespace(compute_logps_micro_batch_size=2)
        ),
        _get_mesh_and_logical_axis_rules_cm=lambda role: contextlib.nullcontext(),
    )
    ids = jnp.zeros((4, 1), jnp.int32)
    rl_cluster.RLCluster.get_values(cast(Any, cluster), ids, ids, _PAD, _END)
    return rows == [4]


def whitened_in_groups() -> bool:
    """Are two micro-batches of one optimizer step prepared apart?"""
    groups: list[int] = []

    def process(*, micro_batches: list[Any], micro_batch_sizes: list[int], mode: Any) -> list[Any]:
        if micro_batches:
            groups.append(len(micro_batches))
        return list(micro_batches)

    none = contextlib.nullcontext()
    cluster = types.SimpleNamespace(
        perf=types.SimpleNamespace(span=lambda *args: none),
        perf_v2=types.SimpleNamespace(span=lambda *args, **kwargs: none),
        global_steps=0,
        buffer_metrics=lambda *args, **kwargs: None,
    )
    learner = types.SimpleNamespace(
        rl_cluster=cluster,
        _iter_steps=0,
        _last_iter_step=0,
        _eval_iter_steps=0,
        _data_shuffle_seed=None,
        _compute_trajectory_ids=lambda example, step: [],
        _process_accumulated_batches=process,
    )
    rl_learner.RLLearner._prepare_data(
        cast(Any, learner),
        iterator=cast(Any, iter([{"prompts": np.array(["a"])}, {"prompts": np.array(["b"])}])),
        proceed_num_steps=2,
        sample_repeat=1,
        batch_repeat=1,
        service_target_batch_size=1,
        data_queue=cast(Any, types.SimpleNamespace(put=lambda item: None)),
    )
    return len(groups) > 1


def mini_batches_are_sampled_apart() -> bool:
    """Is each of a batch's two mini-batches prepared and trained on by itself?"""
    ran: list[Any] = []
    none = contextlib.nullcontext()
    learner = types.SimpleNamespace(
        rl_cluster=types.SimpleNamespace(
            perf=types.SimpleNamespace(span_group=lambda *args: none),
            actor_trainer=types.SimpleNamespace(iter_steps=0),
        ),
        _iter_steps=0,
        _run_mini_batch_step=lambda *args: ran.append(args),
    )
    rl_learner.RLLearner._run_global_step(
        cast(Any, learner), 4, 2, 2, 1, cast(Any, iter([])), None, False
    )
    return len(ran) > 1


def micro_batches_count_alike() -> bool:
    """Does the loss of two completions depend on whether they are taken together?"""
    advantages = jnp.array([[1.0, 0.0], [-1.0, -1.0]])
    mask = jnp.array([[True, False], [True, True]])

    def loss(rows: slice) -> float:
        return float(_policy_loss(jnp.zeros((2, 2))[rows], advantages[rows], mask[rows]))

    together, apart = loss(slice(0, 2)), (loss(slice(0, 1)) + loss(slice(1, 2))) / 2
    return abs(together - apart) > 1e-3


def masked_log_prob_spoils_gradient() -> bool:
    """Does an old log-prob of -1e6 under the mask make the gradient NaN?"""
    old = jnp.array([[0.0, -1e6]])
    mask = jnp.array([[True, False]])
    gradient = jax.grad(lambda x: _policy_loss(x, jnp.ones((1, 2)), mask, old))(jnp.zeros((1, 2)))
    return not bool(jnp.isfinite(gradient).all())


def _policy_loss(
    log_probs: jax.Array, advantages: jax.Array, mask: jax.Array, old: jax.Array | None = None
) -> jax.Array:
    """Runs upstream's policy loss on log-probs that no model made."""

    def given(*args: Any, **kwargs: Any) -> tuple[jax.Array, jax.Array]:
        return log_probs, jnp.zeros((*log_probs.shape, 2))

    function = rebind.rebind(
        versions.policy_loss_fn(),
        common=rebind.Overlay(common, compute_per_token_logps=given),
    )
    example = types.SimpleNamespace(
        prompt_ids=jnp.zeros((len(mask), 1), jnp.int32),
        completion_ids=jnp.zeros(mask.shape, jnp.int32),
        completion_mask=mask,
        advantages=advantages,
        old_per_token_logps=jnp.zeros(mask.shape) if old is None else old,
        ref_per_token_logps=None,
    )
    numbers = versions.numbers_of(ppo_learner.PPOConfig(beta=0.0))
    return function(nnx.Dict(), example, **numbers, pad_id=_PAD, eos_id=_END)[0]


def masked_nan_leaks() -> bool:
    """Does NaN under the mask reach a mean?"""
    return bool(
        jnp.isnan(versions.algorithms.masked_mean(jnp.array([1.0, jnp.nan]), jnp.array([1.0, 0.0])))
    )


def one_token_is_not_finite() -> bool:
    """Is the whitened advantage of a single token NaN?"""
    found = versions.algorithms.masked_whiten(jnp.array([[1.0, 0.0]]), jnp.array([[True, False]]))
    return not bool(jnp.isfinite(found[0, 0]))


def resume_skips_epochs() -> bool:
    """Does a learner of two epochs, 4 iterations in, skip 4 micro-batches where 2 were used?"""
    return _resumed_learner()._last_iter_step == 4


def resume_restarts_noise() -> bool:
    """Does a learner that goes on shuffle as one that begins?"""
    seed = np.asarray(_resumed_learner()._data_shuffle_seed)
    return np.array_equal(seed, jax.random.PRNGKey(7))


def resume_takes_any_two() -> bool:
    """Does a learner take an actor that is 4 iterations in with a critic that is 2 in?"""
    try:
        _resumed_learner(critic_steps=2)
    except Exception:  # whatever a Tunix that notices would raise
        return False
    return True


def saves_within_a_batch() -> bool:
    """Does a trainer save at a step of its own, whoever manages it?"""
    saved: list[int] = []
    trainer = peft_trainer.PeftTrainer(
        _Row(),
        optax.sgd(0.1),
        peft_trainer.TrainingConfig(eval_every_n_steps=9, max_steps=None),
        metrics_logger=cast(Any, types.SimpleNamespace(log=lambda *args, **kwargs: None)),
    )
    trainer.is_managed_externally = True
    # Nothing is computed: when it saves is all that is asked.
    idle = (lambda example: (jnp.zeros(()), {}, 0.0), None)
    trainer.jit_train_and_eval_step = lambda *args, **kwargs: cast(Any, idle)
    manager: Any = trainer.checkpoint_manager
    manager.save = lambda step, *args, **kwargs: saved.append(step)
    trainer.train([jnp.ones(2)], skip_jit=True)
    return bool(saved)


def _resumed_learner(critic_steps: int = 4) -> ppo_learner.PPOLearner:
    """Builds a learner of two epochs around trainers that say how many iterations they are in."""
    critic = _resumed_trainer(critic_steps)
    trainer = _resumed_trainer(4)
    role = rl_cluster.Role
    cluster = types.SimpleNamespace(
        actor_trainer=trainer,
        critic_trainer=critic,
        rollout=types.SimpleNamespace(model=lambda: None),
        inference_worker=types.SimpleNamespace(_models={"critic": critic}),
        cluster_config=types.SimpleNamespace(
            role_to_mesh={role.ACTOR: 0, role.ROLLOUT: 0},
            training_config=types.SimpleNamespace(
                rollout_micro_batch_size=1, compute_logps_micro_batch_size=1
            ),
        ),
    )
    learner = ppo_learner.PPOLearner(
        rl_cluster=cast(Any, cluster),
        ppo_config=ppo_learner.PPOConfig(num_iterations=2, beta=0.0),
        reward_fns=lambda **kwargs: [],
        data_shuffle_seed=7,
    )
    learner.executor.shutdown()
    return learner


def _resumed_trainer(iter_steps: int) -> Any:
    return types.SimpleNamespace(
        iter_steps=iter_steps,
        train_steps=iter_steps,
        restored_global_step=lambda: 1,
        model=None,
        loss_fn=None,
        with_loss_fn=lambda *args, **kwargs: None,
        with_gen_model_input_fn=lambda *args: None,
        with_rl_metrics_to_log=lambda *args: None,
    )


def last_checkpoint_is_bare() -> bool:
    """Is the last checkpoint saved without metadata?"""
    saved: dict[str, Any] = {}
    manager = types.SimpleNamespace(
        latest_step=lambda: None, save=lambda *args, **kwargs: saved.update(kwargs)
    )
    trainer = types.SimpleNamespace(
        checkpoint_manager=manager,
        model=None,
        optimizer=None,
        _train_steps=1,
        _lora_enabled=True,
        custom_checkpoint_metadata=lambda: {"global_step": 1},
    )
    peft_trainer.PeftTrainer._save_last_checkpoint(cast(Any, trainer))
    return not saved.get("custom_metadata")


def critic_writes_after_close() -> bool:
    """Does the critic write metrics after the actor has closed the logger they share?"""
    events: list[str] = []
    logger = types.SimpleNamespace(close=lambda: events.append("close"))

    def trainer(name: str) -> Any:
        made = types.SimpleNamespace(
            _write_train_metrics=lambda: events.append(name),
            _save_last_checkpoint=lambda: None,
            checkpoint_manager=types.SimpleNamespace(close=lambda: None),
            metrics_logger=logger,
            _pbar=None,
        )
        made.close = types.MethodType(peft_trainer.PeftTrainer.close, made)
        return made

    cluster = types.SimpleNamespace(
        _buffered_train_metrics=[],
        _buffered_eval_metrics=[],
        actor_trainer=trainer("actor"),
        critic_trainer=trainer("critic"),
    )
    rl_cluster.RLCluster.close(cast(Any, cluster))
    return events.index("close") < events.index("critic")


class _Silent(nnx.Module):
    """A model that is never run."""

    def __call__(self) -> None:
        return


class _IdleSampler(sampler_lib.Sampler):
    """A sampler whose programs do nothing, but take their arguments as upstream's do."""

    def _decode_fn(self, params: Any, sampling_state: Any) -> Any:
        del params
        return sampling_state


def seed_is_given_away() -> bool:
    """Is the configured key itself handed to a program that donates what it is given?"""
    idle = _IdleSampler(_Silent(), _Tokenizer(), sampler_lib.CacheConfig(4, 1, 1, 2))
    taken = idle._compiled_decode_fn.lower({}, jnp.zeros(1)).args_info
    given: list[Any] = []
    rollout = object.__new__(vanilla_rollout.VanillaRollout)
    sampler = _sampler_that_wrote([_WORD, _END, _PAD, _PAD], [])
    start = cast(Any, sampler).init_sample_state

    def starting(*args: Any, seed: Any, **kwargs: Any) -> Any:
        given.append(seed)
        return start(*args, seed=seed, **kwargs)

    cast(Any, sampler).init_sample_state = starting
    rollout._sampler = sampler
    config = _rollout_config()
    key: Any = jax.random.PRNGKey(3)
    config.seed = key
    rollout.generate(["ab"], config)
    return given[0] is key and any(each.donated for each in jax.tree.leaves(taken))


def decodes_past_the_limit() -> bool:
    """Does the decode loop write past the last of its places?"""
    state = versions.sampling_state(
        decoding_step=jnp.int32(1),
        token_buffer=jnp.zeros((1, 4), jnp.int32),
        positions=jnp.zeros((1, 4), jnp.int32),
        cache={},
        done=jnp.zeros(1, bool),
        total_sampling_steps=4,
        logits_buffer=None,
        logprobs_buffer=None,
        forbidden_token_ids=None,
        seed=jnp.zeros(2, jnp.uint32),
        sampling_mode="greedy",
        num_input_tokens=2,
        temperature=1.0,
        sampling_parameters=None,
    )

    def step(params: Any, state: Any) -> Any:
        return dataclasses.replace(state, decoding_step=state.decoding_step + 1)

    sampler = types.SimpleNamespace(_sample_step=step)
    done = sampler_lib.Sampler._decode_fn(cast(Any, sampler), cast(Any, None), state)
    return int(done.decoding_step) > 3


def pad_shifts_positions() -> bool:
    """Does a pad among drawn tokens lose its place?"""
    prompt = jnp.array([[_WORD]])
    drawn = jnp.array([[_WORD, _PAD, _WORD]])
    positions = common.process_ids(prompt, drawn, pad_id=_PAD, eos_id=_END)[1]
    return np.asarray(positions)[0].tolist() != [0, 1, 2, 3]


def pad_is_not_trained() -> bool:
    """Does a pad among drawn tokens keep its place, and count for no token?"""
    example, _ = _one_group(rl_cluster.Mode.TRAIN, completion=(_WORD, _PAD, _WORD))
    return not np.asarray(example.completion_mask).all() and not pad_shifts_positions()


def top_p_none_is_greedy() -> bool:
    """Does a temperature of 1 without top_p choose the greedy mode?"""
    sampler = types.SimpleNamespace(
        tokenizer=types.SimpleNamespace(pad_id=lambda: _PAD),
        transformer=types.SimpleNamespace(init_cache=lambda *args: {}),
        cache_config=sampler_lib.CacheConfig(4, 1, 1, 2),
        dtype=jnp.float32,
    )
    state = sampler_lib.Sampler.init_sample_state(
        cast(Any, sampler),
        jnp.full((1, 2), _WORD),
        total_sampling_steps=4,
        include_logits=False,
        forbidden_token_ids=None,
        temperature=1.0,
        top_p=None,
        top_k=None,
        seed=jax.random.PRNGKey(0),
        beam_size=None,
    )
    return state.sampling_mode == "greedy"


def epsilon_zero_is_ignored() -> bool:
    """Does a lower bound of 0 become another?"""
    return ppo_learner.PPOConfig(epsilon_low=0.0).epsilon_low != 0


class _Row(nnx.Module):
    """A model with one parameter."""

    def __init__(self) -> None:
        self.weights = nnx.Param(jnp.zeros(2))


def weights_are_not_donated() -> bool:
    """Does a train step take the optimizer's arrays for its own, and the weights not?"""
    trainer = peft_trainer.PeftTrainer(
        _Row(),
        optax.sgd(0.1),
        peft_trainer.TrainingConfig(eval_every_n_steps=1, max_steps=1),
        metrics_logger=cast(Any, types.SimpleNamespace()),
    )
    trainer.with_loss_fn(lambda model, x: jnp.sum(cast(Any, model).weights * x))
    trainer.with_gen_model_input_fn(lambda x: {"x": x})
    step: Any = trainer.jit_train_and_eval_step()[0]
    lowered = step.func.lower(trainer.model, trainer.optimizer, jnp.ones(2))
    arguments, _ = lowered.lowered.args_info
    return not any(each.donated for each in jax.tree.leaves(arguments[0]))


def policy_is_copied_to_the_host() -> bool:
    """Does a cluster, when it is built, store a copy of the policy?"""
    return "_anchor_policy_state" in rl_cluster.RLCluster._init_cluster.__code__.co_names


class _Adapted(nnx.Module):
    """A frozen weight with an adapter, and a new head."""

    def __init__(self) -> None:
        self.base = nnx.Param(jnp.zeros(2))
        self.adapter = nnx.LoRAParam(jnp.zeros(2))
        self.head = nnx.Param(jnp.zeros(2))


def lora_leaves_out_a_head() -> bool:
    """Is a new weight beside adapters not among what a trainer optimizes?"""
    trainer = peft_trainer.PeftTrainer(
        _Adapted(),
        optax.sgd(0.1),
        peft_trainer.TrainingConfig(eval_every_n_steps=1, max_steps=1),
        metrics_logger=cast(Any, types.SimpleNamespace()),
    )
    return "head" not in nnx.state(trainer.model, trainer.optimizer.wrt)
