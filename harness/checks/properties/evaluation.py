"""Validation and evaluation: with which settings, on which problems, and without a trace."""

import dataclasses
import random
from collections.abc import Collection, Iterator

import numpy as np

from harness import evaluation, upstream
from harness import recipe as recipe_lib
from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.properties.schedule import Case
from harness.checks.property import EXACT, Comparison, Observed, Property
from harness.upstream.instrument import dry_run

_ROLES = ("actor", "critic")

_EVALUATION = {"temperature": 0.5, "top_p": 0.9}

_EVERY = 2

_VALIDATION = 2

# In the last, validation falls due inside a mini-batch.
_CASES = (
    Case(8, 8, 4, 2, max_steps=100, batches=3),
    Case(8, 4, 4, 1, max_steps=100, batches=3),
    Case(8, 8, 8, 3, max_steps=100, batches=2),
)


def _dry_run_of(context: Context, case: Case) -> dry_run.DryRun:
    return context.run_dry(
        *case.assignments,
        f"evaluation.every_n_steps={_EVERY}",
        batches=case.batches,
        validation=_VALIDATION,
        evaluation_config=_EVALUATION,
    )[0]


def _observe_config(context: Context) -> Observed:
    draws = [draw for case in _CASES for draw in _dry_run_of(context, case).draws]
    rollout = context.recipe.rollout
    return {
        "modes": [draw.evaluation for draw in draws],
        "got": [(draw.temperature, draw.top_p) for draw in draws],
        "train": (rollout.temperature, rollout.top_p),
    }


def _compare_config(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    train, evaluating = observed["train"], tuple(_EVALUATION.values())
    if "eval-rollout-config-unused" in known:
        evaluating = train
    modes = observed["modes"]
    yield Comparison("some draws are for evaluation", any(modes) and not all(modes), True)
    yield Comparison(
        "temperature and top_p of each draw",
        observed["got"],
        [evaluating if mode else train for mode in modes],
    )


@dataclasses.dataclass(frozen=True)
class _Looks:
    """When one model is evaluated.

    Attributes:
      steps: Optimizer steps done at each evaluation.
      drawn: Optimizer steps done whenever validation is sampled.
      per_look: Validation batches in each evaluation.
    """

    steps: list[int]
    drawn: list[int]
    per_look: int


def _looks(case: Case, every: int, known: Collection[str], *, one_policy: bool) -> _Looks:
    """Evaluations that are due: before the first step, and after each `every` steps."""
    per_look = 1 if "eval-first-micro-batch" in known else _VALIDATION
    last = max(use.optimizer_step for use in case.uses) + 1
    if "eval-repeated" not in known:
        due = list(range(0, last + 1, every))
        return _Looks(due, due, per_look)
    # Upstream hands the validation data on with every micro-batch, once it has
    # been sampled for a mini-batch, or for the batch where it is generated as
    # one; each time, and once more where a step is due, the trainer evaluates.
    steps, drawn = [], []
    count = case.mini_batch // case.micro_batch
    span = case.epochs * (case.mini_batches if one_policy else 1)
    for first in range(0, last, span):
        sampled = False
        for step in range(first, first + span):
            for micro_batch in range(count):
                if not sampled and step % every == 0:
                    sampled = True
                    drawn.append(step)
                if sampled:
                    steps.append(step)
                    if micro_batch == count - 1 and (step + 1) % every == 0:
                        steps.append(step + 1)
    return _Looks(steps, drawn, per_look)


def _observe_all(context: Context) -> Observed:
    found = [_dry_run_of(context, case) for case in _CASES]
    return {
        "recipe": context.recipe,
        "one_policy": "mini-batch-off-policy" in context.fixes,
        "looks": [each.looks for each in found],
        "draws": [[draw for draw in each.draws if draw.evaluation] for each in found],
        "evaluated": {
            role: [
                rows
                for each in context.trace.updates
                if each.role == role
                for rows in each.evaluated
            ]
            for role in _ROLES
        },
    }


def _compare_all(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    for case, looks, draws in zip(_CASES, observed["looks"], observed["draws"], strict=True):
        want = _looks(case, _EVERY, known, one_policy=observed["one_policy"])
        batches = [
            tuple(range(first, first + case.batch))
            for first in range(
                dry_run.VALIDATION, dry_run.VALIDATION + _VALIDATION * case.batch, case.batch
            )
        ]
        yield Comparison(
            f"validation problems as they are sampled of {case}",
            [(draw.train_steps, problem) for draw in draws for problem in draw.problems],
            [(step, problem) for step in want.drawn for batch in batches for problem in batch],
        )
        by_role = [[look for look in looks if look.role == role] for role in _ROLES]
        for role, own in zip(_ROLES, by_role, strict=True):
            yield Comparison(
                f"{role}'s optimizer steps at each validation batch of {case}",
                [look.train_steps for look in own],
                [step for step in want.steps for _ in range(want.per_look)],
            )
            yield Comparison(
                f"{role}'s validation batches of {case} are whole",
                [look.problems in batches for look in own],
                [True] * len(own),
            )
            if want.per_look == _VALIDATION:
                yield Comparison(
                    f"{role}'s validation problems of {case}",
                    sorted(
                        (look.train_steps, problem) for look in own for problem in look.problems
                    ),
                    sorted(
                        (step, problem)
                        for step in want.steps
                        for batch in batches
                        for problem in batch
                    ),
                )
        yield Comparison(
            f"the critic is evaluated on what the actor is, in {case}",
            [problem for look in by_role[1] for problem in look.problems],
            [problem for look in by_role[0] for problem in look.problems],
        )
    yield from _compare_recorded(observed, known)


def _compare_recorded(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    recipe = observed["recipe"]
    batching, summary = recipe.batching, recipe_lib.summarize(recipe)
    case = Case(
        batching.rollout_batch_size,
        batching.mini_batch_size,
        batching.train_micro_batch_size,
        recipe.ppo.num_epochs,
        max_steps=summary.max_steps,
        batches=summary.batches,
    )
    every = recipe.evaluation.every_n_steps
    want = _looks(case, every, known, one_policy=observed["one_policy"])
    for role in _ROLES:
        yield Comparison(
            f"rows of each validation batch that the real {role} was evaluated on",
            observed["evaluated"][role],
            [batching.rollout_batch_size] * (len(want.steps) * want.per_look),
        )


def _observe_nothing(context: Context) -> Observed:
    components = context.components
    sizes = (
        "rollout_batch_size",
        "mini_batch_size",
        "train_micro_batch_size",
        "rollout_micro_batch_size",
        "compute_logps_micro_batch_size",
    )
    # The sizes of a rollout, so that no other program is compiled.
    size = components.recipe.batching.rollout_micro_batch_size
    recipe = recipe_lib.replace(
        components.recipe,
        *(f"batching.{name}={size}" for name in sizes),
        'evaluation.generation="liberal"',
    )
    generator = upstream.Generator(recipe, components.actor, components.tokenizer, components.mesh)
    batch = next(iter(components.dataset.test))
    rows = {name: column[: size - 1] for name, column in batch.items()}
    before = _everything(context)
    answers = [evaluation.evaluate(recipe, generator, [rows]) for _ in range(2)]
    return {
        "before": before,
        "after": _everything(context),
        "answers": [[(s.completion, s.tokens, s.score) for s in each.samples] for each in answers],
        "total": len(rows["prompts"]),
    }


def _everything(context: Context) -> dict[str, np.ndarray]:
    """Return whatever training follows from, by name."""
    learner, cluster = context.components.learner, context.components.cluster
    found = {"global step": np.array(cluster.global_steps)}
    for index, seed in enumerate(dry_run.randomness(learner)):
        found[f"randomness {index}"] = seed
    found["NumPy's random state"] = np.array(list(np.random.get_state(legacy=True))[1])
    found["Python's random state"] = np.array(random.getstate()[1])
    for role, state in dry_run.states(learner).items():
        found[f"{role}'s counts"] = np.array([state.train_steps, state.iter_steps])
        for kind in ("weights", "moments"):
            for name, array in getattr(state, kind).items():
                found[f"{role}'s {kind} {name}"] = array
    return found


def _compare_nothing(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    yield Comparison("what there is", sorted(observed["after"]), sorted(observed["before"]))
    for name, want in observed["before"].items():
        yield Comparison(name, observed["after"][name], want)
    first, second = observed["answers"]
    yield Comparison("answers", len(first), observed["total"])
    yield Comparison("answers the second time", np.array(second, str), np.array(first, str))


PROPERTIES = (
    Property(
        id="eval-config",
        area="evaluation",
        statement="Validation is sampled with the configuration for evaluation, training is not.",
        tolerance=EXACT,
        observe=_observe_config,
        compare=_compare_config,
        wrong={
            "of the other mode": lambda seen: {
                **seen,
                "got": [
                    seen["train"] if mode else tuple(_EVALUATION.values()) for mode in seen["modes"]
                ],
            },
            "always of evaluation": wrong.value(
                "got", lambda got: [tuple(_EVALUATION.values())] * len(got)
            ),
        },
        defects=("eval-rollout-config-unused",),
    ),
    Property(
        id="eval-uses-all",
        area="evaluation",
        statement=(
            "Whenever validation is due, both models are evaluated once on each of its problems."
        ),
        tolerance=EXACT,
        observe=_observe_all,
        compare=_compare_all,
        wrong={
            "never": wrong.value("looks", lambda looks: [[] for _ in looks]),
            "once more": wrong.value("looks", lambda looks: [[*each, each[-1]] for each in looks]),
            "a step late": wrong.value(
                "looks",
                lambda looks: [
                    [dataclasses.replace(e, train_steps=e.train_steps + 1) for e in each]
                    for each in looks
                ],
            ),
            "on training problems": wrong.value(
                "looks",
                lambda looks: [
                    [dataclasses.replace(e, problems=tuple(range(8))) for e in each]
                    for each in looks
                ],
            ),
            "a batch not sampled": wrong.value(
                "draws", lambda draws: [each[:-1] for each in draws]
            ),
            "half of the rows": wrong.value(
                "evaluated", lambda rows: {role: [4] * len(own) for role, own in rows.items()}
            ),
        },
        defects=("eval-first-micro-batch", "eval-repeated"),
    ),
    Property(
        id="evaluation-changes-nothing",
        area="evaluation",
        statement=(
            "An evaluation leaves weights, moments, counters and random states as they were, and "
            "gives the same answers when it is run again."
        ),
        tolerance=EXACT,
        observe=_observe_nothing,
        compare=_compare_nothing,
        wrong={
            "other answers": wrong.value("answers", lambda two: [two[0], two[1][::-1]]),
            "weights moved": wrong.value(
                "after", lambda all_: {n: x + ("weights" in n) for n, x in all_.items()}
            ),
            "moments moved": wrong.value(
                "after", lambda all_: {n: x + ("moments" in n) for n, x in all_.items()}
            ),
            "a step counted": wrong.value(
                "after", lambda all_: {n: x + ("counts" in n) for n, x in all_.items()}
            ),
            "noise drawn": wrong.value(
                "after", lambda all_: {n: x + ("random" in n) for n, x in all_.items()}
            ),
        },
    ),
)
