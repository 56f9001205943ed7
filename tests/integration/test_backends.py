"""Metrics go to the backends that the recipe names; what is installed beside them is left alone."""

import errno
import os
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from tunix.sft import metrics_logger

from harness import recipe as recipe_lib
from harness import upstream
from harness.errors import HarnessError
from harness.upstream.engine import backends
from tests.conftest import SMALL_OPTIONS, small_recipe
from tests.support.cli import call

SECRET = "0123456789abcdef0123456789abcdef01234567"
WANDB = 'metrics.backends=["wandb"]'


class UsageError(Exception):
    """As W&B's own."""


class Wandb(types.ModuleType):
    """Stands in for the package: it takes the calls of W&B's documented interface."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.calls: list[tuple[str, Any]] = []
        self.key = True
        self.address: str | None = None
        self.fails: Exception | None = None
        self.stops: Exception | None = None

    def login(self, *, prompt: bool) -> bool:
        assert prompt is False
        self.calls.append(("login", None))
        return self.key

    def Settings(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(base_url=self.address)

    def init(self, **options: Any) -> "Wandb":
        if self.fails is not None:
            raise self.fails
        self.calls.append(("init", options))
        return self

    def define_metric(self, name: str, **options: Any) -> None:
        self.calls.append(("define", (name, options)))

    def log(self, figures: dict[str, Any]) -> None:
        if self.stops is not None:
            raise self.stops
        self.calls.append(("log", figures))

    def finish(self) -> None:
        self.calls.append(("finish", None))

    def of(self, kind: str) -> list[Any]:
        return [given for name, given in self.calls if name == kind]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    made = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", made)
    return made


def names(logger: Any) -> list[str]:
    return [type(each).__name__ for each in logger._backends]


@pytest.fixture
def closing() -> Any:
    """Unregister what a logger left in JAX's monitoring, as `upstream.release` does."""
    made: list[Any] = []
    yield made.append
    for logger in made:
        for backend in logger._backends:
            jax.monitoring.unregister_scalar_listener(backend.log_scalar)
        logger.close()


def logger_of(
    recipe: recipe_lib.Recipe, out: pathlib.Path, closing: Callable[[Any], None]
) -> metrics_logger.MetricsLogger:
    made = metrics_logger.MetricsLogger(backends.logger_options(recipe, out, "run-1"))
    closing(made)
    return made


def test_wandb_is_not_touched_because_it_is_installed(
    wandb, closing, tmp_path, ppo_mesh, ppo_tokenizer, ppo_actor, ppo_critic
):
    recipe = small_recipe()
    upstream.check_backends(recipe)
    cluster = upstream.make_cluster(
        recipe,
        mesh=ppo_mesh,
        actor=ppo_actor,
        critic=ppo_critic,
        tokenizer=ppo_tokenizer,
        directory=tmp_path,
    )
    logger: Any = cluster._rl_metrics_logger
    closing(logger)
    assert cluster.actor_trainer.metrics_logger is logger
    assert cluster.critic_trainer.metrics_logger is logger
    assert names(logger) == ["TensorboardBackend"]
    logger.log("actor", "loss", 0.5, "train", 1)
    assert wandb.calls == []
    assert list((tmp_path / "tensorboard").iterdir())


def test_tunix_alone_would_start_it(wandb, tmp_path, closing):
    """The reason for backends of our own; a Tunix that asks first needs them no more."""
    wandb.fails = UsageError("No API key configured")
    with pytest.raises(UsageError):
        metrics_logger.MetricsLoggerOptions(log_dir=str(tmp_path)).create_backends()


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ('["wandb", "tensorboard"]', ["WandbBackend", "TensorboardBackend"]),
        ('["wandb"]', ["WandbBackend"]),
        ("[]", []),
    ],
)
def test_what_is_named_is_made(given, made, wandb, closing, tmp_path):
    recipe = recipe_lib.load("tiny", assignments=[f"metrics.backends={given}"])
    assert names(logger_of(recipe, tmp_path, closing)) == made
    assert len(wandb.of("init")) == made.count("WandbBackend")
    assert (tmp_path / "tensorboard").exists() == ("TensorboardBackend" in made)


def test_a_wandb_run_has_the_recipe_and_an_axis_for_each_group(wandb, tmp_path, monkeypatch):
    # TensorBoard's of another test would be given the figures too.
    monkeypatch.setattr("jax._src.monitoring._scalar_listeners", [])
    recipe = recipe_lib.load("tiny", assignments=[WANDB, "metrics.project=mine", "seed=3"])
    logger = metrics_logger.MetricsLogger(backends.logger_options(recipe, tmp_path, "run-1"))
    (backend,) = logger._backends
    try:
        (options,) = wandb.of("init")
        assert options.pop("config") == recipe_lib.to_dict(recipe)
        assert options == {
            "project": "mine",
            "name": tmp_path.name,
            "group": "run-1",
            "dir": str(tmp_path),
        }
        logger.log("actor", "loss", np.asarray(0.5), "train", 4)
        logger.log("rewards", "score/mean", 0.25, "train", 0)
        logger.log("actor", "loss", np.array([0.125]), "eval", 4)
        jax.monitoring.record_scalar("/jax/some/figure", 1.0)
        logger.log("actor", "histogram", np.ones(3), "train", 4)
        assert wandb.of("define") == [
            ("actor/step", {"hidden": True}),
            ("actor/*", {"step_metric": "actor/step"}),
            ("rewards/step", {"hidden": True}),
            ("rewards/*", {"step_metric": "rewards/step"}),
        ]
        assert wandb.of("log") == [
            {"actor/train/loss": 0.5, "actor/step": 4},
            {"rewards/train/score/mean": 0.25, "rewards/step": 0},
            {"actor/eval/loss": 0.125, "actor/step": 4},
        ]
    finally:
        jax.monitoring.unregister_scalar_listener(backend.log_scalar)
    for _ in range(2):  # actor and critic both close the logger that they share
        logger.close()
    assert len(wandb.of("finish")) == 1
    assert recipe_lib.replace(recipe, "metrics.run_name=eve").metrics.run_name == "eve"


def test_training_goes_on_without_wandb_once_it_fails(wandb, tmp_path):
    backend = backends.WandbBackend(small_recipe(WANDB), tmp_path, None)
    wandb.stops = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.warns(UserWarning, match=r"no more figures \(.*No space left on device"):
        backend.log_scalar("actor/train/loss", 0.5, step=1)
    wandb.stops = None
    backend.log_scalar("actor/train/loss", 0.5, step=2)
    assert wandb.of("log") == []
    backend.close()


def refused(capsys, tmp_path) -> str:
    code, out, err = call(capsys, "run", *SMALL_OPTIONS, "--set", WANDB, "--out", tmp_path / "out")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert SECRET not in err
    assert not (tmp_path / "out").exists()
    return err


def test_wandb_without_a_key_ends_before_anything_is_run(wandb, capsys, tmp_path):
    wandb.key = False
    assert "has no API key: set WANDB_API_KEY, set WANDB_MODE=off" in refused(capsys, tmp_path)
    assert wandb.of("init") == []


def test_wandb_that_is_not_installed_is_named(wandb, capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    output = refused(capsys, tmp_path)
    assert "names wandb, which is not installed: pip install wandb, or leave wandb out" in output


def test_a_login_that_fails_is_one_line_without_the_key(wandb, capsys, tmp_path, monkeypatch):
    def login(**_: Any) -> bool:
        raise UsageError(f"the key {SECRET} is too long\nand more")

    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setattr(wandb, "login", login, raising=False)
    assert "cannot be started (the key ... is too long): set WANDB" in refused(capsys, tmp_path)


def test_a_server_that_does_not_answer_is_named(wandb, capsys, tmp_path):
    wandb.address = "http://127.0.0.1:9"
    output = refused(capsys, tmp_path)
    assert "cannot be reached (127.0.0.1: Connection refused): check the network" in output


def test_offline_needs_neither_key_nor_network(wandb, monkeypatch):
    wandb.key, wandb.address = False, "http://127.0.0.1:9"
    monkeypatch.setenv("WANDB_MODE", "offline")
    upstream.check_backends(small_recipe(WANDB))


def test_a_release_that_cannot_be_asked_for_its_key_is_let_through(wandb, monkeypatch):
    monkeypatch.setattr(wandb, "login", lambda: pytest.fail("it would ask"), raising=False)
    upstream.check_backends(small_recipe(WANDB))


def test_a_start_that_fails_is_one_line(wandb, tmp_path):
    wandb.fails = UsageError("No API key configured. Use `wandb login` to log in.")
    with pytest.raises(HarnessError, match=r"cannot be started \(No API key configured"):
        backends.WandbBackend(small_recipe(WANDB), tmp_path, None)


def test_a_backend_that_is_unknown_or_named_twice_is_refused():
    with pytest.raises(HarnessError, match=r"metrics\.backends"):
        small_recipe('metrics.backends=["mlflow"]')
    with pytest.raises(HarnessError, match="backends must name each backend once"):
        small_recipe('metrics.backends=["wandb", "wandb"]')
