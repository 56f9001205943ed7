"""One small recipe for all tests, so that each program is compiled once."""

import dataclasses
import fcntl
import gc
import json
import os
import pathlib
import pickle
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    # Imported where they are used: the process that only hands tests to workers
    # would wait for them too.
    from harness import recipe as recipe_lib
    from harness import training

# What a user has set for compilers and devices is not what is tested here.
for _name in tuple(os.environ):
    if _name.startswith(("JAX_", "XLA_", "LIBTPU_", "TPU_", "TF_XLA_")):
        del os.environ[_name]
# Set before JAX starts: eight devices, so that sharded meshes are tested too.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8"
    # Compiling is what costs time here: the same programs, less polished, in
    # half the time.
    + " --xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false"
    + " --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["JAX_PLATFORMS"] = "cpu"
# A failure within JAX is understood from all its frames.
os.environ["JAX_TRACEBACK_FILTERING"] = "off"
# The oracle's matrices are small: threads would only wait for each other.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

pytest_plugins = ["pytester"]

# GSM8K's files: the whole of them where this variable names their folder, else an excerpt.
GSM8K = pathlib.Path(
    os.environ.get("PPO_HARNESS_GSM8K") or pathlib.Path(__file__).with_name("gsm8k")
)

# Until all is imported there is nothing to give back.
gc.disable()

# Two layers, one of each kind of attention; two whitening groups and two
# gradients behind each optimizer step; a limit that stops training after the
# second of three batches, one step late. The limit is a number, since the
# learning rates, and so the compiled step, follow from it.
SMALL = (
    "model.num_layers=2",
    'model.attention_pattern=["local", "global"]',
    "model.embed_dim=32",
    "model.hidden_dim=64",
    "model.head_dim=8",
    "model.sliding_window=16",
    "rollout.max_prompt_length=24",
    "rollout.cache_size=32",
    "lora.rank=4",
    "data.num_batches=3",
    "optimizers.max_steps=3",
    "data.num_test_batches=2",
    "data.arithmetic.train_problems=256",
    "data.arithmetic.test_problems=13",
    "batching.rollout_batch_size=8",
    "batching.mini_batch_size=8",
    "batching.train_micro_batch_size=4",
    "batching.rollout_micro_batch_size=4",
    "batching.compute_logps_micro_batch_size=4",
    "warm_start.max_steps=20",
    "warm_start.batch=16",
    "warm_start.check_problems=32",
    "warm_start.check_every=10",
    "checkpoints.save_interval_steps=3",
)
SMALL_OPTIONS = tuple(word for each in SMALL for word in ("--set", each))


# The longest first, so that no worker is left with one of them at the end; but
# two files that need the same programs do not begin together, since each would
# compile what the other is compiling.
LONG = (
    "test_pipeline",
    "test_plan",
    "test_resume",
    "test_stock",
    "test_precision",
    "test_patched",
    "test_plan_store",
    "test_fixes",
    "test_runs",
    "test_reward_trial",
    "test_examples",
    "test_rehearse",
    "test_models",
    "test_donation",
    "test_kaggle",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Look at a file's garbage once.

    Tunix collects whenever it makes a trainer; compiled programs, which live to
    the end, would be looked through each time.
    """
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def whole_arrays() -> None:
    """Keep Orbax from cutting replicated arrays for each device: it compiles every cut."""
    import jax
    from orbax.checkpoint import type_handlers

    type_handlers.register_type_handler(
        jax.Array, type_handlers.ArrayHandler(use_replica_parallel=False), override=True
    )


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, ppo_compiled_programs: pathlib.Path):
    """Keep prepared data and warm starts of the tests apart from the user's."""
    del ppo_compiled_programs
    with pytest.MonkeyPatch.context() as patch:
        base = tmp_path_factory.getbasetemp()
        # The workers of a session share it, as they share the programs.
        folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
        patch.setenv("PPO_HARNESS_CACHE", str(folder))
        yield folder


@pytest.fixture
def ppo_recipe() -> "recipe_lib.Recipe":
    return small_recipe()


def small_recipe(*assignments: str) -> "recipe_lib.Recipe":
    from harness import recipe as recipe_lib

    return recipe_lib.load("tiny", assignments=(*SMALL, *assignments))


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run of the whole recipe."""

    recipe: "recipe_lib.Recipe"
    out: pathlib.Path
    result: "training.Result"

    @property
    def json(self) -> dict[str, Any]:
        return json.loads((self.out / "result.json").read_text())


@pytest.fixture(scope="session")
def finished_run(own_cache: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run of the small recipe on one device, for all tests that look at one."""
    del own_cache
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return run_small(base / "run", small_recipe())
    # The first worker that needs it makes it for all.
    kept = base.parent / "run.pickle"
    with (base.parent / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            made = run_small(base.parent / "run", small_recipe())
            kept.write_bytes(pickle.dumps(made))
    return pickle.loads(kept.read_bytes())


def run_small(out: pathlib.Path, recipe: "recipe_lib.Recipe", **options: Any) -> Run:
    from harness import training

    return Run(recipe, out, training.run(recipe, out, **options))
