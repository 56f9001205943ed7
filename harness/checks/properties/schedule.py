"""Which sequences train which step, by a dry run of the learner."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from harness import recipe as recipe_lib
from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.property import EXACT, Comparison, Observed, Property
from harness.oracle import schedule as oracle
from harness.upstream.instrument import dry_run

ROLES = ("actor", "critic")

OFF = "mini-batch-off-policy"


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of a dry run.

    Attributes:
      batch: Problems in a batch.
      mini_batch: Problems behind an optimizer step.
      micro_batch: Problems in a gradient.
      epochs: PPO epochs.
      max_steps: Optimizer steps asked for.
      batches: Batches that the data offers.
    """

    batch: int
    mini_batch: int
    micro_batch: int
    epochs: int
    max_steps: int
    batches: int

    @property
    def uses(self) -> list[oracle.Use]:
        """What the oracle makes of it."""
        return oracle.schedule(
            self.batches,
            self.batch,
            self.mini_batch,
            self.micro_batch,
            self.epochs,
            self.max_steps,
        )

    @property
    def uses_apart(self) -> list[oracle.Use]:
        """What becomes of it where each mini-batch is sampled, and used up, by itself."""
        count = self.batch // self.mini_batch
        per_batch = count * self.epochs
        uses = oracle.schedule(
            self.batches * count,
            self.mini_batch,
            self.mini_batch,
            self.micro_batch,
            self.epochs,
            -(-self.max_steps // per_batch) * per_batch,
        )
        return [
            dataclasses.replace(use, batch=use.batch // count, mini_batch=use.batch % count)
            for use in uses
        ]

    def uses_where(self, known: Collection[str]) -> list[oracle.Use]:
        """Return what known issues, and nothing else, make of it."""
        return self.uses_apart if OFF in known else self.uses

    @property
    def mini_batches(self) -> int:
        """Mini-batches, and so optimizer steps, in a pass over a batch."""
        return self.batch // self.mini_batch

    @property
    def assignments(self) -> tuple[str, ...]:
        """What makes a recipe one of these sizes."""
        return (
            f"batching.rollout_batch_size={self.batch}",
            f"batching.mini_batch_size={self.mini_batch}",
            f"batching.train_micro_batch_size={self.micro_batch}",
            f"batching.rollout_micro_batch_size={self.batch}",
            f"batching.compute_logps_micro_batch_size={self.batch}",
            f"ppo.num_epochs={self.epochs}",
            f"optimizers.max_steps={self.max_steps}",
            f"data.num_batches={self.batches}",
            "data.train_fraction=1",
            "checkpoints.save_interval_steps=1000",
        )


# All end where a batch ends, so that two ways to read `max_steps` agree.
CASES = (
    Case(8, 8, 4, 2, max_steps=4, batches=5),
    Case(8, 4, 2, 1, max_steps=100, batches=3),
    Case(8, 4, 4, 3, max_steps=12, batches=3),
    Case(4, 4, 4, 1, max_steps=2, batches=4),
    Case(8, 8, 2, 3, max_steps=100, batches=2),
)

_OVERSHOOT = (
    Case(8, 8, 4, 2, max_steps=3, batches=5),
    Case(8, 4, 4, 3, max_steps=7, batches=5),
)

RESUMED = Case(8, 4, 2, 2, max_steps=100, batches=6)

RESUMED_AFTER = 2


def dry_run_of(context: Context, case: Case) -> dry_run.DryRun:
    """Run the loop of the learner on a case, without a model."""
    return context.run_dry(*case.assignments, batches=case.batches)[0]


def _rows(micro_batches: Sequence[tuple[int, Sequence[int]]]) -> np.ndarray:
    """Return each row's optimizer step, micro-batch, position and problem, [N, 4].

    Micro-batches are named by their first problem and sorted within a step: they
    accumulate into one step, whatever their order.
    """
    return np.array(
        sorted(
            (step, problems[0], position, problem)
            for step, problems in micro_batches
            for position, problem in enumerate(problems)
        )
    )


def _account(
    base: recipe_lib.Recipe, case: Case, known: Collection[str] = ()
) -> recipe_lib.Summary:
    recipe = recipe_lib.replace(base, *case.assignments)
    return recipe_lib.summarize(recipe, one_policy=OFF not in known)


def _wanted_rows(uses: Sequence[oracle.Use]) -> np.ndarray:
    micro_batches: dict[tuple[int, int], list[int]] = {}
    for use in uses:
        micro_batches.setdefault((use.optimizer_step, use.micro_batch), []).append(use.problem)
    return _rows([(step, problems) for (step, _), problems in micro_batches.items()])


def _by_pass(rows: np.ndarray, case: Case) -> np.ndarray:
    """Sort the problems of each pass over a batch, [N, 2]: how a pass is cut is random."""
    passes = np.stack([rows[:, 0] // case.mini_batches, rows[:, 3]], axis=1)
    return passes[np.lexsort(passes.T[::-1])]


def _compare_rows(
    what: str, got: np.ndarray, uses: Sequence[oracle.Use], case: Case, known: Collection[str]
) -> Iterator[Comparison]:
    want = _wanted_rows(uses)
    if OFF in known:
        yield Comparison(f"{what} (step, micro-batch, position, problem)", got, want)
        return
    yield Comparison(f"optimizer steps of {what}", got[:, 0], want[:, 0])
    yield Comparison(f"problems of each pass in {what}", _by_pass(got, case), _by_pass(want, case))


def _observe_schedule(context: Context) -> Observed:
    return {
        "base": context.recipe,
        "cases": CASES,
        "got": [dry_run_of(context, case) for case in CASES],
    }


def _compare_schedule(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    for case, got in zip(observed["cases"], observed["got"], strict=True):
        uses, summary = case.uses_where(known), _account(observed["base"], case, known)
        for role in ROLES:
            steps = [each for each in got.steps if each.role == role]
            rows = _rows([(each.train_steps, each.problems) for each in steps])
            yield from _compare_rows(f"{role}'s rows of {case}", rows, uses, case, known)
            sizes = [len(each.problems) for each in steps]
            yield Comparison(
                f"rows of each of the {role}'s gradients of {case}",
                sizes,
                [case.micro_batch] * (len(uses) // case.micro_batch),
            )
            for name, wanted in (
                ("oracle's", oracle.optimizer_steps(uses)),
                ("account's", summary.optimizer_steps),
            ):
                yield Comparison(
                    f"{role}'s optimizer steps of {case}, {name}",
                    got.ended[role].train_steps,
                    wanted,
                )
        pairs = [each.role for each in got.steps]
        yield Comparison(f"turns of {case}", pairs, list(ROLES) * (len(pairs) // 2))
        orders = [[e.problems for e in got.steps if e.role == role] for role in ROLES]
        yield Comparison(
            f"the critic's order of micro-batches of {case}",
            np.concatenate(orders[1]),
            np.concatenate(orders[0]),
        )
        for name, figures in (
            ("global steps", (got.global_steps, oracle.global_steps(uses), summary.global_steps)),
            ("generations", (len(got.draws), _generations(case, uses, known), summary.generations)),
        ):
            yield Comparison(f"{name} of {case}, oracle's", figures[0], figures[1])
            yield Comparison(f"{name} of {case}, account's", figures[0], figures[2])
        yield Comparison(
            f"problems as they are drawn of {case}",
            np.concatenate([each.problems for each in got.draws]),
            np.arange(oracle.global_steps(uses) * case.batch),
        )


def _generations(case: Case, uses: Sequence[oracle.Use], known: Collection[str]) -> int:
    return oracle.generations(uses) * (case.mini_batches if OFF in known else 1)


def _observe_shuffle(context: Context) -> Observed:
    cases = [CASES[2]]  # several mini-batches, several passes, one gradient a mini-batch
    return {"cases": cases, "got": [dry_run_of(context, case) for case in cases]}


def _compare_shuffle(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    for case, got in zip(observed["cases"], observed["got"], strict=True):
        cuts: dict[int, set[frozenset[int]]] = {}
        for each in got.steps:
            if each.role == "actor":
                first = min(each.problems) // case.batch
                cuts.setdefault(first, set()).add(frozenset(each.problems))
        alike = sum(len(found) == case.mini_batches for found in cuts.values())
        same = {OFF, "shuffle-without-effect"} & set(known)
        yield Comparison(
            f"batches that all passes cut alike, of {case}", alike, len(cuts) if same else 0
        )


def token_ids(example: dict[str, np.ndarray]) -> np.ndarray:
    """Return the ids [B, P + T] of prompts and completions."""
    return np.concatenate([example["prompt_ids"], example["completion_ids"]], axis=1)


def sorted_sequences(rows: np.ndarray) -> np.ndarray:
    """Return sequences in an order of their own."""
    return rows[np.lexsort(rows.T[::-1])]


def _observe_limit(context: Context) -> Observed:
    return {
        "cases": _OVERSHOOT,
        "got": [
            [
                *(found.ended[role].train_steps for role in ROLES),
                *(len({s.train_steps for s in found.steps if s.role == role}) for role in ROLES),
            ]
            for found in (dry_run_of(context, case) for case in _OVERSHOOT)
        ],
    }


def _compare_limit(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    for case, got in zip(observed["cases"], observed["got"], strict=True):
        over = "max-steps-overshoot" in known
        want = oracle.optimizer_steps(case.uses) if over else case.max_steps
        yield Comparison(f"optimizer steps of {case}", got, [want] * 4)


def _observe_resume(context: Context) -> Observed:
    first, second = context.run_dry(
        *RESUMED.assignments, batches=RESUMED.batches, stop=RESUMED_AFTER
    )
    (whole,) = context.run_dry(*RESUMED.assignments, batches=RESUMED.batches)
    return {
        "before": first.ended["actor"].train_steps,
        "drawn": np.concatenate([each.problems for each in second.draws]),
        **{
            role: _rows([(e.train_steps, e.problems) for e in second.steps if e.role == role])
            for role in ROLES
        },
        "order": np.concatenate([each.problems for each in second.steps]),
        "whole": np.concatenate([each.problems for each in whole.steps]),
    }


def _compare_resume(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    case, done = RESUMED, RESUMED_AFTER
    skipped = done * case.epochs if "resume-skips-data" in known else done
    steps = done * case.mini_batches * case.epochs
    yield Comparison("optimizer steps before the cut", observed["before"], steps)
    yield Comparison(
        "problems drawn after the cut",
        observed["drawn"],
        np.arange(skipped * case.batch, case.batches * case.batch),
    )
    rest = dataclasses.replace(case, batches=case.batches - skipped)
    moved = [
        dataclasses.replace(
            use,
            problem=use.problem + skipped * case.batch,
            optimizer_step=use.optimizer_step + steps,
        )
        for use in rest.uses_where(known)
    ]
    for role in ROLES:
        yield from _compare_rows(f"{role}'s rows after the cut", observed[role], moved, case, known)
    if not {"resume-restarts-noise", "resume-skips-data"} & set(known):
        order = observed["order"]
        yield Comparison(
            "rows after the cut, in order, beside the run that was not cut",
            order,
            observed["whole"][-len(order) :],
        )


def _steps(change: Callable[[list[dry_run.Step]], list[dry_run.Step]]) -> Any:
    def changed(got: list[dry_run.DryRun]) -> list[dry_run.DryRun]:
        return [dataclasses.replace(each, steps=change(each.steps)) for each in got]

    return wrong.value("got", changed)


def _first_batch_otherwise(steps: list[dry_run.Step]) -> list[dry_run.Step]:
    """Cut the first batch alike in all passes if no batch is, and anew in each if all are."""
    case = CASES[2]
    own = [each for each in steps if each.role == "actor" and max(each.problems) < case.batch]
    alike = len({frozenset(each.problems) for each in own}) == case.mini_batches
    seen: dict[str, int] = dict.fromkeys(ROLES, 0)
    changed = []
    for each in steps:
        if max(each.problems) < case.batch:
            number, mini = divmod(seen[each.role], case.mini_batches)
            seen[each.role] += 1
            first = mini * case.mini_batch + (number if alike else 0)
            rows = tuple((first + row) % case.batch for row in range(case.mini_batch))
            each = dataclasses.replace(each, problems=rows)
        changed.append(each)
    return changed


def _one_step_late(each: dry_run.Step) -> dry_run.Step:
    return dataclasses.replace(each, train_steps=each.train_steps + 1)


PROPERTIES = (
    Property(
        id="schedule",
        area="schedule",
        statement=(
            "Each epoch takes each sequence of the batch in exactly one gradient, a mini-batch an "
            "optimizer step, for actor and critic alike; batches follow the data until the steps "
            "are done."
        ),
        tolerance=EXACT,
        observe=_observe_schedule,
        compare=_compare_schedule,
        wrong={
            "a micro-batch twice": _steps(lambda steps: [*steps[:2], *steps[:2], *steps[4:]]),
            "an epoch less": _steps(lambda steps: steps[: len(steps) // 2]),
            "critic before actor": _steps(lambda steps: steps[::-1]),
            "steps counted late": _steps(lambda steps: [_one_step_late(each) for each in steps]),
            "rows of another problem": _steps(
                lambda steps: [
                    dataclasses.replace(each, problems=tuple(p + 1 for p in each.problems))
                    for each in steps
                ]
            ),
            "gradients of two rows": _steps(
                lambda steps: [
                    dataclasses.replace(each, problems=each.problems[half : half + 2])
                    for each in steps
                    for half in range(0, len(each.problems), 2)
                ]
            ),
            "one batch more": wrong.value(
                "got",
                lambda got: [
                    dataclasses.replace(each, global_steps=each.global_steps + 1) for each in got
                ],
            ),
        },
        defects=(OFF,),
    ),
    Property(
        id="passes-are-shuffled",
        area="schedule",
        statement="Each epoch cuts the batch into other mini-batches than the epoch before.",
        tolerance=EXACT,
        observe=_observe_shuffle,
        compare=_compare_shuffle,
        wrong={
            "one batch cut otherwise than the rest": _steps(_first_batch_otherwise),
        },
        defects=("shuffle-without-effect", OFF),
    ),
    Property(
        id="max-steps",
        area="schedule",
        statement="Training stops when `max_steps` optimizer steps are done.",
        tolerance=EXACT,
        observe=_observe_limit,
        compare=_compare_limit,
        wrong={
            "a batch more": wrong.each("got", lambda x: x + 2),
            "a batch less": wrong.each("got", lambda x: x - 2),
            "the critic a step behind": wrong.each("got", lambda x: x - [0, 1, 0, 1]),
        },
        defects=("max-steps-overshoot",),
    ),
    Property(
        id="resume-data",
        area="schedule",
        statement="A resumed training goes on with the first problem that was not used.",
        tolerance=EXACT,
        observe=_observe_resume,
        compare=_compare_resume,
        wrong={
            "from the beginning": wrong.value("drawn", lambda drawn: drawn - drawn[0]),
            "a mini-batch less": wrong.value("drawn", lambda drawn: drawn[4:]),
            "the critic's steps from 0": wrong.value("critic", lambda rows: rows - [8, 0, 0, 0]),
            "a step behind": wrong.value("actor", lambda rows: rows - [1, 0, 0, 0]),
            "a problem twice": wrong.value("actor", lambda rows: np.maximum(rows, 17)),
        },
        defects=("resume-skips-data", "resume-restarts-noise", OFF),
    ),
)
