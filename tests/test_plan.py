"""The plan: its arithmetic, its store, its programs lowered on the CPU, and one compiled."""

import dataclasses
import functools
import gc
import importlib.metadata
import json
import math
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import cli, errors, models, pipeline, rewards, tokenizer, upstream
from harness import recipe as recipe_lib
from harness.plan import (
    chips,
    compiler,
    picture,
    planning,
    regression,
    resident,
    roofline,
    shapes,
    sources,
    store,
    wall,
    worker,
)
from harness.upstream import donation, programs, temperature

from .conftest import small_recipe

GIB = 2**30


def has_compiler() -> bool:
    try:
        return bool(importlib.metadata.version("libtpu"))
    except importlib.metadata.PackageNotFoundError:
        return False


# ---------------------------------------------------------------- the wall


@given(
    threshold=st.integers(0, 300),
    step=st.sampled_from([1, 2, 4]),
    start=st.integers(1, 20),
    bend=st.floats(0, 0.01),
    told=st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_the_wall_is_where_the_judge_puts_it(threshold, step, start, bend, told):
    asked = []

    def size(rows):
        return int(1000 + 50 * rows + bend * rows**2)

    def judge(rows):
        assert rows not in asked
        assert rows % step == 0
        asked.append(rows)
        return wall.Verdict(rows <= threshold, size(rows) if told else None)

    limit = 256 // step * step
    found = wall.find(
        judge, start=start * step, step=step, limit=limit, capacity=size(threshold), floor=1000
    )
    most = min(threshold // step * step, limit)
    assert found.fits == most
    assert found.refused == (None if most == limit else most + step)
    assert {each for each in (found.fits, found.refused) if each} <= set(asked)


def test_a_line_that_leads_astray_is_not_followed_size_by_size():
    asked = []

    def judge(rows):
        asked.append(rows)
        # What is refused takes hardly more than there is, far beyond the wall too.
        return wall.Verdict(rows <= 700, 40 * rows if rows <= 700 else 32_000 + rows)

    assert wall.find(judge, start=4, step=1, limit=4096, capacity=31_000) == wall.Wall(700, 701)
    assert len(asked) <= 2 * math.log2(4096)


@pytest.mark.parametrize(("floor", "most"), [(0, 6), (1000, 5)])
def test_a_straight_line_takes_few_questions(floor, most):
    asked = []

    def judge(rows):
        asked.append(rows)
        return wall.Verdict(1000 + 50 * rows <= 3777, 1000 + 50 * rows)

    wall.find(judge, start=4, step=1, limit=4096, capacity=3777, floor=floor)
    assert len(asked) <= most


def test_sizes_between_two_known_ones_are_estimated_on_the_line():
    assert wall.estimate({2: 1200, 10: 2000}, 1500) == 5
    assert wall.estimate({2: 1200}, 1500) is None
    assert wall.estimate({2: 1200, 3: 1200}, 1500) is None


# ---------------------------------------------------------------- the store


def job(*assignments: str, program: str = "logps", rows: int = 4, **changes: Any) -> store.Job:
    found = store.Job(small_recipe(*assignments), ("a-mend",), "v6e-1", program, rows)
    return dataclasses.replace(found, **changes)


def test_what_is_kept_comes_back(tmp_path):
    kept = store.Store(tmp_path / "plan")
    assert kept.get(job()) is None
    figures = store.Figures(argument_bytes=3, refused=store.Refusal(5, 4, "too large"))
    kept.put(job(), dataclasses.asdict(figures))
    again = store.Store(tmp_path / "plan").get(job())
    assert again is not None
    assert store.Figures.from_dict(again) == figures
    assert store.Job.from_dict(json.loads(json.dumps(job().to_dict()))) == job()


@pytest.mark.parametrize(
    "other",
    [
        job(rows=8),
        job(program="values"),
        job(place="v5e-1"),
        job(mends=()),
        job("model.dtype=bfloat16"),
        job("model.remat=decoder"),
        job("lora.rank=8"),
        job("sharding.fsdp=2"),
        job("rollout.max_new_tokens=4"),
        job("rollout.end_tokens=['<eos>']"),
        job("ppo.entropy_coef=0.1"),
        job("optimizers.max_grad_norm=none"),
        job("optimizers.max_steps=7"),
        job("batching.train_micro_batch=2"),
    ],
    ids=lambda each: f"{each.program} {each.rows} {each.place}",
)
def test_another_question_has_another_answer(tmp_path, other):
    kept = store.Store(tmp_path)
    kept.put(job(), {"argument_bytes": 1})
    assert kept.get(other) is None


def test_what_no_program_depends_on_is_not_in_the_key(tmp_path):
    kept = store.Store(tmp_path)
    kept.put(job(), {"argument_bytes": 1})
    assert kept.get(job("data.num_test_batches=1", "seed=7", "model.tokenizer=x")) is not None


def test_flags_and_versions_are_in_the_key(tmp_path, monkeypatch):
    store.Store(tmp_path).put(job(), {"argument_bytes": 1})
    assert store.Store(tmp_path, "--flag=on").get(job()) is None
    monkeypatch.setattr(store, "versions", lambda: {"jax": "0.0.1"})
    assert store.Store(tmp_path).get(job()) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": {}}'])
def test_a_damaged_answer_is_asked_for_again(tmp_path, text):
    kept = store.Store(tmp_path)
    kept.put(job(), {"argument_bytes": 1})
    for path in tmp_path.iterdir():
        path.write_text(text)
    assert kept.get(job()) is None


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.HarnessError, match="PPO_HARNESS_CACHE"):
        store.Store(tmp_path / "file" / "plan").put(job(), {})


def in_process(kept: store.Store, asked: list[str]) -> compiler.Compiler:
    """Compiles for the CPU, in this process, and notes what the compiler is asked."""

    class Answerer:
        grown = False

        def __init__(self) -> None:
            self._worker = worker.Worker(jax.devices()[:1])

        def lower(self, job: store.Job) -> dict[str, Any]:
            asked.append("lower")
            return self._worker.lower(job)

        def compile(self, job: store.Job) -> dict[str, Any]:
            asked.append("compile")
            return self._worker.compile()["answer"]

        def end(self) -> None:
            pass

    return compiler.Compiler(chips.find("v6e-1"), kept, workers=1, start=Answerer)


def test_an_edited_source_compiles_only_what_became_another_program(tmp_path, monkeypatch):
    asked: list[str] = []
    question = job(mends=upstream.mends("mended"))

    def ask() -> tuple[dict[str, Any], bool]:
        asked.clear()
        with in_process(store.Store(tmp_path), asked) as compiling:
            return compiling.ask(question)

    first, cached = ask()
    assert (asked, cached) == (["lower", "compile"], False)
    assert first["argument_bytes"] > 0
    assert ask() == (first, True)
    assert asked == []

    monkeypatch.setattr(store.sources, "digest", lambda: "a message was edited")
    assert ask() == (first, True)
    assert asked == ["lower"]
    assert ask() == (first, True)
    assert asked == []

    # The padding is a constant of the program.
    monkeypatch.setattr(store.sources, "digest", lambda: "the program was edited")
    monkeypatch.setitem(programs._IDS, "<pad>", 3)
    again, cached = ask()
    assert (asked, cached) == (["lower", "compile"], False)
    assert again["argument_bytes"] == first["argument_bytes"]


def test_a_program_of_another_slice_flag_or_version_is_another(tmp_path, monkeypatch):
    store.Store(tmp_path).put(job(), {"argument_bytes": 1}, "text")
    assert store.Store(tmp_path).get(job()) == {"argument_bytes": 1}
    assert store.Store(tmp_path).get_program("v6e-1", "text") == {"argument_bytes": 1}
    assert store.Store(tmp_path).get_program("v6e-1", "other text") is None
    assert store.Store(tmp_path).get_program("v5e-1", "text") is None
    assert store.Store(tmp_path, "--flag=on").get_program("v6e-1", "text") is None
    monkeypatch.setattr(store, "versions", lambda: {"jax": "0.0.1"})
    assert store.Store(tmp_path).get_program("v6e-1", "text") is None


LOWERED = """
import sys
from harness import upstream
from harness.plan import store, worker
from tests.test_plan import job
import jax
found = worker.Worker(jax.devices()[:1])
question = job(mends=upstream.mends("mended"))
print(*(found.lower(question)["text"] for _ in range(2)))
"""


def test_a_program_has_one_text_in_every_process(planned):
    del planned  # lowers after much else was traced here
    here = worker.Worker(jax.devices()[:1]).lower(job(mends=upstream.mends("mended")))["text"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", LOWERED],
        cwd=pathlib.Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == [here, here]


def test_all_that_a_program_is_made_of_is_digested(tmp_path):
    package = tmp_path / "thing"
    texts = {
        "__init__.py": "",
        "plan/__init__.py": "",
        "plan/worker.py": "def work():\n    from thing.deep import made\n",
        "deep/__init__.py": "from . import inner",
        "deep/inner.py": "import importlib\nimportlib.import_module('thing.named')",
        "deep/made.py": "text = 'a message'",
        "named.py": "",
        "other.py": "",
    }
    for name, text in texts.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    before = sources.digest(package, "thing.plan.worker")
    for name, text in texts.items():
        (package / name).write_text(text + "\nadded = 1\n")
        changed = sources.digest(package, "thing.plan.worker") != before
        assert changed is (name != "other.py"), name
        (package / name).write_text(text + "\n# a comment\n")
        assert sources.digest(package, "thing.plan.worker") == before


def test_the_sources_of_programs_are_found():
    package = pathlib.Path(store.__file__).parents[1]
    found = {
        path.relative_to(package).as_posix()
        for path in sources.reached(package, "harness.plan.worker")
    }
    assert {"upstream/learner.py", "upstream/temperature.py", "models/gemma.py"} <= found
    assert {"recipe.py", "accounting.py", "plan/worker.py", "plan/resident.py"} <= found
    assert "cli.py" not in found


# ---------------------------------------------------------------- the worker's environment


def test_no_variable_of_the_user_reaches_the_compiler():
    place = chips.find("v6e-1")
    outside = {
        "PATH": "/bin",
        "HOME": "/somewhere",
        "JAX_PLATFORMS": "tpu",
        "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false",
        "LIBTPU_INIT_ARGS": "--xla_foo",
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "JAX_COMPILATION_CACHE_DIR": "/somewhere/cache",
        "TPU_ACCELERATOR_TYPE": "v5e-8",
        "TPU_SKIP_MDS_QUERY": "1",
        "PYTHONOPTIMIZE": "2",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "",
    }
    assert worker.environment(place, "", outside) == {
        "PATH": "/bin",
        "HOME": "/somewhere",
        **worker.surroundings(place),
    }
    assert worker.environment(place, "--xla_bar", outside)["LIBTPU_INIT_ARGS"] == "--xla_bar"
    assert worker.not_passed_on(place, outside) == (
        *("JAX_COMPILATION_CACHE_DIR", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64"),
        *("LIBTPU_INIT_ARGS", "PYTHONOPTIMIZE", "TPU_ACCELERATOR_TYPE", "XLA_FLAGS"),
    )
    assert worker.not_passed_on(place, worker.environment(place, "", outside)) == ()


def test_what_is_not_passed_on_is_reported_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_foo")
    lines: list[str] = []
    place = chips.find("v6e-1")
    monkeypatch.setattr(store, "versions", lambda: {"libtpu": "1"})
    with compiler.Compiler(place, store.Store(tmp_path), progress=lines.append):
        assert "XLA_FLAGS" not in os.environ
    assert os.environ["XLA_FLAGS"] == "--xla_foo"
    assert len(lines) == 1
    assert "XLA_FLAGS" in lines[0]
    assert "--compiler-flags" in lines[0]


@pytest.mark.parametrize(
    ("code", "output", "words", "absent"),
    [
        (1, "ERROR: Unknown command line flag 'xla_foo'\n", ("xla_foo", "--compiler-flags"), "mem"),
        (-6, "F1 Unknown flag in XLA_FLAGS: --xla_a=1\nabort", ("--xla_a=1",), "memory"),
        (1, "ERROR: Illegal value 'x' specified for flag 'f'", ("Illegal value 'x'",), "memory"),
        (-9, "", ("killed (signal 9)", "close other programs"), "flag"),
        (-11, "first\nlast words\n", ("code -11", "last words"), "memory"),
        (3, "", ("code 3", "without a message"), "memory"),
    ],
)
def test_advice_on_a_compiler_that_died_fits_the_cause(code, output, words, absent):
    line = compiler.died("logps for 4 sequence(s) on v6e-1", code, output)
    assert "\n" not in line
    assert all(word in line for word in words)
    assert absent not in line


# ---------------------------------------------------------------- chips and refusals


@pytest.mark.parametrize("name", chips.SLICES)
def test_a_slice_has_as_many_chips_as_its_topology(name):
    place = chips.SLICES[name]
    assert place.topology is not None
    family, sizes = place.topology.split(":")
    assert family == place.chip.name
    assert math.prod(int(size) for size in sizes.split("x")) == place.count
    assert math.prod(place.bounds) == place.count


def test_the_message_of_the_compiler_is_read():
    found = worker.refusal(
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: the total memory required (36.25G) "
        "exceeds available HBM (31.25G).\nSee elsewhere."
    )
    assert (found.needed_bytes, found.available_bytes) == (int(36.25 * GIB), int(31.25 * GIB))
    assert "See" not in found.message


def test_a_message_in_other_words_is_still_a_refusal():
    found = worker.refusal("RESOURCE_EXHAUSTED: no room")
    assert found == store.Refusal(None, None, "RESOURCE_EXHAUSTED: no room")


@pytest.mark.parametrize(
    ("cores", "gib", "workers"), [(1, 64, 1), (2, 64, 2), (64, 64, 2), (8, 6, 1), (8, 1, 1)]
)
def test_compilers_side_by_side_are_bounded_by_cores_and_memory(cores, gib, workers):
    assert compiler.workers_that_fit(cores, gib * GIB) == workers


# ---------------------------------------------------------------- programs, lowered on the CPU


def abstract(recipe: recipe_lib.Recipe, mode: Any) -> Any:
    mesh = models.make_mesh(recipe.sharding)
    return programs.abstract_learner(recipe, mesh, upstream.mends(mode))


def real(recipe: recipe_lib.Recipe, mode: Any) -> Any:
    mesh, mends = models.make_mesh(recipe.sharding), upstream.mends(mode)
    policy = pipeline.make_policy(recipe, mesh)
    cluster = upstream.make_cluster(
        recipe,
        mesh=mesh,
        actor=models.apply_lora(policy, recipe.lora, mesh, recipe.seed),
        critic=models.make_critic(policy, mesh, recipe.seed),
        reference=policy if recipe.ppo.beta else None,
        tokenizer=tokenizer.load(recipe),
        mends=mends,
    )
    return upstream.make_learner(
        recipe, cluster=cluster, reward_fn=rewards.build(recipe.reward), mends=mends
    )


class Made(NamedTuple):
    """A learner of the small recipe, and the bytes of the arrays that came with it."""

    learner: Any
    made: int


@pytest.fixture(scope="module")
def own_cluster() -> Made:
    gc.collect()
    before = sum(each.nbytes for each in jax.live_arrays())
    learner = real(small_recipe(), "mended")
    gc.collect()
    return Made(learner, sum(each.nbytes for each in jax.live_arrays()) - before)


@pytest.fixture(scope="module")
def planned() -> Any:
    return abstract(small_recipe(), "mended")


def operations(text: str) -> list[str]:
    """Gives a program's lines but for the one that says how arguments lie on the mesh."""
    return [line for line in text.splitlines() if "@main(" not in line]


def zeros_like_results(function: Any, *args: Any, **kwargs: Any) -> Any:
    results = function.eval_shape(*args, **kwargs)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), results)


def texts_of_a_run(learner: Any, recipe: recipe_lib.Recipe, monkeypatch: Any) -> dict[str, str]:
    """Takes half a step, and keeps the text of each program where it is called.

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
    size = recipe.batching.train_micro_batch
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
            function = programs.holder_of(step)
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
    # The ids of end tokens are constants of the programs, and of the tokenizer.
    end = tokenizer.load(recipe).end_ids(["<end_of_turn>"])[0]
    monkeypatch.setitem(programs._IDS, "<end_of_turn>", end)
    planned = abstract(recipe, "mended")
    planned_texts = {
        name: programs.lower(planned, name, recipe.batching.train_micro_batch).as_text()  # type: ignore[arg-type]
        for name in shapes.PROGRAMS
    }
    run = texts_of_a_run(own_cluster.learner, recipe, monkeypatch)
    assert set(run) == set(shapes.PROGRAMS)
    for name, text in run.items():
        wanted = planned_texts[name]
        if name in ("prefill", "logps", "values"):
            assert text == wanted, name
            continue
        # State and examples are laid on the mesh, of one device here, when they come
        # to be; all else is the same, and what is donated too.
        assert operations(text) == operations(wanted)
        assert text.count("tf.aliasing_output") == wanted.count("tf.aliasing_output")


def test_the_reference_has_a_program_where_there_is_a_penalty():
    recipe = small_recipe("ppo.beta=0.1")
    assert "reference_logps" in shapes.of(recipe)
    lowered = programs.lower(abstract(recipe, "mended"), "reference_logps", 4)
    assert lowered.out_info.shape == (4, recipe.rollout.max_new_tokens)


def test_resident_bytes_are_those_of_the_arrays_of_a_real_cluster(own_cluster, planned):
    listed = programs.resident(planned)
    assert listed == programs.resident(own_cluster.learner)
    # Beside what is listed a learner holds a few random keys.
    assert 0 <= own_cluster.made - sum(each.bytes for each in listed) <= 64


@pytest.mark.parametrize(("fsdp", "tp"), [(4, 1), (2, 2)])
def test_bytes_on_a_chip_follow_from_the_partition_specs(fsdp, tp):
    recipe = small_recipe(f"sharding.fsdp={fsdp}", f"sharding.tp={tp}")
    learner = abstract(recipe, "mended")
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
    found = {each.name: each.bytes for each in programs.resident(learner)}
    actor, critic = cluster.actor_trainer, cluster.critic_trainer
    assert found["actor base"] + found["actor LoRA"] == by_hand(nnx.state(actor.model, nnx.Param))
    assert found["critic"] == by_hand(nnx.state(critic.model, nnx.Param))
    for role, trainer in (("actor", actor), ("critic", critic)):
        state = nnx.state(trainer.optimizer, nnx.optimizer.OptState)
        parts = [
            size
            for name, size in found.items()
            if name
            in programs.arguments_of(
                f"{role}_step"  # type: ignore[arg-type]
            )
        ]
        weights = (
            found["critic"] if role == "critic" else (found["actor base"] + found["actor LoRA"])
        )
        assert sum(parts) == weights + by_hand(state)


# ---------------------------------------------------------------- bounds

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
    learner = abstract(recipe, "mended")
    counted = programs.lower(learner, program, 4).compile().cost_analysis()
    least = roofline.work(recipe, program, 4)
    # XLA counts element-wise work too, and may keep logits of the prompt.
    assert least.flops <= counted["flops"] <= 1.15 * least.flops
    assert least.bytes <= counted["bytes accessed"]


@pytest.mark.parametrize("modules", [".*q_einsum|.*kv_einsum|.*attn_vec_einsum", ".*_proj"])
def test_weights_of_lora_are_those_of_the_abstract_state(modules):
    recipe = small_recipe(f"lora.modules='{modules}'")
    found = {each.name: each.bytes for each in programs.resident(abstract(recipe, "stock"))}
    assert roofline.lora_weights(recipe) == found["actor LoRA"] // 4


def test_a_program_is_bound_by_the_slower_of_the_two():
    chip = chips.Chip("test", 1, bf16_flops=200.0, fp32_flops=100.0, bandwidth=10.0)
    slow = roofline.bound(roofline.Work(flops=1000, bytes=50), chip, "float32")
    assert (slow.seconds, slow.limit) == (10.0, "compute")
    fast = roofline.bound(roofline.Work(flops=1000, bytes=80), chip, "bfloat16", 2)
    assert (fast.seconds, fast.limit) == (4.0, "memory")


def test_decoding_reads_all_weights_for_each_token():
    recipe = recipe_lib.load("gemma3-1b")
    one, four = (roofline.work(recipe, "decode", rows) for rows in (1, 4))
    weights = (999_885_952 + 50_266_112) * 4  # Gemma 3 1B, and LoRA pairs of rank 64
    # The first of the 512 is drawn by prefill.
    assert one.bytes == pytest.approx(511 * (weights + 2 * 26 * 1024 * 256 * 4), rel=1e-5)
    assert four.flops == 4 * one.flops
    assert four.bytes < 1.2 * one.bytes


# ---------------------------------------------------------------- the plan, with a made-up compiler


class Judge:
    """Answers as a compiler might for which a sequence takes so many bytes."""

    workers = 1
    host_bytes = 0

    def __init__(self, learner: Any, place: chips.Slice, slope: int):
        self.place, self.asked = place, []
        self._learner, self._slope = learner, slope

    def ask(self, job: store.Job) -> tuple[dict[str, Any], bool]:
        return resident.describe(self._learner, job.rows, job.recipe.batching.mini_batch), False

    def figures(self, job: store.Job) -> tuple[store.Figures, bool]:
        self.asked.append((job.program, job.rows))
        given = programs.arguments_of(job.program)  # type: ignore[arg-type]
        size = sum(each.bytes for each in programs.resident(self._learner) if each.name in given)
        size += 4096  # inputs and cache
        if size + self._slope * job.rows > self.place.chip.hbm_bytes:
            needed = size + self._slope * job.rows
            refused = store.Refusal(needed, self.place.chip.hbm_bytes, "too large")
            return store.Figures(refused=refused), False
        return store.Figures(argument_bytes=size, temp_bytes=self._slope * job.rows), False

    def __exit__(self, *error: object) -> None:
        pass


def make_plan(planned: Any, hbm: int, slope: int, **options: Any) -> dict[str, Any]:
    place = dataclasses.replace(
        chips.find("v6e-1"), chip=dataclasses.replace(chips.V6E, hbm_bytes=hbm)
    )
    judge: Any = Judge(planned, place, slope)
    return planning.make(planning.Planner(small_recipe(), "mended", judge), **options)


def test_a_phase_is_its_program_and_all_that_lives_beside_it(planned):
    plan = make_plan(planned, 10**7, 1000)
    assert [each["name"] for each in plan["programs"]] == list(shapes.PROGRAMS)
    assert [each["name"] for each in plan["phases"]] == [
        *("rollout", "old log-probs", "values", "actor step", "critic step")
    ]
    lives = sum(
        each["bytes"] for each in plan["resident"] if not each["pinned"] and "phase" not in each
    )
    for phase in plan["phases"]:
        assert phase["peak_bytes"] == lives + 4096 + 4000, phase["name"]
        assert sum(part["bytes"] for part in phase["parts"]) == phase["peak_bytes"]
    assert plan["fits"]


def test_a_program_that_fits_alone_may_not_fit_beside_the_rest(planned):
    plan = make_plan(planned, 800_000, 20_000, names=["logps"])
    (program,), (phase,) = plan["programs"], plan["phases"]
    assert program["fits"]
    assert not phase["fits"]
    assert phase["headroom_bytes"] < 0
    assert not plan["fits"]


def test_a_sweep_finds_walls_and_sizes(planned):
    plan = make_plan(planned, 2_000_000, 50_000, sweep=True)
    for each in plan["walls"]:
        given = programs.arguments_of(each["programs"][0])
        size = sum(one.bytes for one in programs.resident(planned) if one.name in given) + 4096
        assert each["compiles"] == (2_000_000 - size) // 50_000
        assert each["refused"] == each["compiles"] + 1
        assert each["refusal"]["needed_bytes"] > 2_000_000
    sizes = {each["setting"]: each["recommended"] for each in plan["recommendation"]["settings"]}
    # All of the mini-batch fits, and a larger call reads the weights less often.
    assert sizes == dict.fromkeys(sizes, 8)
    assert plan["recommendation"]["nothing_fits"] == []


def test_a_sweep_that_no_size_satisfies_says_so(planned):
    plan = make_plan(planned, 100_000, 10**6, sweep=True)
    assert not plan["fits"]
    assert [each["compiles"] for each in plan["walls"]] == [0] * 5
    assert [each["refused"] for each in plan["walls"]] == [1] * 5
    assert len(plan["recommendation"]["nothing_fits"]) == 3
    assert all(each["refused"]["message"] == "too large" for each in plan["programs"])


def test_a_sweep_of_stock_tunix_says_what_sizes_change():
    assert planning._changes(upstream.mends("mended")) == []
    assert len(planning._changes(())) == 2


def test_stock_tunix_values_the_whole_group_at_once():
    recipe = recipe_lib.load("gemma3-1b", assignments=["batching.rollout_micro_batch=8"])
    assert shapes.rows(recipe, "values", ()) == 8
    assert shapes.rows(recipe, "values", ("values-not-micro-batched",)) == 4


def test_a_changed_byte_is_a_regression_only_for_equal_versions(planned):
    old = regression.kept(make_plan(planned, 10**7, 1000))
    new = json.loads(json.dumps(old))
    assert regression.verdict(old, new) == (True, ["every byte as committed"])
    new["programs"][2]["temp_bytes"] += 1
    good, said = regression.verdict(old, new)
    assert not good
    assert any("temp_bytes 4,000 became 4,001" in line for line in said)
    new["versions"] = {**new["versions"], "jax": "0.0.1"}
    good, said = regression.verdict(old, new)
    assert good
    assert "jax" in said[0]
    assert any("became 4,001" in line for line in said)


def test_the_picture_shows_every_phase_and_the_limit(planned):
    plan = make_plan(planned, 10**7, 1000)
    drawn = ElementTree.fromstring(picture.draw(plan))
    words = {element.text for element in drawn.iter() if element.tag.endswith("text")}
    assert {phase["name"] for phase in plan["phases"]} <= words
    assert f"limit {10**7 / GIB:.2f} GiB" in words
    assert picture.draw(plan) == picture.draw(plan)


def test_the_picture_shows_a_phase_that_the_compiler_refused(planned):
    plan = make_plan(planned, 10**7, 1000)
    plan["phases"][0] |= {"peak_bytes": None, "fits": False, "parts": []}
    words = {element.text for element in ElementTree.fromstring(picture.draw(plan)).iter()}
    assert "refused" in words


# ---------------------------------------------------------------- the command


def run(monkeypatch: Any, capsys: Any, *arguments: str) -> tuple[int, str]:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", *arguments])
    return int(ended.value.code or 0), capsys.readouterr().err


def test_without_the_compiler_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr(store, "versions", lambda: {"libtpu": None})
    code, said = run(monkeypatch, capsys)
    assert code == 2
    assert "tunix-ppo-harness[tpu-compiler]" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--chip", "v7x-1"), ("unknown chip 'v7x-1'", *chips.SLICES)),
        (("--program", "train"), ("unknown program 'train'", *shapes.PROGRAMS)),
        (("--chip", "v6e-4"), ("4 chip(s)", "sharding.fsdp")),
        (("--set", "sharding.fsdp=2"), ("1 chip(s)", "sharding.fsdp")),
        (("--micro-batch", "0"), ("--micro-batch",)),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(monkeypatch, capsys, arguments, words):
    code, said = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert said.count("\n") == 1
    assert all(word in said for word in words)


# ---------------------------------------------------------------- one program, compiled for a TPU


@pytest.mark.skipif(not has_compiler(), reason="libtpu is not installed (extra tpu-compiler)")
def test_a_small_program_is_compiled_for_a_tpu_once(tmp_path, monkeypatch):
    """Two layers of the real widths; a lock file that another process left is there."""
    recipe = recipe_lib.load(
        "gemma3-1b",
        assignments=[
            "model.num_layers=2",
            "model.attention_pattern=['local', 'global']",
            "model.vocab_size=1024",
            "rollout.max_prompt_length=128",
            "rollout.max_new_tokens=128",
            "rollout.cache_size=256",
        ],
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "libtpu_lockfile").write_text("")
    kept = store.Store(tmp_path / "plan")
    place = chips.find("v6e-1")
    for cached in (False, True):
        with compiler.Compiler(place, kept, workers=1) as compiling:
            planner = planning.Planner(recipe, "mended", compiling)
            plan = planning.make(planner, names=["logps"])
        (program,) = plan["programs"]
        assert program["cached"] is cached
        given = sum(
            each["bytes"]
            for each in plan["resident"]
            if each["name"] in programs.arguments_of("logps")
        )
        # Arguments are laid out in tiles; norms and LoRA factors gain a little.
        assert given <= program["argument_bytes"] <= 1.1 * given
        assert program["temp_bytes"] > 0
        assert program["least_flops"] <= program["flops"] <= 1.15 * program["least_flops"]
        assert plan["fits"]
    assert pathlib.Path(tmp_path / "libtpu_lockfile").exists()
