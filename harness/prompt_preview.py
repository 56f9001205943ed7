"""The first prompt as the model will see it, before a run, from what is on this machine."""

import dataclasses
import json
import pathlib
from typing import Literal

from harness.data import arithmetic, prompt_check
from harness.data.problem import Problem
from harness.errors import HarnessError
from harness.recipe import Recipe

_STAND_IN = "How many?"


@dataclasses.dataclass(frozen=True)
class Preview:
    """What the first prompt looks like.

    Attributes:
      status: `ok`; `warn` where something is amiss, or could not be looked at;
        `missing` where a run would be refused.
      text: The prompt as pieces, and what is amiss.
    """

    status: Literal["ok", "warn", "missing"]
    text: str


def preview(recipe: Recipe) -> Preview:
    """Encode the first prompt of a recipe; nothing is downloaded or prepared.

    Args:
      recipe: Its template, tokenizer and data. The question is the first of the
        built-in problems or of local JSONL files, else a stand-in.

    Returns:
      The preview.
    """
    # Imported here: it takes a moment, and `account` may do without.
    from harness import tokenizer as tokenizer_lib

    folder = recipe.model.checkpoint
    if recipe.model.tokenizer == "checkpoint" and (folder is None or folder.startswith("kaggle:")):
        return Preview("warn", "not looked at: the tokenizer comes with the weights")
    try:
        question = _question(recipe)
        checked = prompt_check.check(
            recipe, tokenizer_lib.load(recipe), [Problem(question or _STAND_IN, "#### 0")]
        )
    except HarnessError as error:
        return Preview("missing", str(error))
    if checked.warnings:
        return Preview("warn", "; ".join(each.text for each in checked.warnings))
    shown = prompt_check.show(checked.pieces)
    return Preview("ok", shown if question else f"{shown} (with a stand-in for the question)")


def _question(recipe: Recipe) -> str | None:
    """Return the first question, None where it is not at hand."""
    kind, _, named = recipe.data.source.partition(":")
    if kind == "arithmetic":
        return arithmetic.problems(recipe.data.arithmetic)[0][0].question
    if kind != "jsonl" or "://" in named:
        return None
    try:
        with (pathlib.Path(named).expanduser() / "train.jsonl").open(encoding="utf-8") as file:
            question = json.loads(file.readline())["question"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return question if isinstance(question, str) else None
