"""Properties of the problems, of their preparation and of the batches."""

import collections
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from tunix.generate import tokenizer_adapter

from harness import cache, data, tokenizer
from harness import recipe as recipes
from harness.data import arithmetic, gsm8k, prompt
from harness.data.problem import Problem
from harness.errors import HarnessError

from .conftest import GSM8K

TINY = recipes.load("tiny")
BUILTIN = tokenizer.load(TINY)

_ROWS = {
    split: len((GSM8K / f"{split}.jsonl").read_text(encoding="utf-8").splitlines())
    for split in gsm8k.SPLITS
}


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch) -> pathlib.Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(folder))
    return folder


def _recipe(*assignments: str) -> recipes.Recipe:
    return recipes.replace(
        TINY,
        "data.num_batches=5",
        "data.num_test_batches=2",
        "data.arithmetic.train_problems=43",
        "data.arithmetic.test_problems=11",
        "batching.rollout_batch_size=8",
        "batching.mini_batch_size=8",
        "batching.train_micro_batch_size=8",
        "batching.rollout_micro_batch_size=8",
        "batching.compute_logps_micro_batch_size=8",
        *assignments,
    )


def _questions(batches: Any) -> list[str]:
    return [str(question) for batch in batches for question in batch["question"]]


def _prompts(batches: Any) -> list[str]:
    return [str(text) for batch in batches for text in batch["prompts"]]


def _sampler_length(text: str) -> int:
    """The tokens that Tunix's sampler makes of a prompt."""
    adapter = tokenizer_adapter.TokenizerAdapter(BUILTIN)
    return len(adapter.dedup_bos_ids([adapter.bos_id(), *adapter.encode(text)]))


def _problem(number: int, words: int = 0) -> Problem:
    return Problem(
        f"A shop has {number} hats and gets 1 more.{' It rains.' * words} How many hats has it?",
        f"It has {number}+1=<<{number}+1={number + 1}>>{number + 1} hats.\n#### {number + 1}",
    )


def _write_jsonl(folder: pathlib.Path, train: list[Problem], test: list[Problem]) -> str:
    folder.mkdir(exist_ok=True)
    for split, problems in (("train", train), ("test", test)):
        lines = [json.dumps(problem._asdict()) for problem in problems]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"jsonl:{folder}"


@pytest.fixture
def source(tmp_path) -> str:
    return _write_jsonl(
        tmp_path / "local", [_problem(n) for n in range(43)], [_problem(n) for n in range(50, 61)]
    )


# The built-in problems.


@pytest.mark.parametrize("operations", [("+",), ("-",), ("+", "-")])
@pytest.mark.parametrize("max_operand", [2, 9, 12])
def test_arithmetic_answers_are_right(operations, max_operand):
    config = recipes.Arithmetic(
        train_problems=500, test_problems=200, max_operand=max_operand, operations=operations
    )
    for problem in [p for split in arithmetic.problems(config) for p in split]:
        found = re.search(r"(\d+)([+-])(\d+)=<<\1\2\3=(-?\d+)>>\4 ", problem.answer)
        assert found is not None
        a, operation, b, c = int(found[1]), found[2], int(found[3]), int(found[4])
        assert c == (a + b if operation == "+" else a - b) >= 0
        assert max(a, b) <= max_operand
        assert operation in operations
        assert re.findall(r"\d+", problem.question) == [found[1], found[3]]
        assert prompt.extract_answer(problem.answer) == found[4]


def test_arithmetic_texts_are_distinct_within_and_across_splits():
    config = recipes.Arithmetic(train_problems=5000, test_problems=2000, operations=("+", "-"))
    train, test = arithmetic.problems(config)
    assert (len(train), len(test)) == (5000, 2000)
    assert len({problem.question for problem in train + test}) == 7000


def _sums(problems: list[Problem]) -> collections.Counter[str]:
    return collections.Counter(re.findall(r"<<(.*)=", problem.answer)[0] for problem in problems)


@pytest.mark.parametrize(
    ("train_problems", "test_problems"), [(1000, 155), (155, 400), (1001, 500)]
)
def test_arithmetic_asks_every_sum_equally_often_in_both_splits(train_problems, test_problems):
    config = recipes.Arithmetic(
        train_problems=train_problems, test_problems=test_problems, operations=("+", "-")
    )
    for problems in arithmetic.problems(config):
        counts = _sums(problems)
        assert len(counts) == 100 + 55
        assert max(counts.values()) - min(counts.values()) <= 1


def test_arithmetic_depends_on_its_own_seed_alone():
    config = recipes.Arithmetic(train_problems=200, test_problems=50)
    np.random.seed(1)
    first = arithmetic.problems(config)
    np.random.seed(2)
    assert arithmetic.problems(config) == first
    other = recipes.Arithmetic(train_problems=200, test_problems=50, seed=1)
    assert arithmetic.problems(other) != first


def test_arithmetic_writes_all_texts_that_exist_and_refuses_one_more():
    with pytest.raises(HarnessError, match=r"only \d+ exist with max_operand 2") as refusal:
        arithmetic.problems(recipes.Arithmetic(train_problems=10**6, max_operand=2))
    exist = int(re.findall(r"only (\d+) exist", str(refusal.value))[0])
    config = recipes.Arithmetic(train_problems=exist - 100, test_problems=100, max_operand=2)
    train, test = arithmetic.problems(config)
    assert len({problem.question for problem in train + test}) == exist
    one_more = recipes.Arithmetic(train_problems=exist - 99, test_problems=100, max_operand=2)
    with pytest.raises(HarnessError, match=f"asks for {exist + 1} distinct problems"):
        arithmetic.problems(one_more)


def test_arithmetic_without_operations_is_refused():
    with pytest.raises(HarnessError, match=r"data\.arithmetic\.operations is empty"):
        arithmetic.problems(recipes.Arithmetic(operations=()))


def test_arithmetic_says_one_thing_but_two_things():
    config = recipes.Arithmetic(train_problems=3000, test_problems=1, operations=("+", "-"))
    for problem in arithmetic.problems(config)[0]:
        first, things, rest = re.split(r"(?<=\d )([a-z]+)", problem.question, maxsplit=1)
        plural = re.findall(r"How many ([a-z]+)", rest)[0]
        assert things == (plural.removesuffix("s") if first.split()[-1] == "1" else plural)


def test_arithmetic_questions_are_their_fragments_and_digits():
    pieces = "|".join(map(re.escape, sorted(arithmetic.fragments(), key=len, reverse=True)))
    config = recipes.Arithmetic(train_problems=1000, test_problems=1, operations=("+", "-"))
    for problem in arithmetic.problems(config)[0]:
        assert re.fullmatch(rf"(?:{pieces}|\d)+", problem.question)


# Prompt and answer.


def test_the_prompt_is_the_references():
    assert prompt.format_prompt(recipes.Data(), "How many?") == (
        "<start_of_turn>user\nHow many? Let's think step by step and output the final answer "
        'after "####".<end_of_turn>\n<start_of_turn>model'
    )


@pytest.mark.parametrize("question", ["{system_prompt}", "{question}", "a {b} {}", r"\1 \g<0>"])
def test_a_question_is_never_taken_for_template(question):
    template = recipes.Data(prompt="{system_prompt}|{question}|{other}", system_prompt="S")
    assert prompt.format_prompt(template, question) == f"S|{question}|{{other}}"


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("Steps.\n#### 72", "72"),
        ("#### 1,234,567", "1234567"),
        ("#### -5", "-5"),
        ("#### 2.50", "2.50"),
        ("#### .5", ".5"),
        ("#### 7\n#### 8", "8"),
        ("#### 1. Count the pears\n8+2=10\n#### 10", "10"),
        ("#### 72 \r\nThat is all.", "72"),
    ],
)
def test_the_answer_is_the_number_after_the_mark(answer, number):
    assert prompt.extract_answer(answer) == number


@pytest.mark.parametrize(
    "answer",
    [
        *("", "72", "####72", "####  72", "#### $72", "#### ,", "#### five", "#### 7\n####"),
        *("#### 1/2", "#### 2:30", "#### 1e6", "#### 3 1/2", "#### 12-15", "#### 10."),
        *("#### 2.50 dollars", "#### 1,5", "#### 12,34,567", "#### +5", "#### 10%", "#### 1.2.3"),
    ],
)
def test_an_answer_without_number_is_an_error(answer):
    with pytest.raises(ValueError, match="no number after '#### '"):
        prompt.extract_answer(answer)


# The cache folder.


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("PPO_HARNESS_CACHE", "~/somewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_root() == tmp_path / "somewhere"


@pytest.mark.parametrize("value", [None, ""])
def test_the_cache_has_a_place_of_its_own(monkeypatch, tmp_path, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if value is None:
        monkeypatch.delenv("PPO_HARNESS_CACHE")
    else:
        monkeypatch.setenv("PPO_HARNESS_CACHE", value)
    assert cache.cache_root() == tmp_path / ".cache" / "tunix-ppo-harness"


# GSM8K. So few batches that the excerpt has problems enough.
_FEW = (
    "data.num_batches=1",
    "batching.rollout_batch_size=8",
    "batching.mini_batch_size=8",
    "batching.train_micro_batch_size=8",
    "batching.rollout_micro_batch_size=8",
    "batching.compute_logps_micro_batch_size=8",
)


def test_local_files_become_array_record_with_every_row(source, cache_dir):
    rows = gsm8k.prepare(source, cache_dir)
    assert sorted(rows["train"]) == sorted(_problem(n) for n in range(43))
    assert sorted(rows["test"]) == sorted(_problem(n) for n in range(50, 61))
    assert [rows["train"][i] for i in range(43)] == list(rows["train"])
    files = sorted(path.name for path in cache_dir.rglob("*array_record*"))
    assert files == [
        "gsm8k-test.array_record-00000-of-00001",
        "gsm8k-train.array_record-00000-of-00001",
    ]


def test_what_is_prepared_is_not_prepared_again(source, cache_dir, monkeypatch):
    first = list(gsm8k.prepare(source, cache_dir)["train"])

    def again(*_):
        raise AssertionError("prepared a second time")

    monkeypatch.setattr(gsm8k, "_prepare_problems", again)
    assert list(gsm8k.prepare(source, cache_dir)["train"]) == first


def test_changed_files_are_prepared_anew(source, cache_dir):
    gsm8k.prepare(source, cache_dir)
    folder = pathlib.Path(source.removeprefix("jsonl:"))
    _write_jsonl(folder, [_problem(99)], [_problem(98)])
    assert list(gsm8k.prepare(source, cache_dir)["train"]) == [_problem(99)]


def test_unusual_text_survives(tmp_path, cache_dir):
    odd = Problem("Ünïcödé 🙂 a\u2028b\r\nc {d} <end_of_turn> #### 3", "First #### \n#### 4")
    folder = _write_jsonl(tmp_path / "odd", [odd], [_problem(1)])
    assert list(gsm8k.prepare(folder, cache_dir)["train"]) == [odd]


_DIES = """
import os, sys, pathlib
from harness.data import gsm8k
from harness.data.problem import Problem

class Dies(list):
    def __iter__(self):
        yield self[0]
        os._exit(9)

parse = gsm8k._parse
gsm8k._parse = lambda path, content: Dies(parse(path, content))
gsm8k.prepare(sys.argv[1], pathlib.Path(sys.argv[2]))
"""


def test_a_preparation_that_died_is_not_taken_for_a_finished_one(source, cache_dir):
    died = subprocess.run(
        [sys.executable, "-c", _DIES, source, str(cache_dir)], capture_output=True, check=False
    )
    assert died.returncode == 9, died.stderr.decode()
    assert list(cache_dir.rglob("*"))
    rows = gsm8k.prepare(source, cache_dir)
    assert sorted(rows["train"]) == sorted(_problem(n) for n in range(43))


def test_preparing_leaves_nothing_beside_the_result(source, cache_dir, capfd):
    gsm8k.prepare(source, cache_dir)
    (prepared,) = (cache_dir / "gsm8k").iterdir()
    assert sorted(path.name for path in prepared.rglob("*") if path.is_dir()) == ["1.0.0", "gsm8k"]
    assert capfd.readouterr().out == ""


def test_a_damaged_cache_is_named(source, cache_dir):
    gsm8k.prepare(source, cache_dir)
    for path in cache_dir.rglob("*train.array_record*"):
        path.write_bytes(b"")
    with pytest.raises(HarnessError, match=r"cannot be read .*: delete that folder"):
        gsm8k.prepare(source, cache_dir)


def test_a_cache_that_cannot_be_written_is_refused(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match=r"file/gsm8k cannot be written .* PPO_HARNESS_CACHE"):
        gsm8k.prepare(source, tmp_path / "file")


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_file_is_named(source, cache_dir, missing):
    (pathlib.Path(source.removeprefix("jsonl:")) / f"{missing}.jsonl").unlink()
    with pytest.raises(HarnessError, match=rf"{missing}\.jsonl cannot be read \(No such file"):
        gsm8k.prepare(source, cache_dir)
    assert not cache_dir.exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b'["question", "answer"]', "not a JSON object"),
        (b'{"answer": "#### 1"}', "no text 'question'"),
        (b'{"question": "Q", "answer": 1}', "no text 'answer'"),
        (b'{"question": "Q", "answer": "1"}', "no number after '#### '"),
        (b'{"question": "\\ud800", "answer": "#### 1"}', "'question' is not valid Unicode"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_prepared(source, cache_dir, line, reason):
    path = pathlib.Path(source.removeprefix("jsonl:")) / "test.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = line
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(HarnessError, match=rf"test\.jsonl, line 3: {reason}"):
        gsm8k.prepare(source, cache_dir)
    assert not cache_dir.exists()


def test_an_empty_file_is_refused(source, cache_dir):
    (pathlib.Path(source.removeprefix("jsonl:")) / "train.jsonl").write_bytes(b"")
    with pytest.raises(HarnessError, match=r"train\.jsonl is empty"):
        gsm8k.prepare(source, cache_dir)


def test_a_prepared_tfds_folder_is_read(source, cache_dir, tmp_path):
    rows = list(gsm8k.prepare(source, cache_dir)["train"])
    (prepared,) = (cache_dir / "gsm8k").iterdir()
    shutil.copytree(prepared, tmp_path / "theirs")
    # What an interrupted TFDS leaves is not a dataset.
    (tmp_path / "theirs" / "gsm8k" / "incomplete.AAAAAA_1.0.0").mkdir()
    assert list(gsm8k.prepare(f"tfds:{tmp_path}/theirs", cache_dir)["train"]) == rows


@pytest.fixture
def no_network(monkeypatch):
    """Send every download to a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{free.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("folder", ["", "own"])
def test_without_a_network_the_remedy_is_named_and_nothing_is_left(cache_dir, tmp_path, folder):
    source = f"tfds:{tmp_path / folder}" if folder else "tfds"
    with pytest.raises(HarnessError, match=r"cannot be downloaded .* jsonl:DIR"):
        gsm8k.prepare(source, cache_dir)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory) -> pathlib.Path:
    """Where the real GSM8K is prepared, once for all tests."""
    return tmp_path_factory.mktemp("real")


def test_the_real_gsm8k_is_whole(real_cache, monkeypatch):
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(real_cache))
    recipe = recipes.load(
        "tiny",
        source=f"jsonl:{GSM8K}",
        assignments=[
            *("rollout.max_prompt_length=1024", "rollout.cache_size=2048"),
            *_FEW,
        ],
    )
    dataset = data.load(recipe, BUILTIN)
    assert dataset.problems == _ROWS
    assert dataset.long_prompts == {"train": 0, "test": 0}
    assert len(list(real_cache.rglob("*.array_record-*"))) == 2


def test_most_of_gsm8k_fits_the_tiny_preset(real_cache, monkeypatch):
    monkeypatch.setenv("PPO_HARNESS_CACHE", str(real_cache))
    recipe = recipes.load(
        "tiny",
        source=f"jsonl:{GSM8K}",
        assignments=_FEW,
    )
    dataset = data.load(recipe, BUILTIN)
    for split, rows in _ROWS.items():
        assert dataset.problems[split] + dataset.long_prompts[split] == rows
        assert dataset.problems[split] > rows / 2
    assert all(
        _sampler_length(text) <= recipe.rollout.max_prompt_length
        for text in _prompts([*dataset.train, *dataset.test])
    )


# The batches.


def test_every_train_batch_is_full_and_every_problem_in_it_is_distinct():
    dataset = data.load(_recipe(), BUILTIN)
    assert len(dataset.train) == 5
    assert all(len(column) == 8 for batch in dataset.train for column in batch.values())
    assert len(set(_questions(dataset.train))) == 40
    assert dataset.problems == {"train": 43, "test": 11}
    assert dataset.validation is None


def test_the_last_partial_test_batch_is_kept():
    dataset = data.load(_recipe(), BUILTIN)
    assert [len(batch["question"]) for batch in dataset.test] == [8, 3]
    assert len(set(_questions(dataset.test))) == 11


def test_only_as_many_test_batches_as_asked_are_given():
    dataset = data.load(_recipe("data.num_test_batches=1"), BUILTIN)
    assert [len(batch["question"]) for batch in dataset.test] == [8]


def test_columns_belong_together():
    recipe = _recipe()
    train, test = arithmetic.problems(recipe.data.arithmetic)
    dataset = data.load(recipe, BUILTIN)
    for problems, batches in ((train, dataset.train), (test, dataset.test)):
        answers = {problem.question: problem.answer for problem in problems}
        for batch in batches:
            for text, question, answer in zip(
                batch["prompts"], batch["question"], batch["answer"], strict=True
            ):
                assert text == prompt.format_prompt(recipe.data, question)
                assert answer == answers[question].split("#### ")[1]


def test_batches_pass_through_what_tunix_does_with_them():
    batch: Any = data.load(_recipe(), BUILTIN).train[0]
    assert sorted(batch) == ["answer", "prompts", "question"]
    repeated = jax.tree.map(lambda column: np.repeat(column, 2, axis=0), batch)
    for name, column in repeated.items():
        assert isinstance(batch[name], np.ndarray)
        assert list(column.flatten()) == [text for text in batch[name] for _ in range(2)]
        assert all(isinstance(text, str) for text in column.flatten())


def test_train_and_test_share_no_question():
    dataset = data.load(_recipe(), BUILTIN)
    assert not set(_questions(dataset.train)) & set(_questions(dataset.test))


def test_problems_are_shuffled_by_the_shuffle_seed_alone():
    recipe = _recipe()
    written = [problem.question for problem in arithmetic.problems(recipe.data.arithmetic)[0]]
    order = _questions(data.load(recipe, BUILTIN).train)
    assert order != written[:40]
    assert _questions(data.load(_recipe("seed=7"), BUILTIN).train) == order
    assert _questions(data.load(_recipe("data.shuffle_seed=7"), BUILTIN).train) != order


def test_validation_is_the_rest_of_the_batches():
    whole = data.load(_recipe(), BUILTIN)
    split = data.load(_recipe("data.train_fraction=0.6"), BUILTIN)
    assert split.validation is not None
    assert (len(split.train), len(split.validation)) == (3, 2)
    assert _questions(split.train) + _questions(split.validation) == _questions(whole.train)


def test_every_epoch_reads_the_same_batches_and_none_that_are_held_back():
    once = _questions(data.load(_recipe(), BUILTIN).train)
    twice = data.load(_recipe("data.num_epochs=2"), BUILTIN).train
    assert len(twice) == 10
    assert _questions(twice) == once + once
    split = data.load(_recipe("data.num_epochs=3", "data.train_fraction=0.6"), BUILTIN)
    assert not set(_questions(split.train)) & set(_questions(split.validation))


def test_both_sources_make_the_same_kind_of_batch(source):
    local = data.load(_recipe(f"data.source={source}", *_limit(40)), BUILTIN)
    assert local.problems == {"train": 43, "test": 11}
    assert len(set(_questions(local.train))) == 40
    assert {problem.question for problem in map(_problem, range(43))} >= set(
        _questions(local.train)
    )
    assert set(_questions(local.test)) == {_problem(n).question for n in range(50, 61)}
    assert {str(answer) for batch in local.test for answer in batch["answer"]} == {
        str(n) for n in range(51, 62)
    }


def test_too_few_training_problems_are_refused():
    with pytest.raises(
        HarnessError, match=r"num_batches is 6 but 43 training problems make 5 full batches of 8"
    ):
        data.load(_recipe("data.num_batches=6"), BUILTIN)


def _with_long_prompts(tmp_path) -> tuple[str, int]:
    """41 short and 3 long training prompts, and the longest short one's tokens."""
    train = [_problem(n) for n in range(41)] + [_problem(n, words=2) for n in (41, 42, 43)]
    source = _write_jsonl(tmp_path / "long", train, [_problem(n) for n in range(50, 60)])
    questions = [_problem(n).question for n in [*range(41), *range(50, 60)]]
    return source, max(
        _sampler_length(prompt.format_prompt(TINY.data, question)) for question in questions
    )


def _limit(tokens: int) -> list[str]:
    return [f"rollout.max_prompt_length={tokens}", f"rollout.cache_size={tokens + 8}"]


def test_long_prompts_are_refused_with_count_and_length(tmp_path):
    source, limit = _with_long_prompts(tmp_path)
    longest = max(
        _sampler_length(prompt.format_prompt(TINY.data, _problem(n, words=2).question))
        for n in (41, 42, 43)
    )
    recipe = _recipe(
        f"data.source={source}", "batching.rollout_batch_size=44", "batching.mini_batch_size=44",
        "batching.train_micro_batch_size=44", "batching.rollout_micro_batch_size=44",
        "batching.compute_logps_micro_batch_size=44", "data.num_batches=1", *_limit(limit),
    )  # fmt: skip
    with pytest.raises(
        HarnessError,
        match=rf"3 of the 44 train prompts .* {limit} tokens \(the longest has {longest}\): raise "
        r"rollout\.max_prompt_length, or set data\.long_prompts to drop",
    ):
        data.load(recipe, BUILTIN)
    assert data.load(recipes.replace(recipe, *_limit(longest)), BUILTIN).problems["train"] == 44


def test_long_prompts_that_are_not_used_are_not_refused(tmp_path):
    source, limit = _with_long_prompts(tmp_path)
    unused = _recipe(f"data.source={source}", "data.num_batches=1", *_limit(limit))
    everything = recipes.replace(unused, *_limit(2 * limit), "data.num_batches=5")
    shuffled = _prompts(data.load(everything, BUILTIN).train)
    used_long = sum(_sampler_length(text) > limit for text in shuffled[:8])
    assert used_long == 0
    assert _prompts(data.load(unused, BUILTIN).train) == shuffled[:8]


def test_dropped_prompts_are_counted_and_batches_stay_full(tmp_path):
    source, limit = _with_long_prompts(tmp_path)
    recipe = _recipe(f"data.source={source}", "data.long_prompts=drop", *_limit(limit))
    dataset = data.load(recipe, BUILTIN)
    assert dataset.long_prompts == {"train": 3, "test": 0}
    assert dataset.problems == {"train": 41, "test": 10}
    prompts = _prompts(dataset.train)
    assert len(set(prompts)) == 40
    assert all(_sampler_length(text) <= limit for text in prompts)


def test_too_few_problems_after_dropping_say_so(tmp_path):
    source, limit = _with_long_prompts(tmp_path)
    recipe = _recipe(
        f"data.source={source}", "data.long_prompts=drop", "data.num_batches=6", *_limit(limit)
    )
    with pytest.raises(
        HarnessError, match=r"41 training problems \(after 3 with long prompts were dropped\)"
    ):
        data.load(recipe, BUILTIN)


def test_no_test_problem_left_is_refused(tmp_path):
    source = _write_jsonl(
        tmp_path / "short", [_problem(n) for n in range(8)], [_problem(9, words=9)]
    )
    limit = max(
        _sampler_length(prompt.format_prompt(TINY.data, _problem(n).question)) for n in range(8)
    )
    recipe = _recipe(
        f"data.source={source}", "data.long_prompts=drop", "data.num_batches=1", *_limit(limit)
    )
    with pytest.raises(HarnessError, match=r"no test problems \(after 1 with long prompts were"):
        data.load(recipe, BUILTIN)


@pytest.mark.parametrize("local", [False, True])
def test_supervised_problems_are_the_whole_training_split_in_a_fixed_order(source, local):
    recipe = _recipe(f"data.source={source}") if local else _recipe()
    problems = data.supervised_problems(recipe)
    assert problems == data.supervised_problems(recipe)
    expected = (
        [_problem(n) for n in range(43)]
        if local
        else arithmetic.problems(recipe.data.arithmetic)[0]
    )
    assert sorted(problems) == sorted(expected)
