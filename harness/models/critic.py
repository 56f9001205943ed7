"""The critic: a Gemma 3 backbone with a score head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.gemma3 import model as gemma3

from harness.models import gemma


class GemmaCritic(nnx.Module):
    """Gives one value per token: the state after reading that token.

    Upstream's own score head does not build on Gemma 3. This one takes the
    normalised hidden states that Gemma 3 hands out; its logits are not used,
    so the compiler drops them.

    Attributes:
      backbone: The Gemma 3.
      score: Linear head of shape [embed_dim, 1].
    """

    def __init__(self, backbone: gemma3.Gemma3, *, rngs: nnx.Rngs):
        """Wraps a backbone; the head is drawn from N(0, 0.01)."""
        self.config = backbone.config
        self.backbone = backbone
        self.score = nnx.Linear(
            in_features=backbone.embed_dim,
            out_features=1,
            use_bias=False,
            rngs=rngs,
            param_dtype=backbone.config.param_dtype,
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
        """Scores every position.

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


def abstract_critic(policy: gemma3.Gemma3) -> GemmaCritic:
    """Builds a critic by shapes alone.

    Args:
      policy: The model before LoRA, with weights or with shapes; it is left alone.

    Returns:
      The critic, with `jax.ShapeDtypeStruct`s in place of weights.
    """
    return nnx.eval_shape(
        lambda backbone: GemmaCritic(backbone, rngs=nnx.Rngs(params=0)), gemma.shapes_of(policy)
    )


def make_critic(policy: gemma3.Gemma3, mesh: jax.sharding.Mesh, seed: int) -> GemmaCritic:
    """Starts a critic from the policy's weights.

    Args:
      policy: The model before LoRA; it is copied, since the critic trains
        every weight.
      mesh: Devices to lay the head over.
      seed: Seed of the head.

    Returns:
      The critic.
    """
    critic = GemmaCritic(gemma.clone(policy), rngs=nnx.Rngs(params=jax.random.key(seed)))
    kernel = critic.score.kernel
    spec = jax.sharding.PartitionSpec("fsdp", None)
    kernel.set_value(jax.device_put(kernel.get_value(), jax.sharding.NamedSharding(mesh, spec)))
    return critic
