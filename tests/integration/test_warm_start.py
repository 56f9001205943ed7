import numpy as np
import pytest

from harness import data, models
from harness import tokenizer as tokenizer_lib
from harness.errors import HarnessError
from harness.models import gemma, warm_start
from tests.conftest import small_recipe


def start(recipe, looks=None):
    mesh = models.make_mesh(recipe.sharding)
    policy = models.make_policy(recipe, mesh)
    report = warm_start.warm_start(
        recipe,
        policy,
        tokenizer_lib.load(recipe),
        data.supervised_problems(recipe),
        mesh,
        lambda step, accuracy: looks.append((step, accuracy)) if looks is not None else None,
    )
    return report, {path: np.asarray(leaf) for path, leaf in gemma.weights_of(policy).items()}


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_it_trains_once_and_gives_the_same_weights_from_the_cache(empty_cache):
    recipe = small_recipe("seed=11")
    looks: list[tuple[int, float]] = []
    first, trained = start(recipe, looks)
    assert [step for step, _ in looks] == [10, 20]
    cached_looks: list[tuple[int, float]] = []
    second, cached = start(recipe, cached_looks)
    assert cached_looks == []
    assert first == second
    for path, leaf in trained.items():
        np.testing.assert_array_equal(cached[path], leaf)
    assert not list((empty_cache / "warm_start").glob("*.tmp"))


@pytest.mark.parametrize(
    "change",
    [
        "seed=12",
        "warm_start.max_steps=10",
        "warm_start.learning_rate=0.001",
        "model.sliding_window=8",
        "model.dtype=bfloat16",
        "rollout.max_prompt_length=23",
        "data.arithmetic.seed=4",
        "data.system_prompt=Answer.",
        "sharding.tp=2",
    ],
)
def test_what_determines_the_weights_is_in_the_key(change):
    def path(recipe):
        problems = data.supervised_problems(recipe)
        return warm_start.cache_path(recipe, tokenizer_lib.load(recipe), problems)

    recipe = small_recipe("seed=11")
    assert path(small_recipe("seed=11", change)) != path(recipe)
    # What only PPO looks at leaves the weights where they are.
    assert path(small_recipe("seed=11", "ppo.epsilon=0.1")) == path(recipe)


def test_the_asked_share_of_answers_is_wrong_but_for_those_held_back():
    recipe = small_recipe("warm_start.wrong_answers=0.5")
    tokenizer = tokenizer_lib.load(recipe)
    problems = data.supervised_problems(recipe)
    plain = small_recipe("warm_start.wrong_answers=0.0")
    right = warm_start.make_examples(plain, tokenizer, problems)
    mixed = warm_start.make_examples(recipe, tokenizer, problems)
    start = recipe.rollout.max_prompt_length
    np.testing.assert_array_equal(mixed.tokens[:, :start], right.tokens[:, :start])
    differs = (mixed.tokens != right.tokens).any(axis=1)
    held = recipe.warm_start.check_problems
    assert not differs[:held].any()
    # 224 fair coins, and one time in nineteen the right answer all the same:
    # 0.1 is three standard deviations.
    assert abs(differs[held:].mean() - 0.47) < 0.1
    written = {tokenizer.decode(row[start:].tolist()) for row in mixed.tokens}
    assert written == {tokenizer.decode(row[start:].tolist()) for row in right.tokens}


def test_an_example_is_prompt_answer_and_end_of_turn():
    recipe = small_recipe()
    tokenizer = tokenizer_lib.load(recipe)
    (problem,) = data.supervised_problems(recipe)[:1]
    found = warm_start.make_examples(recipe, tokenizer, [problem])
    start = recipe.rollout.max_prompt_length
    prompt = found.tokens[0, :start][found.tokens[0, :start] != tokenizer.pad_id()]
    answer = found.tokens[0][found.is_answer[0]]
    text = data.format_prompt(recipe.data, problem.question)
    assert prompt.tolist() == [tokenizer.bos_id(), *tokenizer.encode(text)]
    assert tokenizer.decode(answer.tolist()) == f"\n#### {data.extract_answer(problem.answer)}"
    assert answer[-1] == tokenizer.piece_id("<end_of_turn>")
    assert found.is_answer[0, start]
    assert not found.is_answer[0, :start].any()


def test_it_stops_at_the_asked_accuracy():
    looks: list[tuple[int, float]] = []
    recipe = small_recipe(
        "seed=13",
        "warm_start.target_accuracy=1e-9",
        "warm_start.max_steps=400",
        "warm_start.check_every=5",
    )
    report, _ = start(recipe, looks)
    assert report.accuracy == looks[-1][1] > 0
    assert all(accuracy == 0 for _, accuracy in looks[:-1])
    assert report.steps == looks[-1][0] < 400


def test_the_cached_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(tmp_path / "file"))
    with pytest.raises(HarnessError, match="PPO_HARNESS_CACHE"):
        start(small_recipe("seed=14", "warm_start.max_steps=1"))


def test_too_few_problems_that_fit_are_refused():
    with pytest.raises(HarnessError, match=r"needs 48 problems .* and 0 do"):
        start(small_recipe("rollout.max_prompt_length=8"))
