"""Accuracy on test problems: greedy, standard or liberal generation, with intervals."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from harness import recipe as recipe_lib
from harness import reward_call, rewards

Generate = Callable[[Sequence[str], recipe_lib.Generation, jax.Array], tuple[list[str], list[int]]]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One completion of one test problem.

    Attributes:
      stage: When it was made, such as `baseline` or `trained`.
      index: Number of the problem in the test set.
      completion_pass: Number of the pass, from 0.
      question: The question alone.
      answer: The right answer.
      completion: The text that the model wrote, without stop token.
      tokens: Tokens before the stop token.
      score: What the rule of `evaluation.rule` gives: by default the recipe's
        reward, 1 for a right answer, 0.1 for a well-formed one, 0 otherwise.
        None where a function of the user's own gave what is not finite.
    """

    stage: str
    index: int
    completion_pass: int
    question: str
    answer: str
    completion: str
    tokens: int
    score: float | None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Accuracy over a test set.

    Attributes:
      accuracy: Share of problems with a right completion, in 0..1.
      format_accuracy: Share of problems with a well-formed completion, in 0..1.
      total: Number of problems.
      accuracy_ci95: Wilson interval of `accuracy`.
      format_accuracy_ci95: Wilson interval of `format_accuracy`.
      samples: Every completion.
    """

    accuracy: float
    format_accuracy: float
    total: int
    accuracy_ci95: tuple[float, float]
    format_accuracy_ci95: tuple[float, float]
    samples: tuple[Sample, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, without samples, as plain JSON values."""
        tree = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del tree["samples"]
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in tree.items()
        }

    def to_saved(self) -> dict[str, Any]:
        """Return all of it, samples too, as plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_saved(cls, tree: Mapping[str, Any]) -> "Evaluation":
        """Read what `to_saved` returned, also from JSON."""
        samples = tuple(Sample(**each) for each in tree["samples"])
        intervals = {
            name: (float(tree[name][0]), float(tree[name][1]))
            for name in ("accuracy_ci95", "format_accuracy_ci95")
        }
        return cls(**{**tree, **intervals, "samples": samples})


class ScoringFailedError(reward_call.RewardFailedError):
    """A reward function of the user's own failed on completions of test problems.

    Attributes:
      problems: Numbers of the first and the last problem of the batch.
      batch: Prompts, completions and columns of the call.
    """

    def __init__(
        self,
        error: reward_call.RewardFailedError,
        problems: tuple[int, int],
        batch: Mapping[str, Any],
    ):
        """Store on what the function failed."""
        super().__init__(str(error), error.traceback)
        self.problems = problems
        self.batch = batch


def rule_of(recipe: recipe_lib.Recipe) -> recipe_lib.Reward:
    """Return the rule by which completions are scored.

    Args:
      recipe: Its reward, unless `evaluation.rule` is `reference`.

    Returns:
      The recipe's reward, or that of the reference recipe.
    """
    return recipe_lib.Reward() if recipe.evaluation.rule == "reference" else recipe.reward


def evaluate(
    recipe: recipe_lib.Recipe,
    generate: Generate,
    batches: Iterable[dict[str, np.ndarray]],
    *,
    stage: str = "evaluation",
    on_batch: Callable[[int], None] = lambda problems: None,
) -> Evaluation:
    """Answer every test problem and scores the answers.

    A problem counts as solved if any of the passes is right, as in the
    reference recipe. The noise of a batch follows from the recipe's seed, the
    pass and the number of the batch; it is the same before and after training.

    Args:
      recipe: How to generate, how often, the batch size, and the rule by which
        completions are scored; see `rule_of`.
      generate: Completes prompts, such as `harness.upstream.Generator`.
      batches: Columns `prompts`, `question` and `answer`, each [B]; the last
        batch may be smaller.
      stage: Written into the samples.
      on_batch: Called with the number of problems done after each batch.

    Returns:
      Accuracy, intervals and samples.

    Raises:
      ScoringFailedError: A reward function of the user's own failed.
    """
    rule = rule_of(recipe)
    generation = recipe.evaluation.generations[recipe.evaluation.generation]
    samples: list[Sample] = []
    solved: list[bool] = []
    formed: list[bool] = []
    for number, batch in enumerate(batches):
        rows = len(batch["prompts"])
        # A smaller last batch is filled up, so that one compiled program serves all.
        filled = np.resize(batch["prompts"], recipe.batching.rollout_batch_size)
        best = np.zeros((2, rows), bool)
        for index in range(recipe.evaluation.passes):
            key = _key(recipe.seed, index, number)
            texts, tokens = generate([str(prompt) for prompt in filled], generation, key)
            judged = _judged(rule, batch, texts[:rows], first=len(solved))
            for row in range(rows):
                best[:, row] |= (judged[row].right, judged[row].formed)
                samples.append(
                    Sample(
                        stage=stage,
                        index=len(solved) + row,
                        completion_pass=index,
                        question=str(batch["question"][row]),
                        answer=str(batch["answer"][row]),
                        completion=texts[row],
                        tokens=tokens[row],
                        score=judged[row].score,
                    )
                )
        solved.extend(best[0].tolist())
        formed.extend(best[1].tolist())
        on_batch(len(solved))
    right, well_formed, total = sum(solved), sum(formed), len(solved)
    return Evaluation(
        accuracy=right / total,
        format_accuracy=well_formed / total,
        total=total,
        accuracy_ci95=interval(right, total),
        format_accuracy_ci95=interval(well_formed, total),
        samples=tuple(samples),
    )


def _judged(
    rule: recipe_lib.Reward, batch: Mapping[str, np.ndarray], texts: list[str], *, first: int
) -> list[rewards.Judgement]:
    prompts = batch["prompts"]
    columns = {name: column for name, column in batch.items() if name != "prompts"}
    try:
        return rewards.judge(rule, prompts, texts, **columns, mode="eval")
    except reward_call.RewardFailedError as error:
        whole = {"prompts": prompts, "completions": texts, **columns}
        raise ScoringFailedError(error, (first, first + len(texts) - 1), whole) from error


def interval(hits: int, total: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson 1927, JASA 22, p. 209).

    Args:
      hits: Number of successes.
      total: Number of trials, at least 1.

    Returns:
      Lower and upper bound in 0..1.
    """
    # Imported here: it takes a second, and most commands evaluate nothing.
    from scipy import stats

    bounds = stats.binomtest(hits, total).proportion_ci(0.95, method="wilson")
    return float(bounds.low), float(bounds.high)


def _key(seed: int, index: int, batch: int) -> jax.Array:
    key = jax.random.PRNGKey(seed)
    return jax.random.fold_in(jax.random.fold_in(key, index), batch)
