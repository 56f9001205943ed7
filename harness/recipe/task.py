"""What is asked of a model and how its answers are scored."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from harness.recipe.fields import (
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    frozen,
)

SYSTEM_PROMPT = 'Let\'s think step by step and output the final answer after "####".'
TEMPLATE = "<start_of_turn>user\n{question} {system_prompt}<end_of_turn>\n<start_of_turn>model"


@frozen
class Arithmetic:
    """The built-in word problems: one sum or difference of small numbers each.

    Attributes:
      train_problems: Number of distinct training problems to write.
      test_problems: Number of distinct test problems, none of whose texts is a
        training problem's.
      seed: Seed of the writer. It is apart from the recipe's seed, so that
        runs with several seeds answer one test set.
      max_operand: Largest number in a question.
      operations: Which of `+` and `-` are asked.
    """

    train_problems: PositiveInt = 8192
    test_problems: PositiveInt = 512
    seed: NonNegativeInt = 0
    max_operand: Annotated[int, Field(ge=2, le=99)] = 9
    operations: tuple[Literal["+", "-"], ...] = ("+",)


@frozen
class Data:
    """Which problems are asked, and how many.

    Attributes:
      source: `arithmetic`, `tfds`, `tfds:DIR` or `jsonl:DIR`.
      prompt: Template with the fields `{question}` and `{system_prompt}`.
      system_prompt: Text put after the question.
      shuffle_seed: Seed of the order in which problems are read.
      num_batches: Rollout batches taken from the shuffled training split.
      num_test_batches: Batches of test problems that evaluation answers.
      num_epochs: Passes over the training batches.
      train_fraction: Share of the batches trained on; the rest validates.
      long_prompts: What to do with a prompt over `rollout.max_prompt_length`
        tokens: `refuse` the run, or `drop` the problem. Either way they are
        counted and reported, and none is ever cut.
      arithmetic: The built-in problems.
    """

    source: str = "tfds"
    prompt: str = TEMPLATE
    system_prompt: str = SYSTEM_PROMPT
    shuffle_seed: NonNegativeInt = 42
    num_batches: PositiveInt = 10
    num_test_batches: PositiveInt = 10
    num_epochs: PositiveInt = 1
    train_fraction: PositiveFraction = 1.0
    long_prompts: Literal["refuse", "drop"] = "refuse"
    arithmetic: Arithmetic = dataclasses.field(default_factory=Arithmetic)

    def __post_init__(self) -> None:
        """Check the source's form and the template's fields."""
        kind, _, folder = self.source.partition(":")
        if kind not in ("arithmetic", "tfds", "jsonl") or (kind == "arithmetic" and folder):
            raise ValueError("source must be arithmetic, tfds, tfds:DIR or jsonl:DIR")
        if kind == "jsonl" and not folder:
            raise ValueError("source jsonl needs a folder: jsonl:DIR")
        if "{question}" not in self.prompt:
            raise ValueError("prompt must contain {question}")


@frozen
class Generation:
    """How completions are drawn in evaluation.

    Attributes:
      temperature: Divisor of the logits.
      top_k: Likeliest tokens kept; none keeps all.
      top_p: Nucleus; 1 keeps all.
    """

    temperature: PositiveFloat
    top_k: PositiveInt | None
    top_p: PositiveFraction


def _generations() -> dict[str, Generation]:
    return {
        "greedy": Generation(temperature=1e-4, top_k=1, top_p=1.0),
        "standard": Generation(temperature=0.7, top_k=50, top_p=0.95),
        "liberal": Generation(temperature=0.85, top_k=2000, top_p=1.0),
    }


def _laid_over_named(given: Any) -> Any:
    """Lay generations over the named ones, field by field.

    A table has no defaults of its own: without this, a change of one field of a
    named generation would drop its other fields, and the other names.
    """
    if not isinstance(given, Mapping):
        return given
    named = _generations()
    changed = {
        name: {**dataclasses.asdict(named[name]), **value}
        if name in named and isinstance(value, Mapping)
        else value
        for name, value in given.items()
    }
    return {**named, **changed}


@frozen
class Evaluation:
    """How accuracy is measured.

    Attributes:
      generation: Name of one of `generations`.
      generations: The named ways to generate. `greedy`, `standard` and
        `liberal` are always there, and any of their fields may be changed alone;
        one of another name needs all fields.
      passes: Completions per problem; a problem counts as solved if any is
        right, as in the reference.
      every_n_steps: Optimizer steps between validations (used only with
        `data.train_fraction` < 1).
      rule: By what completions are scored: `reward` or None for the recipe's
        reward, so that what is trained for is what is measured; `reference` for
        the reference recipe's rule, whatever the reward.
    """

    generation: str = "greedy"
    generations: Annotated[dict[str, Generation], pydantic.BeforeValidator(_laid_over_named)] = (
        dataclasses.field(default_factory=_generations)
    )
    passes: PositiveInt = 1
    every_n_steps: PositiveInt = 10
    rule: Literal["reward", "reference"] | None = None

    def __post_init__(self) -> None:
        """Check that the chosen way to generate exists."""
        if self.generation not in self.generations:
            raise ValueError(f"generation must be one of {', '.join(sorted(self.generations))}")


@frozen
class WarmStart:
    """Supervised training before PPO, for a model whose weights are random.

    Attributes:
      max_steps: Optimizer steps at most; 0 skips the warm start.
      batch: Problems per step.
      learning_rate: Peak rate of AdamW.
      target_accuracy: Training stops once this share of held-back training
        problems is answered, so that PPO has something left to learn.
      wrong_answers: Share of the problems trained on that are shown with a
        wrong answer, drawn evenly from all answers. A policy that saw none
        gives some answers no probability at all, and PPO never samples them.
      check_every: Steps between two looks at that share.
      check_problems: Number of held-back problems looked at.
    """

    max_steps: NonNegativeInt = 0
    batch: PositiveInt = 128
    learning_rate: PositiveFloat = 3e-3
    target_accuracy: PositiveFraction = 0.35
    wrong_answers: Annotated[float, Field(ge=0, lt=1)] = 0.0
    check_every: PositiveInt = 10
    check_problems: PositiveInt = 512


@frozen
class Reward:
    """The rule-based score.

    Attributes:
      function: `module:name` of a function `(prompts, completions, **columns)`
        that gives one float per completion.
      correct: Score of a right answer.
      format: Score of a well-formed wrong answer.
      clip_chars: Characters at a completion's end that are looked at.
      timeout_seconds: Longest that one call of a function of the user's own may
        take; a call that takes longer ends the run. None sets no limit.
      trial: What a run does with a function of the user's own before anything is
        trained: `batch` or None call it once, on prompts of the data with
        made-up completions; `signature` looks at its parameters alone, for a
        function that must not be called in vain.
    """

    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] = "harness.rewards:gsm8k_reward"
    correct: float = 1.0
    format: float = 0.1
    clip_chars: PositiveInt = 300
    timeout_seconds: PositiveFloat | None = None
    trial: Literal["batch", "signature"] | None = None


@frozen
class Metrics:
    """Where the figures of training go, beside `result.json`.

    Attributes:
      backends: `tensorboard`, `wandb` (Weights & Biases), both or none. None
        acts because its package happens to be installed.
      project: Project of Weights & Biases.
      run_name: Name of the run there; that of the output folder if none.
    """

    backends: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    project: Annotated[str, Field(min_length=1)] = "tunix-ppo-harness"
    run_name: str | None = None

    def __post_init__(self) -> None:
        """Check that no backend is named twice."""
        if len(set(self.backends)) < len(self.backends):
            raise ValueError("backends must name each backend once")
