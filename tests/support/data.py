"""What tests of data share."""

import json
import pathlib
from typing import Any

from tunix.generate import tokenizer_adapter

from harness import recipe as recipes
from harness import tokenizer
from harness.data.problem import Problem

TINY = recipes.load("tiny")

BUILTIN = tokenizer.load(TINY)


def prompts_of(batches: Any) -> list[str]:
    return [str(text) for batch in batches for text in batch["prompts"]]


def sampler_length(text: str) -> int:
    """The tokens that Tunix's sampler makes of a prompt."""
    adapter = tokenizer_adapter.TokenizerAdapter(BUILTIN)
    return len(adapter.dedup_bos_ids([adapter.bos_id(), *adapter.encode(text)]))


def make_problem(number: int, words: int = 0) -> Problem:
    return Problem(
        f"A shop has {number} hats and gets 1 more.{' It rains.' * words} How many hats has it?",
        f"It has {number}+1=<<{number}+1={number + 1}>>{number + 1} hats.\n#### {number + 1}",
    )


def write_jsonl(folder: pathlib.Path, train: list[Problem], test: list[Problem]) -> str:
    folder.mkdir(exist_ok=True)
    for split, problems in (("train", train), ("test", test)):
        lines = [json.dumps(problem._asdict()) for problem in problems]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"jsonl:{folder}"


def hats(folder: pathlib.Path) -> str:
    """Write problems enough for a few batches, and return their source."""
    return write_jsonl(
        folder,
        [make_problem(number) for number in range(43)],
        [make_problem(number) for number in range(50, 61)],
    )
