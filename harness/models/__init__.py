"""Gemma 3 policies, LoRA actors, critics, and the supervised warm start."""

from harness.models.critic import GemmaCritic, abstract_critic, make_critic
from harness.models.gemma import (
    abstract_gemma,
    checksum,
    clone,
    lay_over,
    load_gemma,
    random_gemma,
)
from harness.models.lora import abstract_lora, apply_lora, lora_state, lora_weights
from harness.models.mesh import make_mesh, one_host

__all__ = [
    "GemmaCritic",
    "abstract_critic",
    "abstract_gemma",
    "abstract_lora",
    "apply_lora",
    "checksum",
    "clone",
    "lay_over",
    "load_gemma",
    "lora_state",
    "lora_weights",
    "make_critic",
    "make_mesh",
    "one_host",
    "random_gemma",
]
