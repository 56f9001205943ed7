"""Seeded word problems in GSM8K's form, for a model too small for GSM8K.

Each asks for one sum or one difference, such as "Tom has 3 apples and buys 5
more. How many apples does Tom have now?". The first operand always stands
before the second, so that what remains to be learned is the arithmetic.
"""

import itertools
import string

import numpy as np

from harness.data.problem import Problem
from harness.errors import HarnessError
from harness.recipe import Arithmetic

_NAMES = (
    "Tom", "Ann", "Sam", "Mia", "Ben", "Eva", "Max", "Zoe",
    "Leo", "Amy", "Dan", "Kim", "Jon", "Lily", "Paul", "Rosa",
)  # fmt: skip

_THINGS = (
    "apple", "book", "card", "coin", "cup", "egg", "flower", "hat",
    "marble", "pear", "pen", "shell", "stamp", "star", "sticker", "toy",
)  # fmt: skip

# A thing carries the space before it, and `{a_things}` and `{c_things}` follow
# the number: so every text between two fields is a piece of the small tokenizer.
_QUESTIONS = {
    "+": (
        "{name} has {a}{a_things} and buys {b} more. How many{things} does {name} have now?",
        "{name} has {a}{a_things} and finds {b} more. How many{things} does {name} have in all?",
        "{name} had {a}{a_things} and got {b} more. How many{things} does {name} have now?",
        "{name} finds {a}{a_things}, then {b} more. How many{things} did {name} find?",
    ),
    "-": (
        "{name} has {a}{a_things} and sells {b}. How many{things} does {name} have now?",
        "{name} has {a}{a_things} and gives away {b}. How many{things} does {name} have left?",
        "{name} had {a}{a_things} and lost {b}. How many{things} does {name} have now?",
        "{name} had {a}{a_things} and threw out {b}. How many{things} are left?",
    ),
}

_PHRASINGS = len(_QUESTIONS["+"])

_ANSWER = "{name} has {a}{op}{b}=<<{a}{op}{b}={c}>>{c}{c_things}.\n#### {c}"


def problems(config: Arithmetic) -> tuple[list[Problem], list[Problem]]:
    """Write the training and the test problems.

    Every pair of operands is asked equally often, up to one, in each split. A
    difference is never negative. No text occurs twice in or across the splits.

    Args:
      config: Sizes, seed, largest operand and operations.

    Returns:
      Training problems and test problems, each in an order drawn from
      `config.seed`, on which alone the texts depend.

    Raises:
      HarnessError: More problems are asked for than distinct texts exist.
    """
    operations = tuple(dict.fromkeys(config.operations))
    if not operations:
        raise HarnessError("data.arithmetic.operations is empty: name '+', '-' or both")
    sums = [
        (operation, a, b)
        for operation in operations
        for a in range(config.max_operand + 1)
        for b in range(config.max_operand + 1)
        if operation == "+" or a >= b
    ]
    wordings = [
        (name, thing, phrasing)
        for name in range(len(_NAMES))
        for thing in range(len(_THINGS))
        for phrasing in range(_PHRASINGS)
    ]
    wanted = config.train_problems + config.test_problems
    if wanted > len(sums) * len(wordings):
        raise HarnessError(
            f"data.arithmetic asks for {wanted} distinct problems but only "
            f"{len(sums) * len(wordings)} exist with max_operand {config.max_operand} and "
            f"operations {' '.join(operations)}: lower train_problems or raise max_operand"
        )
    random = np.random.default_rng(config.seed)
    train, test = _rounds(random, len(sums), config.train_problems, config.test_problems)
    order = np.concatenate([train, test])
    chosen = np.empty(wanted, dtype=np.int64)
    by_sum = np.argsort(order, kind="stable")
    ends = np.cumsum(np.bincount(order, minlength=len(sums)))
    for indices in np.split(by_sum, ends[:-1]):
        chosen[indices] = random.choice(len(wordings), size=len(indices), replace=False)
    texts = []
    for i, j in zip(order, chosen, strict=True):
        (operation, a, b), (name, thing, phrasing) = sums[int(i)], wordings[int(j)]
        texts.append(_write(operation, a, b, name, thing, phrasing))
    return texts[: config.train_problems], texts[config.train_problems :]


def fragments() -> tuple[str, ...]:
    """Return every constant text of the questions, each once.

    Any question is a concatenation of these and of digits, which is what lets
    a small vocabulary write it in few tokens.
    """
    texts = [_thing(count, index) for index in range(len(_THINGS)) for count in (1, 2)]
    texts += _NAMES
    for template in itertools.chain.from_iterable(_QUESTIONS.values()):
        texts += [literal for literal, *_ in string.Formatter().parse(template) if literal]
    return tuple(dict.fromkeys(texts))


def _rounds(
    random: np.random.Generator, kinds: int, train: int, test: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw which sum each problem asks, round after round over all sums.

    The test's last, partial round goes on where the training's stopped, so that
    no sum is asked more often than its share of the distinct texts.
    """
    full = [random.permutation(kinds) for _ in range(train // kinds + test // kinds)]
    last = random.permutation(kinds)
    split = train // kinds
    return (
        np.concatenate([*full[:split], last[: train % kinds]]),
        np.concatenate([*full[split:], np.roll(last, -(train % kinds))[: test % kinds]]),
    )


def _write(operation: str, a: int, b: int, name: int, thing: int, phrasing: int) -> Problem:
    c = a + b if operation == "+" else a - b
    fields = {
        "name": _NAMES[name],
        "a": a,
        "b": b,
        "c": c,
        "op": operation,
        "a_things": _thing(a, thing),
        "c_things": _thing(c, thing),
        "things": _thing(2, thing),
    }
    return Problem(_QUESTIONS[operation][phrasing].format(**fields), _ANSWER.format(**fields))


def _thing(count: int, index: int) -> str:
    return f" {_THINGS[index]}" if count == 1 else f" {_THINGS[index]}s"
