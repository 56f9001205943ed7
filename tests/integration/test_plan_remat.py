"""What rematerialisation and dtypes change of the programs, and what not."""

import functools
import math
import re
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from harness import models, upstream
from harness import recipe as recipe_lib
from harness.plan import (
    roofline,
    worker,
)
from harness.upstream.engine import rollout as rollout_lib
from harness.upstream.instrument import programs
from tests.conftest import small_recipe


@pytest.mark.parametrize(
    ("remat", "lora"), [("light", True), ("light", False), ("block", True), ("decoder", False)]
)
def test_rematerialisation_changes_no_gradient(remat, lora):
    recipe = small_recipe()
    changed = small_recipe(f"model.remat={remat}")
    mesh = models.make_mesh(recipe.sharding)

    def slopes(of: recipe_lib.Recipe) -> dict[str, jax.Array]:
        policy = models.random_gemma(of.model, mesh, 0)
        kind = nnx.LoRAParam if lora else nnx.Param
        model: Any = models.apply_lora(policy, of.lora, mesh, 1) if lora else policy
        tokens = jnp.arange(12).reshape(2, 6)
        positions = jnp.broadcast_to(jnp.arange(6), (2, 6))
        mask = jnp.broadcast_to(jnp.tril(jnp.ones((6, 6), bool)), (2, 6, 6))

        @nnx.jit
        def gradient(model: Any) -> Any:
            def loss(inner: Any) -> jax.Array:
                return jnp.square(inner(tokens, positions, None, mask)[0]).mean()

            return nnx.grad(loss, argnums=nnx.DiffState(0, kind))(model)

        return {
            jax.tree_util.keystr(path): leaf
            for path, leaf in jax.tree_util.tree_flatten_with_path(gradient(model))[0]
        }

    plain, found = slopes(recipe), slopes(changed)
    assert plain.keys() == found.keys()
    assert plain
    for path, leaf in plain.items():
        assert jnp.allclose(found[path], leaf, rtol=1e-4, atol=1e-6), path


@pytest.mark.parametrize("remat", ["light", "block", "decoder"])
@pytest.mark.parametrize("program", ["actor_step", "critic_step"])
def test_operations_that_are_repeated_are_those_of_the_lowered_program(remat, program):
    """Before the compiler, which may find on a CPU that a product is there already."""
    changed = small_recipe(f"model.remat={remat}")
    repeated = 4 * roofline.recomputed_flops(
        changed, "actor" if program == "actor_step" else "critic"
    )
    found = products(remat, program) - products("none", program)
    # Of a LoRA pair behind a product that is not repeated, the first half is.
    slack = 1.25 if program == "actor_step" and remat != "decoder" else 1.0
    assert repeated <= found <= slack * repeated


@pytest.mark.parametrize("program", ["values", "critic_step"])
def test_operations_of_a_critic_by_lora_are_those_of_the_lowered_program(program):
    changed = small_recipe("model.remat=none", "critic.lora.rank=8")
    least = roofline.work(changed, program, 4).flops
    # Upstream computes logits of a critic too, which the compiler drops.
    found = products("none", program, "critic.lora.rank=8")
    unused = 2 * 4 * changed.model.vocab_size * changed.model.embed_dim
    unused *= changed.rollout.max_prompt_length + changed.rollout.max_new_tokens
    assert least <= found <= 1.15 * (least + unused)


def test_a_rollout_in_bfloat16_reads_half_as_much():
    plain = recipe_lib.load("gemma3-1b")
    half = recipe_lib.load("gemma3-1b", assignments=["rollout.dtype=bfloat16"])
    before, after = (roofline.work(each, "decode", 16) for each in (plain, half))
    assert after.bytes == before.bytes / 2
    assert after.flops == before.flops
    for program in ("logps", "values", "actor_step", "critic_step"):
        assert roofline.work(half, program, 4) == roofline.work(plain, program, 4)


def test_what_an_optimizer_moves_is_counted_in_its_dtypes():
    def moved(*assignments: str) -> float:
        recipe = recipe_lib.load("gemma3-1b", assignments=assignments)
        return roofline.work(recipe, "critic_step", 1).bytes

    whole, one = moved(), moved("precision.moments=bfloat16")
    # Of 8 numbers for each weight the two moments, read and written, are 4.
    assert one == pytest.approx(0.75 * whole, rel=1e-4)
    assert moved("precision.accumulators=bfloat16") == pytest.approx(0.875 * whole, rel=1e-4)
    assert moved("model.dtype=bfloat16") == whole


@functools.cache
def abstract(*assignments: str) -> Any:
    recipe = small_recipe(*assignments)
    mesh = models.make_mesh(recipe.sharding)
    return programs.abstract_learner(recipe, mesh, upstream.choose_fixes("patched"))


@functools.cache
def products(remat: str, program: Any, *assignments: str) -> int:
    """Count the operations of the matrix products of a lowered program of four sequences."""
    learner = abstract(f"model.remat={remat}", *assignments)
    text = programs.lower(learner, program, 4).as_text()
    total = 0
    for line in text.splitlines():
        if "stablehlo.dot_general" not in line:
            continue
        left, _, result = re.findall(r"tensor<([\dx]+)xf32>", line)
        contracting = re.search(r"contracting_dims = \[([\d, ]*)\]", line)
        assert contracting
        shape = [int(size) for size in left.split("x")]
        size = math.prod(int(each) for each in result.split("x"))
        total += 2 * size * math.prod(shape[int(axis)] for axis in contracting[1].split(", "))
    return total


@pytest.mark.parametrize("remat", ["light", "block", "decoder"])
def test_sampling_is_the_same_program_with_any_rematerialisation(remat):
    plain = programs.lower(abstract("model.remat=none"), "decode", 4).as_text()
    assert programs.lower(abstract(f"model.remat={remat}"), "decode", 4).as_text() == plain


def test_on_a_tpu_prefill_is_compiled_with_options_of_its_own(monkeypatch):
    """Without them libtpu refuses 16 sequences of the 1B model in float32 on a v6e."""

    def digests() -> dict[str, str]:
        recipe = small_recipe()
        mesh = models.make_mesh(recipe.sharding)
        learner = programs.abstract_learner(recipe, mesh, upstream.choose_fixes("patched"))
        names = ("prefill", "decode")
        return {name: worker.digest(programs.lower(learner, name, 4)) for name in names}

    plain = digests()
    devices = SimpleNamespace(flat=[SimpleNamespace(platform="tpu")])
    build = rollout_lib.EngineRollout.__init__
    monkeypatch.setattr(
        rollout_lib.EngineRollout,
        "__init__",
        lambda self, **given: build(self, **{**given, "mesh": SimpleNamespace(devices=devices)}),
    )
    on_tpu = digests()
    # The program is the same, what it is compiled with is not, and the store tells them apart.
    assert on_tpu["prefill"] != plain["prefill"]
    assert on_tpu["decode"] == plain["decode"]
