"""Problems as batches: source, shuffle, prompt, batch, split, repeat.

The order of the steps is the reference recipe's. What differs: no prompt is
ever cut, a run that has too few problems for its batches is refused instead of
shortened, and every epoch is a pass over the same batches. In the reference a
second epoch draws other problems, those of the validation batches among them.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grain

from harness.cache import cache_root
from harness.data import arithmetic, prompt_check, truths
from harness.data.problem import Problem
from harness.data.prompt import extract_answer, format_prompt
from harness.data.prompt_check import Encoder
from harness.errors import HarnessError
from harness.recipe import Data, Recipe, train_batches
from harness.run_warning import RunWarning

__all__ = [
    "Dataset",
    "Encoder",
    "Problem",
    "cache_root",
    "extract_answer",
    "format_prompt",
    "load",
    "supervised_problems",
]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The batches of a run.

    A batch is a dict of `prompts` (what the model is given), `question` and
    `answer` (the final number), each a NumPy array of text, shape
    `[batching.rollout_batch_size]`; the last test batch may be shorter.

    Attributes:
      train: Batches to train on, all epochs.
      validation: Batches held back from training, if any.
      test: Batches that evaluation answers.
      long_prompts: Per split, the prompts over `rollout.max_prompt_length`
        that were dropped from it.
      problems: Per split, the problems that remain, before batching.
      warnings: What was found that does not stop a run.
      first_prompt: The pieces of one prompt, `<bos>` included.
    """

    train: grain.MapDataset
    validation: grain.MapDataset | None
    test: grain.MapDataset
    long_prompts: Mapping[str, int]
    problems: Mapping[str, int]
    warnings: tuple[RunWarning, ...] = ()
    first_prompt: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Selection(Sequence[Problem]):
    """Some rows of a source, in its order."""

    rows: Sequence[Problem]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return dataclasses.replace(self, indices=self.indices[index])
        return self.rows[self.indices[index]]


def load(recipe: Recipe, tokenizer: Encoder) -> Dataset:
    """Read, shuffles, prompts and batches the problems of a recipe.

    Args:
      recipe: Source, sizes and seeds. Only `data.shuffle_seed` and, for the
        built-in problems, `data.arithmetic.seed` decide order and content.
      tokenizer: Encodes prompts.

    Returns:
      The batches, and warnings.

    Raises:
      HarnessError: The source cannot be read, holds fewer full batches than
        `data.num_batches` or no test problem, has a used prompt over
        `rollout.max_prompt_length` while `data.long_prompts` is `refuse`, or a
        truth or a prompt that cannot be used; see `truths` and `prompt_check`.
    """
    size = recipe.batching.rollout_batch_size
    used = {"train": recipe.data.num_batches * size, "test": recipe.data.num_test_batches * size}
    fitting: dict[str, Sequence[Problem]] = {}
    long_prompts: dict[str, int] = {}
    sources = _sources(recipe)
    # Each split is read in one go here; the batches are read row by row.
    everything = {split: list(rows) for split, rows in sources.items()}
    truths.check(recipe, everything, functools.partial(_locate, recipe))
    checked = prompt_check.check(recipe, tokenizer, [*everything["train"], *everything["test"]])
    for split, rows in sources.items():
        drop = recipe.data.long_prompts == "drop"
        fitting[split] = _fitting(recipe, tokenizer, rows) if drop else rows
        long_prompts[split] = len(rows) - len(fitting[split])
    problems = {split: len(rows) for split, rows in fitting.items()}
    _refuse_if_none_fits(recipe, tokenizer, everything["train"])
    _check_sizes(recipe, problems, long_prompts)
    shuffled: dict[str, Any] = {split: _shuffled(recipe, rows) for split, rows in fitting.items()}
    if recipe.data.long_prompts == "refuse":
        for split, rows in fitting.items():
            # The order matters only where not all problems are used. By index: to
            # iterate, Grain starts threads.
            partly = used[split] < len(rows)
            in_use = [shuffled[split][i] for i in range(used[split])] if partly else rows
            _refuse_long(recipe, tokenizer, split, in_use)

    columns = functools.partial(_columns, recipe.data)
    batches = shuffled["train"].map(columns).batch(size, drop_remainder=True)
    # As a source, these batches are the same in every epoch. Repeated as they
    # are, Grain would shuffle anew, and train on what is held back here.
    batches = grain.MapDataset.source(batches[: recipe.data.num_batches])
    trained = train_batches(recipe)
    validation = None
    if trained < len(batches):
        validation = batches[trained:].repeat(recipe.data.num_epochs)
    return Dataset(
        train=batches[:trained].repeat(recipe.data.num_epochs),
        validation=validation,
        test=shuffled["test"].map(columns).batch(size)[: recipe.data.num_test_batches],
        long_prompts=long_prompts,
        problems=problems,
        warnings=(*checked.warnings, *truths.warnings(everything)),
        first_prompt=checked.pieces,
    )


def supervised_problems(recipe: Recipe) -> list[Problem]:
    """Return the whole training split for supervised training, unshuffled.

    Args:
      recipe: As in `load`.

    Returns:
      Questions and worked answers, in the same order every time.

    Raises:
      HarnessError: The source cannot be read.
    """
    return list(_sources(recipe)["train"])


def _sources(recipe: Recipe) -> dict[str, Sequence[Problem]]:
    if recipe.data.source == "arithmetic":
        train, test = arithmetic.problems(recipe.data.arithmetic)
        return {"train": train, "test": test}
    # Imported here: TensorFlow Datasets takes a second to import, and the
    # built-in problems do without it.
    from harness.data import gsm8k

    return {**gsm8k.prepare(recipe.data.source, cache_root())}


def _locate(recipe: Recipe, wanted: Callable[[Problem], bool]) -> tuple[str, Problem] | None:
    if recipe.data.source == "arithmetic":
        return None
    from harness.data import gsm8k

    return gsm8k.locate(recipe.data.source, wanted)


def _shuffled(recipe: Recipe, rows: Sequence[Problem]) -> grain.MapDataset:
    return grain.MapDataset.source(rows).shuffle(seed=recipe.data.shuffle_seed)


def _columns(data: Data, problem: Problem) -> dict[str, str]:
    return {
        "prompts": format_prompt(data, problem.question),
        "question": problem.question,
        "answer": extract_answer(problem.answer),
    }


def _length(recipe: Recipe, tokenizer: Encoder, problem: Problem) -> int:
    """Count the tokens that the sampler sees: `<bos>` and the prompt's."""
    return 1 + len(tokenizer.encode(format_prompt(recipe.data, problem.question)))


def _fitting(recipe: Recipe, tokenizer: Encoder, rows: Sequence[Problem]) -> Sequence[Problem]:
    limit = recipe.rollout.max_prompt_length
    indices = [i for i, row in enumerate(rows) if _length(recipe, tokenizer, row) <= limit]
    return rows if len(indices) == len(rows) else _Selection(rows, indices)


def _refuse_if_none_fits(recipe: Recipe, tokenizer: Encoder, rows: Sequence[Problem]) -> None:
    limit = recipe.rollout.max_prompt_length
    # Mostly the first does; all are counted only where none does.
    if any(_length(recipe, tokenizer, row) <= limit for row in rows):
        return
    shortest = min(_length(recipe, tokenizer, row) for row in rows)
    raise HarnessError(
        f"none of the {len(rows)} train prompts fits rollout.max_prompt_length = {limit} tokens "
        f"(the shortest has {shortest}): raise rollout.max_prompt_length and rollout.cache_size, "
        "or shorten data.prompt"
    )


def _refuse_long(recipe: Recipe, tokenizer: Encoder, split: str, in_use: Iterable[Any]) -> None:
    limit = recipe.rollout.max_prompt_length
    lengths = [_length(recipe, tokenizer, problem) for problem in in_use]
    count = sum(length > limit for length in lengths)
    if count:
        raise HarnessError(
            f"{count} of the {len(lengths)} {split} prompts in use have more than "
            f"rollout.max_prompt_length = {limit} tokens (the longest has {max(lengths)}): raise "
            "rollout.max_prompt_length, or set data.long_prompts to drop"
        )


def _check_sizes(
    recipe: Recipe, problems: Mapping[str, int], long_prompts: Mapping[str, int]
) -> None:
    size, wanted = recipe.batching.rollout_batch_size, recipe.data.num_batches
    dropped = {
        split: f" (after {count} with long prompts were dropped)" if count else ""
        for split, count in long_prompts.items()
    }
    full = problems["train"] // size
    if full < wanted:
        raise HarnessError(
            f"data.num_batches is {wanted} but {problems['train']} training problems"
            f"{dropped['train']} make {full} full batches of {size}: lower data.num_batches or "
            "batching.rollout_batch_size, or give more problems"
        )
    if not problems["test"]:
        raise HarnessError(
            f"there are no test problems{dropped['test']}: raise rollout.max_prompt_length"
        )
