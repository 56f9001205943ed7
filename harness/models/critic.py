"""The critic: a Gemma 3 backbone with a score head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.gemma3 import model as gemma3

from harness import recipe as recipe_lib
from harness.models import gemma, precision
from harness.models import lora as lora_lib


class GemmaCritic(nnx.Module):
    """Gives one value per token: the state after reading that token.

    Upstream's own score head does not build on Gemma 3. This one takes the
    normalised hidden states that Gemma 3 hands out; its logits are not used,
    so the compiler drops them.

    Attributes:
      backbone: The Gemma 3.
      score: Linear head of shape [embed_dim, 1].
    """

    def __init__(
        self, backbone: gemma3.Gemma3, *, rngs: nnx.Rngs, dtype: recipe_lib.Dtype = "float32"
    ):
        """Wrap a backbone; the head is drawn from N(0, 0.01).

        Args:
          backbone: The Gemma 3.
          rngs: Its `params` draw the head.
          dtype: Of the head; a float32 head computes in float32, whatever the backbone does.
        """
        self.config = backbone.config
        self.backbone = backbone
        self.score = nnx.Linear(
            in_features=backbone.embed_dim,
            out_features=1,
            use_bias=False,
            rngs=rngs,
            param_dtype=jnp.dtype(dtype),
            kernel_init=nnx.with_partitioning(nnx.initializers.normal(0.01), ("fsdp", None)),
        )

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        cache: Any = None,
        attention_mask: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        """Score every position.

        Args:
          tokens: int32 [B, L].
          positions: int32 [B, L].
          cache: Unused by a critic; must be none.
          attention_mask: bool [B, L, L].
          segment_ids: Passed by upstream to every model that scores; Gemma 3
            takes its mask from `attention_mask` and needs none.

        Returns:
          float32 [B, L, 1].
        """
        del segment_ids
        self.backbone(tokens, positions, cache, attention_mask, output_hidden_states=True)
        hidden: Any = nnx.pop(self.backbone, nnx.Intermediate)["all_hidden_states"]
        return self.score(hidden.get_value()[-1]).astype(jnp.float32)


def abstract_critic(
    policy: gemma3.Gemma3,
    *,
    lora: recipe_lib.Lora | None = None,
    dtype: recipe_lib.Dtype = "float32",
) -> GemmaCritic:
    """Build a critic by shapes alone.

    Args:
      policy: The model before LoRA, with weights or with shapes; it is left alone.
      lora: As for `make_critic`.
      dtype: As for `make_critic`.

    Returns:
      The critic, with `jax.ShapeDtypeStruct`s in place of weights.
    """
    if lora is None:
        backbone = gemma.shapes_of(policy)
        nnx.update(backbone, precision.cast(nnx.state(backbone), dtype))
        precision.compute_in(backbone, policy.config.param_dtype)
    else:
        backbone = lora_lib.abstract_lora(gemma.shapes_of(policy), lora, dtype)
    return nnx.eval_shape(
        lambda inner: GemmaCritic(inner, rngs=nnx.Rngs(params=0), dtype=dtype), backbone
    )


def make_critic(
    policy: gemma3.Gemma3,
    mesh: jax.sharding.Mesh,
    seed: int,
    *,
    lora: recipe_lib.Lora | None = None,
    dtype: recipe_lib.Dtype = "float32",
) -> GemmaCritic:
    """Start a critic from the policy's weights.

    Args:
      policy: The model before LoRA. It is copied where the critic trains every weight; a critic
        by LoRA shares its arrays.
      mesh: Devices to lay what is new over.
      seed: Seed of the head, and of LoRA's first factors.
      lora: Rank, scale and modules of the critic's LoRA; None trains every weight.
      dtype: Of the weights that are trained. The backbone computes in the policy's dtype.

    Returns:
      The critic.
    """
    if lora is None:
        backbone = gemma.clone(policy, dtype)
    else:
        backbone = lora_lib.apply_lora(policy, lora, mesh, seed, dtype=dtype)
    rngs = nnx.Rngs(params=jax.random.key(seed))
    critic = GemmaCritic(backbone, rngs=rngs, dtype=dtype)
    kernel = critic.score.kernel
    spec = jax.sharding.PartitionSpec("fsdp", None)
    kernel.set_value(jax.device_put(kernel.get_value(), jax.sharding.NamedSharding(mesh, spec)))
    return critic
