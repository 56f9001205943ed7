"""Rematerialisation: what a gradient computes a second time instead of holding it.

Upstream's Gemma 3 offers two kinds, whole layers (`decoder`), or attention and
feed-forward layer each as a whole (`block`). Either repeats nearly the whole
forward pass. `light` is a third: most of the memory that a gradient needs is in
the two wide results of a layer's feed-forward layer, and in the attention
scores, so all products are held but one of the wide ones, which is repeated
together with the scores and with what is computed element by element (Chen et
al. 2016, arXiv:1604.06174; the choice by name as in
`jax.checkpoint_policies.save_only_these_names`).

All three are applied here rather than by upstream's configuration, with which
sampling fails: `nnx.remat` may not be used inside of the loop that decodes.
Nothing is differentiated there, so nothing is repeated.
"""

from typing import Any, Literal

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from tunix.models.gemma3 import model as gemma3

Kind = Literal["light", "block", "decoder"]
_HELD = "held by light rematerialisation"


def apply(module: gemma3.Gemma3, kind: Kind) -> None:
    """Make a model repeat in a gradient what a kind says; changed in place.

    Modules take subclasses of their own classes, so that paths, parameters and
    results are as before.

    Args:
      module: With weights or with shapes, without upstream's rematerialisation.
      kind: What is repeated.
    """
    for layer in module.layers:
        if kind == "block":
            layer.attn.__class__ = _RepeatedAttention
            layer.mlp.__class__ = _RepeatedFeedForward
        elif kind == "decoder":
            layer.__class__ = _RepeatedLayer
        else:
            layer.__class__ = _LightLayer
            for projection in (layer.mlp.gate_proj, layer.mlp.down_proj):
                projection.__class__ = _HeldLinear
            for name in ("q_einsum", "kv_einsum", "qkv_einsum"):
                if hasattr(layer.attn, name):
                    getattr(layer.attn, name).__class__ = _HeldEinsum
            layer.attn.attn_vec_einsum.__class__ = _HeldLastEinsum


class _HeldLinear(nnx.Linear):
    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        return checkpoint_name(super().__call__(*args, **kwargs), _HELD)


class _HeldEinsum(gemma3.Einsum):
    def __call__(self, x: jax.Array) -> jax.Array:
        return checkpoint_name(super().__call__(x), _HELD)


class _HeldLastEinsum(gemma3.Einsum):
    """The projection after attention: what it is given is a product too."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return checkpoint_name(super().__call__(checkpoint_name(x, _HELD)), _HELD)


class _LightLayer(gemma3.DecoderLayer):
    def __call__(self, x: Any, segment_pos: Any, cache: Any, attn_mask: Any) -> Any:
        if cache is not None:
            return self.block(x, segment_pos, cache, attn_mask)
        policy = jax.checkpoint_policies.save_only_these_names(_HELD)
        repeated: Any = nnx.remat(gemma3.DecoderLayer.block, policy=policy)
        return repeated(self, x, segment_pos, cache, attn_mask)


class _RepeatedLayer(gemma3.DecoderLayer):
    def __call__(self, x: Any, segment_pos: Any, cache: Any, attn_mask: Any) -> Any:
        if cache is not None:
            return self.block(x, segment_pos, cache, attn_mask)
        repeated: Any = nnx.remat(gemma3.DecoderLayer.block)
        return repeated(self, x, segment_pos, cache, attn_mask)


class _RepeatedAttention(gemma3.Attention):
    def __call__(self, x: Any, segment_pos: Any, cache: Any, attn_mask: Any) -> Any:
        if cache is not None:
            return self.block(x, segment_pos, cache, attn_mask)
        repeated: Any = nnx.remat(gemma3.Attention.block)
        return repeated(self, x, segment_pos, cache, attn_mask)


class _RepeatedFeedForward(gemma3.FeedForward):
    def __call__(self, x: Any) -> Any:
        if x.shape[1] == 1:  # one token at a time is sampling
            return self.block(x)
        repeated: Any = nnx.remat(gemma3.FeedForward.block)
        return repeated(self, x)
