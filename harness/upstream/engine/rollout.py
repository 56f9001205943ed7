"""Upstream's rollout worker: what a run needs of it, and the points at which fixes act."""

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from tunix.generate import sampler as sampler_lib
from tunix.rl.rollout import base_rollout, vanilla_rollout

from harness import models
from harness import recipe as recipe_lib
from harness.upstream.engine import keys
from harness.upstream.engine.points import Fix, chain

# With its own limit of 32 MiB, libtpu 0.0.52 refuses to compile the prefill of a float32 Gemma 3
# for 16 sequences on a v6e ("All operands that alias with colored outputs must be colored"),
# whatever memory is left; with up to 24 MiB it does not. Other generations have 16.
_PREFILL_OPTIONS = {"xla_tpu_scoped_vmem_limit_kib": "16384"}
# More than the generations of any mini-batch, those of its validation counted.
_CALLS_PER_MINI_BATCH = 2**16


class EngineSampler(sampler_lib.Sampler):
    """Upstream's sampler with chosen fixes.

    Attributes:
      ends: Ids that end the sequences of the newest call.
    """

    def __init__(
        self,
        transformer: nnx.Module,
        tokenizer: Any,
        cache_config: sampler_lib.CacheConfig,
        fixes: Sequence[Fix],
        dtype: recipe_lib.Dtype | None = None,
    ):
        """Build upstream's sampler; see there.

        Args:
          transformer: The policy.
          tokenizer: The tokenizer.
          cache_config: Shape of the KV cache.
          fixes: What is fixed.
          dtype: Dtype of the copy that is sampled from, and of the KV cache; None samples from
            the policy.
        """
        self._fixes = fixes
        self.ends: frozenset[int] = frozenset()
        super().__init__(transformer, tokenizer, cache_config)
        self._copy = None if dtype is None else _Copy(transformer, dtype)
        self._call = chain(fixes, "sampler_call", sampler_lib.Sampler.__call__)
        for fix in fixes:
            fix.sampler(self)

    def __call__(
        self, input_strings: Any, *args: Any, eos_tokens: Sequence[int] | None = None, **kwargs: Any
    ) -> Any:
        """Sample; see upstream."""
        ends = tuple(eos_tokens or [self.tokenizer.eos_id()])
        for fix in self._fixes:
            ends = fix.stop_tokens(self, ends)
        self.ends = frozenset(ends)
        with self._sampling_from_copy():
            return self._call(self, input_strings, *args, eos_tokens=ends, **kwargs)

    def compile_prefill_with(self, options: Mapping[str, str]) -> None:
        """Compile the prefill with options of XLA, else as upstream does."""
        self._compiled_prefill_fn = jax.jit(
            self._prefill_fn,
            donate_argnums=(1,),
            static_argnames=("echo",),
            compiler_options=dict(options),
        )

    @contextlib.contextmanager
    def _sampling_from_copy(self) -> Iterator[None]:
        """Let programs that are called in the block be given the copy, if there is one.

        Log-probs are asked for outside of it, and are the policy's.
        """
        if self._copy is None:
            yield
            return
        policy: Any = self._transformer_graphdef, self._flattened_transformer_state
        self._transformer_graphdef = self._copy.graph
        copy: Any = self._copy.state(policy[1])
        self._flattened_transformer_state = copy
        try:
            yield
        finally:
            self._transformer_graphdef, self._flattened_transformer_state = policy

    def copied(self) -> list[Any]:
        """Return the arrays, or shapes, of the copy that is sampled from; none without one.

        What has the copy's dtype already is the policy's own, and is not among them.
        """
        if self._copy is None:
            return []
        policy: Any = self._flattened_transformer_state
        owned = {id(each.get_raw_value()) for each in policy}
        copy = [each.get_raw_value() for each in self._copy.state(policy)]
        return [each for each in copy if id(each) not in owned]

    def init_sample_state(self, all_input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """Begin a generation; see upstream."""
        state = super().init_sample_state(all_input_ids, *args, **kwargs)
        for fix in self._fixes:
            state = fix.sampling_state(state, all_input_ids)
        return state

    def _decode_fn(self, params: Any, sampling_state: Any) -> Any:
        for fix in self._fixes:
            sampling_state = fix.decode_state(sampling_state)
        return super()._decode_fn(params, sampling_state)


class _Copy:
    """A policy's weights in another dtype, each cast anew once it has changed.

    Attributes:
      graph: Structure of a policy that computes in the dtype.
    """

    def __init__(self, policy: nnx.Module, dtype: recipe_lib.Dtype):
        self._dtype = dtype
        self.graph: Any = nnx.graphdef(models.stored_in(models.shapes_of(policy), dtype))
        # By index in the policy's state: the array that was cast, and what it was cast to. An
        # array that training has replaced is not held on to.
        self._cast: dict[int, tuple[Callable[[], Any], Any]] = {}

    def state(self, policy: Sequence[nnx.Variable]) -> list[nnx.Variable]:
        """Return the copy of a policy's variables, as they stand."""
        return [self._variable(index, each) for index, each in enumerate(policy)]

    def _variable(self, index: int, variable: nnx.Variable) -> nnx.Variable:
        value = variable.get_raw_value()
        source, copy = self._cast.get(index, (lambda: None, None))
        if source() is not value:
            copy = models.cast(value, self._dtype)
            if copy is not value:
                self._cast[index] = _reference(value), copy
        return variable.replace(copy)


def _reference(value: Any) -> Callable[[], Any]:
    """Return a weak reference; shapes, which take no memory, are held."""
    return weakref.ref(value) if isinstance(value, jax.Array) else lambda: value


class EngineRollout(vanilla_rollout.VanillaRollout):
    """Upstream's vanilla rollout with chosen fixes.

    Attributes:
      calls: Number of generations so far; each has noise of its own.
    """

    def __init__(
        self,
        rollout_actor: nnx.Module,
        tokenizer: Any,
        mesh: jax.sharding.Mesh,
        rollout_config: base_rollout.RolloutConfig,
        *,
        fixes: Sequence[Fix],
        seed: int,
        dtype: recipe_lib.Dtype | None = None,
    ):
        """Build the worker; upstream's cluster calls it with the first four.

        Args:
          rollout_actor: The policy.
          tokenizer: The tokenizer.
          mesh: Tells what the sampler is compiled for.
          rollout_config: Sampling configuration; cache size and temperature are read.
          fixes: What is fixed.
          seed: Seed of the noise.
          dtype: Of the copy that is sampled from; None samples from the policy.
        """
        config: Any = rollout_actor.config  # type: ignore[attr-defined]
        self._fixes = fixes
        self._sampler = EngineSampler(
            rollout_actor,
            tokenizer,
            sampler_lib.CacheConfig(
                cache_size=rollout_config.kv_cache_size,
                num_layers=config.num_layers,
                num_kv_heads=config.num_kv_heads,
                head_dim=config.head_dim,
            ),
            fixes=fixes,
            dtype=dtype,
        )
        if mesh.devices.flat[0].platform == "tpu":
            self._sampler.compile_prefill_with(_PREFILL_OPTIONS)
        self._key = jax.random.PRNGKey(seed)
        self._temperature = rollout_config.temperature
        self._noise_offset = 0
        self._fresh_key: jax.Array | None = None
        self.calls = 0

    def begin_mini_batch(self, number: int) -> None:
        """Let the noise of the generations that follow depend on the mini-batch's number.

        Without it a resumed run, which has generated nothing yet, would draw
        the noise of the first mini-batches again.

        Args:
          number: Mini-batches done since the training began, resumes included.
        """
        self._noise_offset = number * _CALLS_PER_MINI_BATCH - self.calls

    def generate(
        self, prompts: list[str], rollout_config: base_rollout.RolloutConfig, **kwargs: Any
    ) -> base_rollout.RolloutOutput:
        """Sample one completion per prompt; see upstream."""
        for fix in self._fixes:
            rollout_config = fix.generation(self, rollout_config)
        self.calls += 1
        return super().generate(prompts, rollout_config, **kwargs)

    def noise_key(self) -> jax.Array:
        """Return the key of the next generation's noise, made anew: it may be donated."""
        self._fresh_key = keys.fold_in(self._key, self.calls + self._noise_offset)
        return self._fresh_key

    def made_for_this_call(self, seed: Any) -> bool:
        """Return whether a seed is the newest of `noise_key`, which nothing else holds."""
        return seed is self._fresh_key

    def get_per_token_logps(
        self, prompt_tokens: jax.Array, completion_tokens: jax.Array, **kwargs: Any
    ) -> jax.Array:
        """Compute log-probs [B, T] of completions under the policy that drew them."""
        compute: Callable[..., jax.Array] = vanilla_rollout.VanillaRollout.get_per_token_logps
        for fix in self._fixes:
            compute = fix.log_probs(compute, self._temperature)
        return compute(self, prompt_tokens, completion_tokens, **kwargs)
