"""Rematerialisation that keeps what is dear to compute and cheap to hold.

Upstream's Gemma 3 offers two kinds: whole layers, or attention and feed-forward
layer each as a whole. Either repeats nearly the whole forward pass. Most of the
memory that a gradient needs is in two arrays of a layer, the two wide results of
its feed-forward layer, and in the attention scores. Here all products are kept
but one of the wide ones, which is repeated together with the scores and with
what is computed element by element: a third of `block`'s time, for most of its
memory (Chen et al. 2016, arXiv:1604.06174; the choice by name as in
`jax.checkpoint_policies.save_only_these_names`).
"""

import functools
from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from tunix.models.gemma3 import model as gemma3

_KEPT = "kept by light rematerialisation"


def lighten(module: gemma3.Gemma3) -> None:
    """Make every layer of a model keep its products but `up_proj`'s; changed in place.

    Modules take subclasses of their own classes, so that paths, parameters and
    results are as before.

    Args:
      module: With weights or with shapes, without upstream's rematerialisation.
    """
    for layer in module.layers:
        layer.__class__ = _Layer
        for projection in (layer.mlp.gate_proj, layer.mlp.down_proj):
            projection.__class__ = _Linear
        for name in ("q_einsum", "kv_einsum", "qkv_einsum"):
            if hasattr(layer.attn, name):
                getattr(layer.attn, name).__class__ = _Einsum
        layer.attn.attn_vec_einsum.__class__ = _LastEinsum


class _Linear(nnx.Linear):
    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        return checkpoint_name(super().__call__(*args, **kwargs), _KEPT)


class _Einsum(gemma3.Einsum):
    def __call__(self, x: jax.Array) -> jax.Array:
        return checkpoint_name(super().__call__(x), _KEPT)


class _LastEinsum(gemma3.Einsum):
    """The projection after attention: what it is given is a product too."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return checkpoint_name(super().__call__(checkpoint_name(x, _KEPT)), _KEPT)


class _Layer(gemma3.DecoderLayer):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        repeated = nnx.remat(
            gemma3.DecoderLayer.block,
            policy=jax.checkpoint_policies.save_only_these_names(_KEPT),
        )
        return functools.partial(repeated, self)(*args, **kwargs)
