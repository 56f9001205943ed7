"""A training without anything to learn from is reported, one that learns is not."""

import pathlib
from collections.abc import Iterator

import pytest

from harness import training
from harness.training import guards, learning_signal, run_dir
from tests.conftest import small_recipe
from tests.support.resuming import Recorded


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> Iterator[run_dir.RunDirectory]:
    with run_dir.claim(tmp_path / "out", small_recipe(), "patched", {}) as made:
        yield made


def figures(*batches: tuple[float, float], gradient: float = 1.0) -> list[tuple[str, float, int]]:
    found = []
    for step, (low, high) in enumerate(batches):
        found += [
            ("rewards/train/score/min", low, step),
            ("rewards/train/score/max", high, step),
            ("actor/train/grad_norm", gradient, step + 1),
        ]
    return found


FLAT, SPREAD = (0.1, 0.1), (0.0, 1.0)


@pytest.mark.parametrize(
    ("batches", "reported"),
    [
        ([FLAT], True),
        ([FLAT] * 2, True),
        ([FLAT] * 3, True),
        ([(0.0, 0.0), (1.0, 1.0), (0.1, 0.1)], True),
        ([FLAT] * 3 + [SPREAD], True),
        ([FLAT] * 2 + [SPREAD], False),
        ([SPREAD], False),
        # What learned all there is is as good as it gets; what fell is not.
        ([SPREAD] + [(1.0, 1.0)] * 5, False),
        ([SPREAD] + [FLAT] * 3, True),
        ([SPREAD, FLAT, FLAT, SPREAD, FLAT, FLAT], False),
        ([], False),
    ],
)
def test_batches_without_spread_are_reported(batches, reported):
    found = learning_signal.look(figures(*batches))
    assert [each.id for each in found] == ["no-reward-spread"] * reported


def test_the_warning_counts_batches_and_names_the_one_reward():
    (found,) = learning_signal.look(figures(FLAT, FLAT, FLAT, SPREAD))
    assert found.text.startswith("in 3 of 4 batch(es) all sequences had one reward: every reward ")
    assert "was 0.1;" in found.text


def test_two_rollouts_of_one_batch_count_as_one():
    two = [("rewards/train/score/min", 0.0, 0), ("rewards/train/score/max", 0.0, 0)]
    two += [("rewards/train/score/min", 1.0, 0), ("rewards/train/score/max", 1.0, 0)]
    assert learning_signal.look(two) == ()


def test_a_gradient_that_is_always_zero_is_reported():
    (found,) = learning_signal.look(figures(SPREAD, SPREAD, gradient=0.0))
    assert found.id == "no-gradient"


def test_it_is_said_once_after_a_few_batches(folder):
    output: list[str] = []
    recorded = Recorded([])
    options = training.Options(report=output.append)
    watch = guards.Guard(folder, recorded, options)  # type: ignore[arg-type]
    for step in range(5):
        recorded.figures += figures(*[FLAT] * (step + 1))[3 * step :]
        watch.batch_ended(step + 1)
        assert len(output) == (step + 1 >= learning_signal.PATIENCE)
    assert output[0].startswith("warning: after global step 3, in 3 of 3 batch(es) all sequences")


def test_a_resumed_run_counts_the_batches_before(folder):
    output: list[str] = []
    options = training.Options(report=output.append)
    recorded = Recorded(figures(*[FLAT] * 3)[6:])
    watch = guards.Guard(folder, recorded, options, figures(FLAT, FLAT))  # type: ignore[arg-type]
    watch.batch_ended(3)
    assert len(output) == 1
