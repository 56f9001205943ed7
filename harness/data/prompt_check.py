"""Prompts as the model sees them: special tokens that are none, and turns that do not begin."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from harness.data.problem import Problem
from harness.data.prompt import format_prompt
from harness.errors import HarnessError
from harness.recipe import Data, Recipe
from harness.run_warning import RunWarning

_START, _END, _MODEL = "<start_of_turn>", "<end_of_turn>", "model"

# What special tokens of Gemma and of other families look like. Tags that a
# prompt may ask for, such as <answer>, are text and not among them.
_SPECIAL = re.compile(
    r"<(?:/?s|bos|eos|pad|unk|mask|sep|cls|endoftext|unused\d+"
    r"|(?:start|end|begin)[ _-]of[ _-]\w+|im_(?:start|end))>"
    r"|<\|[^<>|\s]{1,40}\|>|</?\|\w{1,40}>|\[/?INST\]|<</?SYS>>|\[(?:BOS|EOS|PAD|UNK|MASK)\]",
    re.IGNORECASE,
)
_SHOWN = 16


class Encoder(Protocol):
    """What is asked of a tokenizer: the ids of a text, and the piece of an id."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without `<bos>`."""
        ...

    def piece(self, token: int) -> str:
        """Return the piece of an id."""
        ...

    def bos_id(self) -> int:
        """Return the id of `<bos>`."""
        ...

    def eos_id(self) -> int:
        """Return the id of `<eos>`."""
        ...


@dataclasses.dataclass(frozen=True)
class Checked:
    """A prompt as the model sees it.

    Attributes:
      pieces: The first prompt's pieces, `<bos>` included.
      warnings: What was found that does not stop a run.
    """

    pieces: tuple[str, ...]
    warnings: tuple[RunWarning, ...]


def show(pieces: Sequence[str]) -> str:
    """Return pieces as one line, spaces between them, the middle of a long prompt left out."""
    shown = [piece.replace("\n", "\\n") for piece in pieces]
    if len(shown) > 2 * _SHOWN + 1:
        left_out = len(shown) - 2 * _SHOWN
        shown = [*shown[:_SHOWN], f"… {left_out} more …", *shown[-_SHOWN:]]
    return " ".join(shown)


def check(recipe: Recipe, tokenizer: Encoder, problems: Iterable[Problem]) -> Checked:
    """Look at the prompts of a recipe as pieces.

    Args:
      recipe: Template and system prompt.
      tokenizer: The tokenizer that a run would use.
      problems: At least one; the first gives the first prompt, the questions of
        all are searched for what looks like a special token.

    Returns:
      The first prompt and warnings.

    Raises:
      HarnessError: Template or system prompt hold what looks like a special
        token and is none, or the tokenizer adds `<bos>` or `<eos>` by itself.
    """
    problems = iter(problems)
    first = next(problems)
    text = format_prompt(recipe.data, first.question)
    ids = tokenizer.encode(text)
    pieces = tuple(tokenizer.piece(each) for each in (tokenizer.bos_id(), *ids))
    shown = f"; the first prompt as pieces: {show(pieces)}"
    if tokenizer.bos_id() in ids:
        raise HarnessError(
            "prompts hold <bos> besides the one that the sampler adds: take it out of data.prompt "
            f"and data.system_prompt, or name a tokenizer that adds none{shown}"
        )
    if ids and ids[-1] == tokenizer.eos_id():
        raise HarnessError(
            "prompts end in <eos>, after which the model has nothing to say: take it out of "
            f"data.prompt, or name a tokenizer that adds none{shown}"
        )
    _refuse_no_tokens(recipe.data, tokenizer, shown)
    found = [
        _model_turn(recipe.data, first.question),
        _questions(tokenizer, [first, *problems]),
    ]
    return Checked(
        pieces,
        tuple(RunWarning(name, text + shown) for name, text in filter(None, found)),
    )


def _is_token(tokenizer: Encoder, text: str) -> bool:
    ids = tokenizer.encode(text)
    return len(ids) == 1 and tokenizer.piece(ids[0]) == text


def _refuse_no_tokens(data: Data, tokenizer: Encoder, shown: str) -> None:
    for field in ("prompt", "system_prompt"):
        for text in dict.fromkeys(_SPECIAL.findall(getattr(data, field))):
            if _is_token(tokenizer, text):
                continue
            count = len(tokenizer.encode(text))
            remedy = (
                "take it out, the sampler adds it"
                if text.lower() in ("<bos>", "<s>")
                else "take it out, or write the tokenizer's own"
            )
            raise HarnessError(
                f"data.{field} holds {text}, which looks like a special token and is encoded as "
                f"{count} pieces of text: {remedy}{shown}"
            )


def _model_turn(data: Data, question: str) -> tuple[str, str] | None:
    """Return a warning unless the prompt ends where the model's turn begins.

    That is after `<start_of_turn>model`, with or without the newline that
    Gemma's own template writes; the reference recipe leaves it to the model.
    """
    prompt = format_prompt(data, question)
    before, start, rest = prompt.rpartition(_START)
    if start and rest in (_MODEL, f"{_MODEL}\n"):
        if before and not before.rstrip().endswith(_END):
            what = f"the turn before the model's is not closed by {_END}"
        else:
            return None
    elif not start:
        what = f"it has no {_START}{_MODEL}, where an instruction-tuned Gemma begins to answer"
    elif rest.startswith(_MODEL) and _END not in rest:
        what = (
            f"{rest[len(_MODEL) :][:40]!r} follows {_START}{_MODEL}: the model goes on from there"
        )
    else:
        what = f"after the last {_START} it goes on with {rest[-60:]!r}"
    return (
        "prompt-not-at-model-turn",
        f"data.prompt does not end where the model's turn begins: {what}; "
        f"end it in {_END}, a newline and {_START}{_MODEL}",
    )


def _questions(tokenizer: Encoder, problems: Sequence[Problem]) -> tuple[str, str] | None:
    holding = [
        (problem.question, _SPECIAL.findall(problem.question))
        for problem in problems
        if "<" in problem.question or "[" in problem.question
    ]
    holding = [(question, texts) for question, texts in holding if texts]
    if not holding:
        return None
    question, texts = holding[0]
    token = next((text for text in texts if _is_token(tokenizer, text)), None)
    what = (
        f"{token}, which is encoded as the special token and breaks the turn"
        if token
        else f"{texts[0]}, which looks like a special token and is encoded as text"
    )
    return (
        "special-token-in-question",
        f"{len(holding)} question(s) hold what looks like a special token; the first, "
        f"{question[:60]!r}, holds {what}: take it out of the data",
    )
