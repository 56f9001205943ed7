"""The truths of a data set held to the rule by which completions are scored."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness import rewards
from harness.data.problem import Problem
from harness.data.prompt import extract_answer
from harness.errors import HarnessError
from harness.recipe import Recipe
from harness.run_warning import RunWarning

# Texts are compared, so that the same number in its usual form does not match.
_UNUSUAL = re.compile(r"-?0[0-9].*|-?\..*|.*\.[0-9]*0|-0(\.0+)?")

Locate = Callable[[Callable[[Problem], bool]], tuple[str, Problem] | None]


def check(recipe: Recipe, splits: Mapping[str, Sequence[Problem]], locate: Locate) -> None:
    """Refuse a data set with a truth that the recipe's reward would not pay for.

    Each truth is read from its answer and scored as a completion would be, both
    as it stands in the answer and as it is read.

    Args:
      recipe: Its reward is the rule; a reward function of the user's own is held
        to the form of the truths alone.
      splits: The problems of each split.
      locate: Returns the first problem of the source for which a predicate
        holds, and where it stands, as `FILE, line N`; None where the source has
        no lines.

    Raises:
      HarnessError: The first problem whose truth cannot be read, or does not
        score as correct, with its file and line.
    """

    def fault(problem: Problem) -> str | None:
        return _fault(recipe, problem)

    for split, problems in splits.items():
        for number, problem in enumerate(problems, start=1):
            if fault(problem) is None:
                continue
            where, found = locate(lambda each: fault(each) is not None) or (
                f"data.source {recipe.data.source}, {split} problem {number}",
                problem,
            )
            raise HarnessError(
                f"{where}: {fault(found)}; the answer must end in '#### ' and a number that the "
                "reward reads as it is meant"
            )


def _fault(recipe: Recipe, problem: Problem) -> str | None:
    """Return what is wrong with a problem's truth, None if nothing is."""
    try:
        truth = extract_answer(problem.answer)
    except ValueError as error:
        return str(error)
    if recipe.reward.function != rewards.BUILTIN:
        return None
    written = problem.answer.rpartition("####")[2].split("\n", 1)[0].rstrip()
    for completion in (f"####{written}", f"#### {truth}"):
        (judged,) = rewards.judge(recipe.reward, [""], [completion], answer=[truth])
        if not judged.right:
            return (
                f"the truth {truth!r}, written as the completion {completion!r}, does not score as "
                f"correct (reward.clip_chars is {recipe.reward.clip_chars})"
            )
    return None


def warnings(splits: Mapping[str, Iterable[Problem]]) -> tuple[RunWarning, ...]:
    """Return what does not stop a run on these problems, and should be known.

    Args:
      splits: The problems of `train` and `test`, all of whose truths can be read.

    Returns:
      Warnings of problems in both splits, and of numbers in an unusual form.
    """
    found = []
    asked = {_normal(problem.question): problem.question for problem in splits["train"]}
    common = [p.question for p in splits["test"] if _normal(p.question) in asked]
    if common:
        found.append(
            RunWarning(
                "train-test-overlap",
                f"{len(common)} test problem(s) are training problems too, such as "
                f"{_short(common[0])}: accuracy counts what may have been learned by heart",
            )
        )
    unusual = [
        truth
        for problems in splits.values()
        for truth in (extract_answer(problem.answer) for problem in problems)
        if _UNUSUAL.fullmatch(truth)
    ]
    if unusual:
        found.append(
            RunWarning(
                "unusual-truths",
                f"{len(unusual)} truth(s) are not in a number's usual form, such as {unusual[0]}: "
                "texts are compared, so the same number in another form scores as wrong",
            )
        )
    return tuple(found)


def _normal(question: str) -> str:
    return " ".join(question.split()).casefold()


def _short(text: str, width: int = 80) -> str:
    return repr(text if len(text) <= width else f"{text[:width]}…")
