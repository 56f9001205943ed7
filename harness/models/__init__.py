"""Gemma 3 policies, LoRA actors, critics, and the supervised warm start."""

from harness.models.critic import GemmaCritic, make_critic
from harness.models.gemma import checksum, clone, load_gemma, random_gemma
from harness.models.lora import apply_lora, lora_state, lora_weights
from harness.models.mesh import make_mesh, one_host

__all__ = [
    "GemmaCritic",
    "apply_lora",
    "checksum",
    "clone",
    "load_gemma",
    "lora_state",
    "lora_weights",
    "make_critic",
    "make_mesh",
    "one_host",
    "random_gemma",
]
