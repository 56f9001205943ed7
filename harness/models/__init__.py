"""Gemma 3 policies, LoRA actors, critics, and the supervised warm start."""

from harness.models.critic import GemmaCritic, abstract_critic, make_critic
from harness.models.gemma import (
    abstract_gemma,
    checksum,
    clone,
    lay_over,
    load_gemma,
    random_gemma,
    shapes_of,
)
from harness.models.lora import abstract_lora, apply_lora, lora_state, lora_weights
from harness.models.mesh import entered, make_mesh, one_host
from harness.models.policy import make_policy
from harness.models.precision import cast, compute_in, stored_in, with_moments_in
from harness.models.roles import build_abstract, build_actor, build_critic

__all__ = [
    "GemmaCritic",
    "abstract_critic",
    "abstract_gemma",
    "abstract_lora",
    "apply_lora",
    "build_abstract",
    "build_actor",
    "build_critic",
    "cast",
    "checksum",
    "clone",
    "compute_in",
    "entered",
    "lay_over",
    "load_gemma",
    "lora_state",
    "lora_weights",
    "make_critic",
    "make_mesh",
    "make_policy",
    "one_host",
    "random_gemma",
    "shapes_of",
    "stored_in",
    "with_moments_in",
]
