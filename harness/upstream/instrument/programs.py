"""Upstream's compiled functions as they stand before the first call, over shapes alone.

A real cluster and a real learner are built around models whose weights are
`jax.ShapeDtypeStruct`s. Each program is then lowered from where upstream calls
it: the call is made, and at the last moment, where XLA would be given arrays,
the function is lowered instead. No weight is allocated, and nothing of
upstream's, its fixes included, is written a second time.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.rl import common, rl_cluster
from tunix.rl import utils as rl_utils
from tunix.rl.ppo import ppo_learner
from tunix.sft import sharding_utils

from harness import models
from harness import recipe as recipe_lib
from harness.upstream import compat, hooks, rebind
from harness.upstream.engine import cluster as cluster_lib
from harness.upstream.engine import donation
from harness.upstream.engine import learner as learner_lib
from harness.upstream.engine import temperature as temperature_lib
from harness.upstream.instrument import losses
from harness.upstream.instrument.resident import PARTS, bytes_on_a_device
from harness.upstream.selection import Fixes

Lowered = Any  # jax.stages.Lowered: names of JAX's own class move between its releases

# Ids of Gemma's special tokens. They end up as constants of the programs, whose
# sizes do not depend on them.
_IDS = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<start_of_turn>": 105, "<end_of_turn>": 106}


class _Ids:
    """What upstream asks of a tokenizer when nothing is tokenized."""

    def encode(self, text: str, **kwargs: Any) -> list[int]:
        del text, kwargs
        return [3]

    def decode(self, ids: Sequence[int], **kwargs: Any) -> str:
        del ids, kwargs
        return ""

    def bos_id(self) -> int:
        return _IDS["<bos>"]

    def eos_id(self) -> int:
        return _IDS["<eos>"]

    def pad_id(self) -> int:
        return _IDS["<pad>"]

    def end_ids(self, pieces: Sequence[str]) -> tuple[int, ...]:
        # A piece that is not known here is as good as any other token.
        return tuple(_IDS.get(piece, 4 + index) for index, piece in enumerate(pieces))


class _Lowering(Exception):
    """Carries a lowered program out of upstream's call of it."""

    def __init__(self, lowered: Lowered):
        super().__init__("lowered")
        self.lowered = lowered


def abstract_learner(
    recipe: recipe_lib.Recipe, mesh: jax.sharding.Mesh, fixes: Fixes
) -> learner_lib.Learner:
    """Build the cluster and the learner of a recipe without weights.

    Args:
      recipe: Everything numeric.
      mesh: Devices of every role; they need not exist.
      fixes: The fixes in place.

    Returns:
      A learner that can be lowered and looked at, and not run.
    """
    policy, actor, critic = models.build_abstract(recipe, mesh)
    cluster_utils = rebind.Overlay(
        rl_utils, get_pytree_mesh_info=lambda tree: mesh, put_params_on_memory_kind=_on_memory_kind
    )
    trainer_nnx = rebind.Overlay(nnx, Optimizer=_abstract_optimizer)
    with (
        hooks.CLUSTER_UTILITIES.wrapped(None, lambda plain: cluster_utils),
        hooks.TRAINER_FLAX.wrapped(None, lambda plain: trainer_nnx),
    ):
        cluster = cluster_lib.make_cluster(
            recipe,
            mesh=mesh,
            actor=actor,
            critic=critic,
            reference=policy if recipe.ppo.beta > 0 else None,
            tokenizer=_Ids(),  # type: ignore[arg-type]
            fixes=fixes,
        )
        learner = learner_lib.make_learner(
            recipe, cluster=cluster, reward_fn=_no_reward, fixes=fixes
        )
    for trainer in (cluster.actor_trainer, cluster.critic_trainer):
        trainer._shard_optimizer = functools.partial(_lay_optimizer_over, trainer)
        with models.entered(mesh):
            trainer._shard_optimizer(mesh)
    return learner


def lower(learner: learner_lib.Learner, program: str, rows: int) -> Lowered:
    """Lower one of upstream's programs as a run would call it.

    Args:
      learner: From `abstract_learner`.
      program: One of `harness.programs.Program`.
      rows: Sequences in one call.

    Returns:
      What `jax.jit(...).lower` gives; `compile()` compiles it.
    """
    cluster: Any = learner.rl_cluster
    if program in ("prefill", "decode"):
        return _lower_rollout(cluster, program, rows)
    if program in ("actor_step", "critic_step"):
        actor = program == "actor_step"
        role = rl_cluster.Role.ACTOR if actor else rl_cluster.Role.CRITIC
        trainer = cluster.actor_trainer if actor else cluster.critic_trainer
        with cluster._get_mesh_and_logical_axis_rules_cm(role) as (mesh, _):
            step: Any = trainer.jit_train_and_eval_step(False, True)[0]
            example = _sharded(abstract_example(learner, rows), mesh, trainer.config)
            with _lowered_instead(hooks.holder_of(step)):
                return _caught(lambda: step(example))
    prompts, completions = _tokens(cluster, rows)
    ids: dict[str, Any] = {
        "pad_id": cluster.rollout.pad_id(),
        "eos_id": cluster.rollout.eos_id(),
    }
    log_probs = temperature_lib.replaced(lambda program: program.lower)
    if program == "logps":
        with cluster._get_mesh_and_logical_axis_rules_cm(rl_cluster.Role.ROLLOUT), log_probs:
            return cluster.rollout.get_per_token_logps(prompts, completions)
    if program == "reference_logps":
        role = rl_cluster.Role.REFERENCE
        with cluster._get_mesh_and_logical_axis_rules_cm(role) as (mesh, _), log_probs:
            prompts, completions = _sharded(
                (prompts, completions), mesh, cluster.cluster_config.training_config
            )
            if compat.LOG_PROBS_TAKE_TEMPERATURE:
                ids["temperature"] = cluster.cluster_config.rollout_config.temperature
            return cluster.inference_worker.get_ref_per_token_logps(prompts, completions, **ids)
    with (
        cluster._get_mesh_and_logical_axis_rules_cm(rl_cluster.Role.CRITIC),
        _lowered_instead(common.compute_score),
        _lowered_instead(donation.score_program),
    ):
        return _caught(lambda: cluster.inference_worker.get_values(prompts, completions, **ids))


def donated_and_results(learner: learner_lib.Learner, program: str, rows: int) -> tuple[int, int]:
    """Count the arrays that a program may write over, and those that it returns.

    Args:
      learner: One that has weights, or from `abstract_learner`.
      program: One of `harness.programs.Program`.
      rows: Sequences in one call.

    Returns:
      The number of donated arguments, and the number of results.
    """
    lowered = lower(learner, program, rows)
    donated = sum(each.donated for each in jax.tree.leaves(lowered.args_info))
    return donated, len(jax.tree.leaves(lowered.out_info))


def abstract_example(learner: learner_lib.Learner, rows: int) -> learner_lib.TrainExample:
    """Return the shapes of a micro-batch as the learner hands it to the trainers.

    Args:
      learner: Its fixes and its lengths count.
      rows: Sequences.

    Returns:
      An example of `jax.ShapeDtypeStruct`s.
    """
    cluster: Any = learner.rl_cluster
    config = cluster.cluster_config.rollout_config
    prompt = (rows, config.max_prompt_length)
    completion = (rows, config.max_tokens_to_generate)

    def of(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    figures = of(completion, jnp.float32)
    fields: dict[str, Any] = {
        "prompt_ids": of(prompt, jnp.int32),
        "prompt_mask": of(prompt, jnp.int32),
        "completion_ids": of(completion, jnp.int32),
        "completion_mask": of(completion, jnp.bool_),
        "ref_per_token_logps": figures if learner.algo_config.beta else None,
        "old_per_token_logps": figures,
        "advantages": figures,
        "returns": figures,
        "old_values": figures,
    }
    example: Any = ppo_learner.TrainExample(**fields)
    for fix in losses.fixes_of(learner):
        example = fix.example_shapes(example)
    return example


def arguments_of(program: str, recipe: recipe_lib.Recipe | None = None) -> tuple[str, ...]:
    """Name those of `resident` that a program is given as arguments.

    Args:
      program: One of `harness.programs.Program`.
      recipe: Whether the critic shares the policy's weights, and whether completions are drawn
        from a copy; None for a full critic, and the policy itself.

    Returns:
      Names, each of which `resident` lists for such a recipe.
    """
    policy = ("actor base", "actor LoRA")
    critic = ("critic",)
    if recipe is not None and recipe.critic.lora is not None:
        critic = ("actor base", "critic")
    return {
        "prefill": _sampled(recipe),
        "decode": _sampled(recipe),
        "logps": policy,
        "reference_logps": ("actor base",),
        "values": critic,
        "actor_step": (*policy, *(f"actor {part}" for part in PARTS)),
        "critic_step": (*critic, *(f"critic {part}" for part in PARTS)),
    }[program]


def _sampled(recipe: recipe_lib.Recipe | None) -> tuple[str, ...]:
    """Return the names of the weights that completions are drawn from."""
    copy = None if recipe is None else recipe.rollout.dtype
    if recipe is None or copy is None:
        return ("actor base", "actor LoRA")
    stored = {
        "actor base": recipe.model.dtype,
        "actor LoRA": recipe.precision.trained_dtype,
    }
    shared = tuple(name for name, dtype in stored.items() if dtype == copy)
    return shared if len(shared) == len(stored) else (*shared, "rollout copy")


def _no_reward(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    del completions, columns
    return [0.0] * len(prompts)


def _on_memory_kind(params: Any, memory_kind: str) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=leaf.sharding.with_memory_kind(memory_kind)
        ),
        params,
    )


def _abstract_optimizer(model: Any, tx: Any, *, wrt: Any) -> Any:
    return nnx.eval_shape(lambda inner: nnx.Optimizer(inner, tx, wrt=wrt), model)


def _lay_optimizer_over(trainer: Any, mesh: jax.sharding.Mesh) -> None:
    state = nnx.state(trainer.optimizer, nnx.optimizer.OptState)
    placed = jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=jax.sharding.NamedSharding(mesh, spec)
        ),
        state,
        nnx.get_partition_spec(state),
    )
    nnx.update(trainer.optimizer, placed)


def _tokens(cluster: Any, rows: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    config = cluster.cluster_config.rollout_config
    return (
        jax.ShapeDtypeStruct((rows, config.max_prompt_length), jnp.int32),
        jax.ShapeDtypeStruct((rows, config.max_tokens_to_generate), jnp.int32),
    )


def _sharded(tree: Any, mesh: jax.sharding.Mesh, config: Any) -> Any:
    """Lay inputs over the mesh as upstream does with arrays."""
    spec = jax.sharding.PartitionSpec(*config.data_sharding_axis)

    def laid(leaf: Any) -> jax.ShapeDtypeStruct:
        # Upstream looks at arrays only; this one takes no memory.
        array = np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
        sharding = sharding_utils.get_sharding(array, mesh, spec)  # type: ignore[arg-type]
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(laid, tree)


def _lowered_instead(holder: Any) -> contextlib.AbstractContextManager[None]:
    """Let a function of `nnx.jit`, for a while, be lowered where it is called."""

    def lowering(jitted: Any) -> Any:
        def lowered(*args: Any, **kwargs: Any) -> Any:
            raise _Lowering(jitted.lower(*args, **kwargs))

        return lowered

    return hooks.JITTED.wrapped(holder, lowering)


def _caught(call: Callable[[], Any]) -> Lowered:
    try:
        call()
    except _Lowering as found:
        return found.lowered
    raise RuntimeError("upstream did not call the program that was to be lowered")


def _lower_rollout(cluster: Any, program: str, rows: int) -> Lowered:
    many_devices = cluster.r2m[rl_cluster.Role.ROLLOUT].size > 1

    def prefilling(compiled: Any) -> Any:
        def prefill(params: Any, state: Any, *images: Any, **settings: Any) -> Any:
            lowered = compiled.lower(params, state, *images, **settings)
            if program == "prefill":
                raise _Lowering(lowered)
            out = compiled.eval_shape(params, state, *images, **settings)
            if not many_devices:
                return out
            # Decoding begins where XLA left the cache.
            placed = lowered.compile().output_shardings
            return jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=sharding, weak_type=leaf.weak_type
                ),
                out,
                placed,
            )

        return prefill

    def decoding(compiled: Any) -> Any:
        def decode(params: Any, state: Any) -> Any:
            raise _Lowering(compiled.lower(params, state))

        return decode

    with (
        hooks.PREFILL.wrapped(cluster, prefilling),
        hooks.DECODE.wrapped(cluster, decoding),
        hooks.SAMPLING_STATE.wrapped(cluster, _abstract),
    ):
        return _caught(lambda: cluster.generate(prompts=["?"] * rows))


def _abstract(begin: Callable[..., Any]) -> Callable[..., Any]:
    return functools.partial(_abstract_state, begin)


def _abstract_state(begin: Callable[..., Any], all_input_ids: Any, **settings: Any) -> Any:
    """Return the shapes of the sampler's state, the cache included."""
    # The state of one row tells the structure, and the figures that are not arrays.
    structure = jax.tree.structure(begin(all_input_ids[:1], **settings))
    leaves = jax.eval_shape(
        lambda ids: jax.tree.leaves(begin(ids, **settings)),
        jax.ShapeDtypeStruct(all_input_ids.shape, all_input_ids.dtype),
    )
    return jax.tree.unflatten(structure, leaves)


def state_bytes(learner: learner_lib.Learner, rows: int) -> Mapping[str, int]:
    """Return what the sampler's state weighs.

    Args:
      learner: From `abstract_learner`.
      rows: Sequences that are sampled at once.

    Returns:
      Bytes over all devices: `cache` for keys and values, `rest` for tokens,
      positions and the like.
    """
    cluster: Any = learner.rl_cluster
    found: list[Any] = []

    def noting(compiled: Any) -> Any:
        def prefill(params: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
            found.append(state)
            raise _Lowering(None)

        return prefill

    with (
        hooks.PREFILL.wrapped(cluster, noting),
        hooks.SAMPLING_STATE.wrapped(cluster, _abstract),
    ):
        _caught(lambda: cluster.generate(prompts=["?"] * rows))
    state = found[0]
    total = sum(bytes_on_a_device(leaf) for leaf in jax.tree.leaves(state))
    cache = sum(bytes_on_a_device(leaf) for leaf in jax.tree.leaves(state.cache))
    return {"cache": cache, "rest": total - cache}
