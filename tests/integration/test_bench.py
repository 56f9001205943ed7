"""What is timed: programs taken from a real step, one step at a time, reported in JSON lines."""

import io
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harness import upstream
from harness.artifacts import bench
from harness.bench import context as context_lib
from harness.bench import worker
from harness.errors import HarnessError
from harness.measure import compiles, environment, programs
from harness.upstream.instrument import step_programs


def noted(function, *args, **kwargs):
    found = {}
    answer = step_programs._Recorder("step", function, found)(*args, **kwargs)
    return found, answer


def test_a_program_runs_again_and_again_on_donated_arguments():
    step = jax.jit(
        lambda state, x, scale: (state + x * scale, x.sum()),
        donate_argnums=0,
        static_argnames="scale",
    )
    start, x = np.arange(6, dtype=np.float32), jnp.ones(6)
    found, (first, _) = noted(step, jnp.array(start), x, scale=3)
    np.testing.assert_array_equal(first, start + 3)
    program = found["step"]
    assert program.compile_count == 1
    with compiles.Listener() as listener:
        for _ in range(3):
            args, kwargs = program.arguments()
            state, total = program(*args, **kwargs)
            np.testing.assert_array_equal(state, start + 3)
            assert args[0].is_deleted()
            assert float(total) == 6
    assert listener.statistics.compiles + listener.statistics.traces == 0
    figures = programs.figures(program.lowered, program.compiled)
    assert figures.donated_bytes == figures.alias_bytes == 6 * 4


def test_a_call_under_a_trace_is_not_taken_for_the_program():
    inner = jax.jit(lambda x: x * 2)
    found = {}
    recorder = step_programs._Recorder("step", inner, found)
    np.testing.assert_array_equal(jax.jit(lambda x: recorder(x) + 1)(np.ones(3)), np.full(3, 3.0))
    assert not found
    recorder(np.ones(4))
    recorder(np.ones(5))
    assert jax.tree.leaves(found["step"].lowered.args_info)[0].shape == (4,)


def test_every_program_of_a_real_step_is_found(ppo_learner, ppo_batch, ppo_recipe):
    found = step_programs.programs(ppo_learner, ppo_batch)
    assert tuple(found) == step_programs.NAMES
    sequences = ppo_recipe.batching.train_micro_batch_size
    length = ppo_recipe.rollout.max_new_tokens
    for name, program in found.items():
        figures = programs.figures(program.lowered, program.compiled)
        assert figures.peak_bytes >= figures.argument_bytes > 0, name
        # What is donated is what changes: caches, from 0.1.7 on, and the trainers' moments.
        sampling = ("prefill", "decode") if upstream.standing("seed-array-donated") else ()
        donates = name in (*sampling, "actor_step", "critic_step")
        assert (figures.donated_bytes > 0) == donates, name
    args, kwargs = found["logps"].arguments()
    assert found["logps"](*args, **kwargs).shape == (sequences, length)


class StandIn:
    """Takes batches as upstream's learner does."""

    def __init__(self, fails_at=None):
        self.trained: list[str] = []
        self._fails_at = fails_at

    def train(self, batches):
        for batch in batches:
            if len(self.trained) == self._fails_at:
                raise ValueError("no more")
            self.trained.append(batch)


@pytest.fixture
def released(monkeypatch):
    found = []
    monkeypatch.setattr(upstream, "release", found.append)
    return found


def test_a_learner_goes_one_step_at_a_time_and_round_its_batches(released):
    learner: Any = StandIn()
    steps = context_lib.Steps(learner, ["a", "b"])
    assert learner.trained == []
    for count in (1, 2, 3):
        steps.step()
        assert len(learner.trained) == count
    steps.close()
    assert learner.trained == ["a", "b", "a"]
    assert released == [learner]


def test_a_learner_that_stops_is_reported_with_its_error(released):
    learner: Any = StandIn(fails_at=1)
    steps = context_lib.Steps(learner, ["a"])
    steps.step()
    with pytest.raises(HarnessError, match="no more"):
        steps.step()
    steps.close()


def test_a_worker_answers_each_order_on_inputs_made_anew():
    prepared, ran = [], []
    call = context_lib.Call("step", 1, lambda: prepared.append(1) or len(prepared), ran.append)
    orders = io.StringIO('{"name": "step", "calls": 2}\n{"name": "step", "calls": 1}\n')
    out = io.StringIO()
    head = bench.Header(schema=bench.SCHEMA, names=["step"])
    worker.serve(head, {"step": call}, orders, out)
    first, *answers = [json.loads(line) for line in out.getvalue().splitlines()]
    assert first == {"schema": bench.SCHEMA, "names": ["step"]}
    assert [sorted(each) for each in answers] == [["cpu", "wall_clock"]] * 2
    assert ran == [1, 2, 3]


def test_a_bench_recipe_has_the_shapes_of_its_preset():
    from harness import recipe as recipe_lib

    for preset in recipe_lib.PRESETS:
        plain, timed = recipe_lib.load(preset), context_lib.recipe_for(preset)
        assert timed.batching == plain.batching
        assert timed.rollout == plain.rollout
        assert timed.lora == plain.lora
        shapes = {**recipe_lib.to_dict(plain)["model"], "weights": 0, "tokenizer": 0}
        assert {**recipe_lib.to_dict(timed)["model"], "weights": 0, "tokenizer": 0} == shapes


def test_a_program_measured_alone_is_the_only_one_of_its_size():
    sizes = context_lib.recipe_for("gemma3-1b", micro_batch=8, alone="values").batching
    assert (
        sizes.compute_logps_micro_batch_size,
        sizes.rollout_micro_batch_size,
        sizes.train_micro_batch_size,
    ) == (
        8,
        1,
        1,
    )
    every = context_lib.recipe_for("gemma3-1b", micro_batch=8).batching
    assert every.train_micro_batch_size == every.rollout_micro_batch_size == 8


def test_micro_batches_are_the_recipes_own_and_one_smaller():
    assert context_lib.micro_batches(context_lib.recipe_for("tiny")) == (16, 64)
    assert context_lib.micro_batches(context_lib.recipe_for("gemma3-1b")) == (1, 2, 4)


def test_conditions_leave_out_what_is_judged(monkeypatch):
    found = environment.conditions()
    assert not any("tunix" in name for name in found)
    assert found["packages.jax"] == jax.__version__
    monkeypatch.setenv("XLA_FLAGS", "--xla_b --xla_cpu_max_isa=AVX2 --xla_a")
    pinned = environment.conditions()
    assert pinned["cpu"] == "any"
    assert pinned["XLA_FLAGS"] == "--xla_a --xla_b --xla_cpu_max_isa=AVX2"
