"""Programs as they are planned, lowered on the CPU, and the bounds of their times."""

import functools
import gc
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from harness import hardware, models, rewards, tokenizer, upstream
from harness import recipe as recipe_lib
from harness.plan import roofline, shapes
from harness.programs import ALWAYS, PHASES, SIZED_BY, Program
from harness.upstream import hooks
from harness.upstream.engine import donation, temperature
from harness.upstream.instrument import programs, step_programs
from harness.upstream.instrument import resident as resident_lib
from tests.conftest import small_recipe
from tests.support.plans import abstract


def real(recipe: recipe_lib.Recipe, mode: Any) -> Any:
    mesh, fixes = models.make_mesh(recipe.sharding), upstream.choose_fixes(mode)
    policy = models.make_policy(recipe, mesh)
    cluster = upstream.make_cluster(
        recipe,
        mesh=mesh,
        actor=models.apply_lora(policy, recipe.lora, mesh, recipe.seed),
        critic=models.make_critic(policy, mesh, recipe.seed),
        reference=policy if recipe.ppo.beta else None,
        tokenizer=tokenizer.load(recipe),
        fixes=fixes,
    )
    return upstream.make_learner(
        recipe, cluster=cluster, reward_fn=rewards.build(recipe.reward), fixes=fixes
    )


class Made(NamedTuple):
    """A learner of the small recipe, and the bytes of the arrays that came with it."""

    learner: Any
    made: int


@pytest.fixture(scope="module")
def own_cluster() -> Made:
    gc.collect()
    before = sum(each.nbytes for each in jax.live_arrays())
    learner = real(small_recipe(), "patched")
    gc.collect()
    return Made(learner, sum(each.nbytes for each in jax.live_arrays()) - before)


@pytest.fixture(scope="module")
def planned() -> Any:
    return abstract(small_recipe(), "patched")


def operations(text: str) -> list[str]:
    """Return a program's lines but for the one that says how arguments lie on the mesh."""
    return [line for line in text.splitlines() if "@main(" not in line]


def zeros_like_results(function: Any, *args: Any, **kwargs: Any) -> Any:
    results = function.eval_shape(*args, **kwargs)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), results)


def texts_of_a_run(learner: Any, recipe: recipe_lib.Recipe, monkeypatch: Any) -> dict[str, str]:
    """Take half a step, and keeps the text of each program where it is called.

    To spare compilations only the first one is run.
    """
    seen: dict[str, str] = {}

    def noting(name, function, results):
        def called(*args, **kwargs):
            seen.setdefault(name, function.lower(*args, **kwargs).as_text())
            return results(*args, **kwargs)

        return called

    sampler, score = learner.rl_cluster.rollout._sampler, donation.score_program
    begin, decode = sampler._compiled_prefill_fn, sampler._compiled_decode_fn
    jitted_score = score.jitted_fn
    size = recipe.batching.train_micro_batch_size
    batch = {"prompts": np.array(["1 + 1"] * size), "answer": np.array(["2"] * size)}
    # The train steps, further down, need the real functions again.
    with monkeypatch.context() as watched:
        for owner, attribute, noted in (
            (sampler, "_compiled_prefill_fn", noting("prefill", begin, begin)),
            (sampler, "_compiled_decode_fn", noting("decode", decode, lambda params, state: state)),
            (
                score,
                "jitted_fn",
                noting("values", jitted_score, functools.partial(zeros_like_results, jitted_score)),
            ),
        ):
            watched.setattr(owner, attribute, noted)
        with temperature.replaced(
            lambda program: noting("logps", program, functools.partial(zeros_like_results, program))
        ):
            example = upstream.generate_example(learner, batch)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), example) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), programs.abstract_example(learner, size)
    )
    for name, trainer in (
        ("actor_step", learner.rl_cluster.actor_trainer),
        ("critic_step", learner.rl_cluster.critic_trainer),
    ):
        jit = trainer.jit_train_and_eval_step

        def jitted(*args, name=name, jit=jit, **kwargs):
            step, evaluate = jit(*args, **kwargs)
            function = hooks.holder_of(step)
            function.jitted_fn = only_noting(name, function.jitted_fn)
            return step, evaluate

        def only_noting(name, function):
            def called(*args, **kwargs):
                seen[name] = function.lower(*args, **kwargs).as_text()
                raise KeyboardInterrupt  # the text is all that is wanted

            called._cache_size = lambda: 0  # type: ignore[attr-defined]
            return called

        monkeypatch.setattr(trainer, "jit_train_and_eval_step", jitted)
        update = getattr(learner.rl_cluster, f"update_{name.split('_')[0]}")
        with pytest.raises(KeyboardInterrupt):
            update([example], None)
    return seen


def test_what_is_planned_is_what_a_run_calls(own_cluster, monkeypatch):
    recipe = small_recipe()
    # The ids of stop tokens are constants of the programs, and of the tokenizer.
    end = tokenizer.load(recipe).end_ids(["<end_of_turn>"])[0]
    monkeypatch.setitem(programs._IDS, "<end_of_turn>", end)
    planned = abstract(recipe, "patched")
    planned_texts: dict[str, str] = {
        name: programs.lower(planned, name, recipe.batching.train_micro_batch_size).as_text()
        for name in ALWAYS
    }
    run = texts_of_a_run(own_cluster.learner, recipe, monkeypatch)
    assert set(run) == set(ALWAYS)
    for name, text in run.items():
        wanted = planned_texts[name]
        if name in ("prefill", "logps", "values"):
            assert text == wanted, name
            continue
        # State and examples are laid on the mesh, of one device here, when they come
        # to be; all else is the same, and what is donated too.
        assert operations(text) == operations(wanted)
        assert text.count("tf.aliasing_output") == wanted.count("tf.aliasing_output")


def test_a_program_has_one_name_everywhere():
    assert all(programs.arguments_of(each) for each in Program)
    assert set(step_programs.NAMES) - {"advantages"} == set(ALWAYS)
    sized = [each for members in SIZED_BY.values() for each in members]
    in_phases = [each for members in PHASES.values() for each in members]
    assert sorted(sized) == sorted(in_phases) == sorted(Program)


def test_the_reference_has_a_program_where_there_is_a_penalty():
    recipe = small_recipe("ppo.beta=0.1")
    assert "reference_logps" in shapes.of(recipe)
    lowered = programs.lower(abstract(recipe, "patched"), "reference_logps", 4)
    assert lowered.out_info.shape == (4, recipe.rollout.max_new_tokens)


def test_resident_bytes_are_those_of_the_arrays_of_a_real_cluster(own_cluster, planned):
    listed = resident_lib.resident(planned)
    assert listed == resident_lib.resident(own_cluster.learner)
    # Beside what is listed a learner holds a few random keys.
    assert 0 <= own_cluster.made - sum(each.bytes for each in listed) <= 64


@pytest.mark.parametrize(("fsdp", "tp"), [(4, 1), (2, 2)])
def test_bytes_on_a_chip_follow_from_the_partition_specs(fsdp, tp):
    recipe = small_recipe(f"sharding.fsdp={fsdp}", f"sharding.tp={tp}")
    learner = abstract(recipe, "patched")
    sizes = {"fsdp": fsdp, "tp": tp}

    def by_hand(state: Any) -> int:
        specs = jax.tree.leaves(
            nnx.get_partition_spec(state),
            is_leaf=lambda each: isinstance(each, jax.sharding.PartitionSpec),
        )
        total = 0
        for leaf, spec in zip(jax.tree.leaves(state), specs, strict=True):
            parts = math.prod(sizes[axis] for axis in spec if axis is not None)
            total += math.prod(leaf.shape) * leaf.dtype.itemsize // parts
        return total

    cluster = learner.rl_cluster
    found = {each.name: each.bytes for each in resident_lib.resident(learner)}
    actor, critic = cluster.actor_trainer, cluster.critic_trainer
    assert found["actor base"] + found["actor LoRA"] == by_hand(nnx.state(actor.model, nnx.Param))
    assert found["critic"] == by_hand(nnx.state(critic.model, nnx.Param))
    for role, trainer in (("actor", actor), ("critic", critic)):
        state = nnx.state(trainer.optimizer, nnx.optimizer.OptState)
        parts = [
            size for name, size in found.items() if name in programs.arguments_of(f"{role}_step")
        ]
        weights = (
            found["critic"] if role == "critic" else (found["actor base"] + found["actor LoRA"])
        )
        assert sum(parts) == weights + by_hand(state)


# Bounds.


# Wide enough that products outweigh what is done element by element.
WIDE = (
    "model.embed_dim=256",
    "model.hidden_dim=1024",
    "model.head_dim=64",
    "model.num_layers=2",
    "rollout.max_prompt_length=32",
    "rollout.max_new_tokens=32",
    "rollout.cache_size=64",
    "lora.rank=16",
)


@pytest.mark.parametrize("program", ["logps", "critic_step"])
def test_operations_by_formula_are_those_that_xla_counts(program):
    recipe = small_recipe(*WIDE)
    learner = abstract(recipe, "patched")
    counted = programs.lower(learner, program, 4).compile().cost_analysis()
    least = roofline.work(recipe, program, 4)
    # XLA counts element-wise work too, and may keep logits of the prompt.
    assert least.flops <= counted["flops"] <= 1.15 * least.flops
    assert least.bytes <= counted["bytes accessed"]


@pytest.mark.parametrize("modules", [".*q_einsum|.*kv_einsum|.*attn_vec_einsum", ".*_proj"])
def test_weights_of_lora_are_those_of_the_abstract_state(modules):
    recipe = small_recipe(f"lora.modules='{modules}'")
    found = {each.name: each.bytes for each in resident_lib.resident(abstract(recipe, "stock"))}
    assert roofline.lora_weights(recipe) == found["actor LoRA"] // 4


def test_a_program_is_bound_by_the_slower_of_the_two():
    chip = hardware.Chip("test", 1, bf16_flops=200.0, fp32_flops=100.0, bandwidth=10.0)
    slow = roofline.bound(roofline.Work(flops=1000, bytes=50), chip, "float32")
    assert (slow.seconds, slow.limit) == (10.0, "compute")
    fast = roofline.bound(roofline.Work(flops=1000, bytes=80), chip, "bfloat16", 2)
    assert (fast.seconds, fast.limit) == (4.0, "memory")


def test_decoding_reads_all_weights_for_each_token():
    recipe = recipe_lib.load("gemma3-1b")
    one, four = (roofline.work(recipe, "decode", sequences) for sequences in (1, 4))
    weights = (999_885_952 + 50_266_112) * 4  # Gemma 3 1B, and LoRA pairs of rank 64
    # The first of the 512 is drawn by prefill.
    assert one.bytes == pytest.approx(511 * (weights + 2 * 26 * 1024 * 256 * 4), rel=1e-5)
    assert four.flops == 4 * one.flops
    assert four.bytes < 1.2 * one.bytes
