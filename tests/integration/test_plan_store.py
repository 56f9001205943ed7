"""The compiler's answers, how they are found again, and the processes that make them."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import pytest

from harness import errors, hardware, upstream
from harness.plan import compiler, sources, store, worker
from harness.upstream.instrument import programs
from tests.conftest import small_recipe
from tests.support.plans import abstract, job

GIB = 2**30


@pytest.fixture(scope="module")
def planned() -> Any:
    return abstract(small_recipe(), "patched")


def test_what_is_saved_comes_back(tmp_path):
    answers = store.Store(tmp_path / "plan")
    assert answers.get(job()) is None
    figures = store.Figures(argument_bytes=3, refused=store.Refusal(5, 4, "too large"))
    answers.put(job(), dataclasses.asdict(figures))
    again = store.Store(tmp_path / "plan").get(job())
    assert again is not None
    assert store.Figures.from_dict(again) == figures
    assert store.Job.from_dict(json.loads(json.dumps(job().to_dict()))) == job()


@pytest.mark.parametrize(
    "other",
    [
        job(sequences=8),
        job(program="values"),
        job(slice="v5e-1"),
        job(fixes=upstream.STOCK),
        job("model.dtype=bfloat16"),
        job("model.remat=decoder"),
        job("lora.rank=8"),
        job("sharding.fsdp=2"),
        job("rollout.max_new_tokens=4"),
        job("rollout.stop_tokens=['<eos>']"),
        job("ppo.entropy_coef=0.1"),
        job("optimizers.max_grad_norm=none"),
        job("optimizers.max_steps=7"),
        job("batching.train_micro_batch_size=2"),
    ],
    ids=lambda each: f"{each.program} {each.sequences} {each.slice}",
)
def test_another_question_has_another_answer(tmp_path, other):
    answers = store.Store(tmp_path)
    answers.put(job(), {"argument_bytes": 1})
    assert answers.get(other) is None


def test_what_no_program_depends_on_is_not_in_the_key(tmp_path):
    answers = store.Store(tmp_path)
    answers.put(job(), {"argument_bytes": 1})
    assert answers.get(job("data.num_test_batches=1", "seed=7", "model.tokenizer=x")) is not None


# Fields that the key leaves out, or that a program sees only in part.
NO_PROGRAM = (
    *("name='other'", "seed=7", "data.num_test_batches=1", "checkpoints.max_to_keep=2"),
    *("evaluation.passes=2", "warm_start.max_steps=1", "reward.correct=2.0"),
    *(
        "model.tokenizer=x",
        "batching.rollout_micro_batch_size=2",
        "batching.compute_logps_micro_batch_size=2",
    ),
)


@pytest.mark.parametrize("program", ["decode", "logps", "actor_step"])
def test_what_is_not_in_the_key_is_in_no_program(program):
    fixes = upstream.choose_fixes("patched")
    lowering = worker.Worker(jax.devices()[:1])
    texts = {
        lowering.lower(job(*changed, program=program, fixes=fixes))["text"]
        for changed in ((), NO_PROGRAM)
    }
    assert len(texts) == 1


def test_flags_and_versions_are_in_the_key(tmp_path, monkeypatch):
    store.Store(tmp_path).put(job(), {"argument_bytes": 1})
    assert store.Store(tmp_path, "--flag=on").get(job()) is None
    monkeypatch.setattr(store, "versions", lambda: {"jax": "0.0.1"})
    assert store.Store(tmp_path).get(job()) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": {}}'])
def test_a_damaged_answer_is_asked_for_again(tmp_path, text):
    answers = store.Store(tmp_path)
    answers.put(job(), {"argument_bytes": 1})
    for path in tmp_path.iterdir():
        path.write_text(text)
    assert answers.get(job()) is None


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.HarnessError, match="PPO_HARNESS_CACHE"):
        store.Store(tmp_path / "file" / "plan").put(job(), {})


def in_process(answers: store.Store, asked: list[str]) -> compiler.Compiler:
    """Compile for the CPU, in this process, and notes what the compiler is asked."""

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

    return compiler.Compiler(hardware.find_slice("v6e-1"), answers, workers=1, start=Answerer)


def test_an_edited_source_compiles_only_what_became_another_program(tmp_path, monkeypatch):
    asked: list[str] = []
    question = job(fixes=upstream.choose_fixes("patched"))

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
from tests.support.plans import job
import jax
found = worker.Worker(jax.devices()[:1])
question = job(fixes=upstream.choose_fixes("patched"))
print(*(found.lower(question)["text"] for _ in range(2)))
"""


def test_a_program_has_one_text_in_every_process(planned):
    del planned  # lowers after much else was traced here
    here = worker.Worker(jax.devices()[:1]).lower(job(fixes=upstream.choose_fixes("patched")))[
        "text"
    ]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", LOWERED],
        cwd=pathlib.Path(__file__).parents[2],
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
        "named.py": "from thing.listed import every",
        "listed/__init__.py": "",
        "listed/every.py": "import pkgutil\npkgutil.iter_modules()",
        "listed/one.py": "",
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
    assert {"upstream/engine/learner.py", "upstream/fixes/model_not_donated.py"} <= found
    assert {"upstream/engine/temperature.py", "models/gemma.py"} <= found
    assert {"recipe/schema.py", "recipe/schedule.py", "plan/worker.py", "plan/resident.py"} <= found
    assert not any(name.startswith("cli/") for name in found)


# The worker's environment.


def test_no_variable_of_the_user_reaches_the_compiler():
    slice_ = hardware.find_slice("v6e-1")
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
    assert worker.environment(slice_, "", outside) == {
        "PATH": "/bin",
        "HOME": "/somewhere",
        **worker.surroundings(slice_),
    }
    assert worker.environment(slice_, "--xla_bar", outside)["LIBTPU_INIT_ARGS"] == "--xla_bar"
    assert worker.not_passed_on(slice_, outside) == (
        *("JAX_COMPILATION_CACHE_DIR", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64"),
        *("LIBTPU_INIT_ARGS", "PYTHONOPTIMIZE", "TPU_ACCELERATOR_TYPE", "XLA_FLAGS"),
    )
    assert worker.not_passed_on(slice_, worker.environment(slice_, "", outside)) == ()


def test_what_is_not_passed_on_is_reported_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_foo")
    lines: list[str] = []
    slice_ = hardware.find_slice("v6e-1")
    monkeypatch.setattr(store, "versions", lambda: {"libtpu": "1"})
    with compiler.Compiler(slice_, store.Store(tmp_path), progress=lines.append):
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


# Chips and refusals.


@pytest.mark.parametrize("name", hardware.SLICES)
def test_a_slice_has_as_many_chips_as_its_topology(name):
    slice_ = hardware.SLICES[name]
    assert slice_.topology is not None
    family, sizes = slice_.topology.split(":")
    assert family == slice_.chip.name
    assert math.prod(int(size) for size in sizes.split("x")) == slice_.count
    assert math.prod(slice_.bounds) == slice_.count


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
