"""Which sequences trained which step in the recorded run."""

import dataclasses
from collections.abc import Collection, Iterator

import numpy as np

from harness import recipe as recipe_lib
from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.properties.schedule import (
    CASES,
    OFF,
    ROLES,
    dry_run_of,
    sorted_sequences,
    token_ids,
)
from harness.checks.property import EXACT, Comparison, Observed, Property


def _observe_run(context: Context) -> Observed:
    return {
        "recipe": context.recipe,
        "groups": context.trace.groups,
        "updates": context.trace.updates,
        "events": context.trace.events,
        "global_steps": context.trace.global_steps,
        "batches": [dict(batch) for batch in context.components.dataset.train],
    }


def _compare_run(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    recipe = observed["recipe"]
    summary = recipe_lib.summarize(recipe)
    groups = [group for group in observed["groups"] if not group.evaluation]
    batches = observed["batches"][: summary.global_steps]
    for name in ("prompts", "answer", "question"):
        yield Comparison(
            f"{name} of the groups, in order",
            np.concatenate([group.columns[name] for group in groups]),
            np.concatenate([batch[name] for batch in batches]),
        )
    rows = np.concatenate([token_ids(group.example) for group in groups])
    size, epochs = recipe.batching.mini_batch_size, recipe.ppo.num_epochs
    count = summary.gradient_accumulation
    for role in ROLES:
        updates = [each for each in observed["updates"] if each.role == role]
        done = [each.train_steps for each in updates]
        yield Comparison(
            f"the {role}'s count of optimizer steps",
            done,
            [(index + 1) // count for index in range(summary.optimizer_steps * count)],
        )
        for step in range(len(updates) // count):
            used = np.concatenate(
                [token_ids(each.example) for each in updates[step * count : (step + 1) * count]]
            )
            first = step // epochs * size
            yield Comparison(
                f"rows of the {role}'s optimizer step {step}",
                sorted_sequences(used),
                sorted_sequences(rows[first : first + size]),
            )
    events = observed["events"]
    turns = [name for name in events if name in ROLES]
    yield Comparison("turns of actor and critic", turns, list(ROLES) * (len(turns) // 2))
    # Runs of equal kinds: of a batch all is generated, then all is trained on.
    kinds = ["train" if name in ROLES else name for name in events]
    phases = [kind for i, kind in enumerate(kinds) if not i or kind != kinds[i - 1]]
    phases = [kind for kind in phases if kind in ("batch", "train")]
    yield Comparison("phases", phases, ["batch", "train"] * summary.global_steps)
    yield Comparison(
        "groups that follow a generation",
        [
            events[i - 1] in ("generate", "group")
            for i, name in enumerate(events)
            if name == "group"
        ],
        [True] * len(observed["groups"]),
    )
    yield Comparison(
        "global steps", observed["global_steps"], list(range(1, summary.global_steps + 1))
    )


def _observe_policy(context: Context) -> Observed:
    cases = [case for case in CASES if case.mini_batch < case.batch]
    return {"cases": cases, "got": [dry_run_of(context, case).draws for case in cases]}


def _compare_policy(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    for case, draws in zip(observed["cases"], observed["got"], strict=True):
        apart = OFF in known
        first: dict[int, int] = {}
        for use in case.uses_where(known):
            first.setdefault(use.problem if apart else use.batch, use.optimizer_step)
        problems = [problem for draw in draws for problem in draw.problems]
        yield Comparison(
            f"optimizer steps done when each problem is drawn of {case}",
            [draw.train_steps for draw in draws for _ in draw.problems],
            [first[problem if apart else problem // case.batch] for problem in problems],
        )


PROPERTIES = (
    Property(
        id="schedule-of-the-run",
        area="schedule",
        statement=(
            "In the real run, each optimizer step takes each sequence of the mini-batch that was "
            "just generated exactly once, in the order of the data."
        ),
        tolerance=EXACT,
        observe=_observe_run,
        compare=_compare_run,
        wrong={
            "stale rows": wrong.value("updates", lambda seen: [*seen[8:16], *seen[:8], *seen[16:]]),
            "another order of the data": wrong.value("batches", lambda seen: seen[::-1]),
            "an update less": wrong.value("updates", lambda seen: seen[:-2]),
            "a step counted twice": wrong.value(
                "updates",
                lambda seen: [
                    dataclasses.replace(each, train_steps=2 * each.train_steps) for each in seen
                ],
            ),
            "a phase torn": wrong.value("events", lambda seen: [*seen[:-4], "batch", *seen[-4:]]),
            "a batch not counted": wrong.value("global_steps", lambda seen: [*seen[:-1], seen[-2]]),
        },
    ),
    Property(
        id="one-policy-per-batch",
        area="schedule",
        statement="All of a batch is sampled before the first update on it.",
        tolerance=EXACT,
        observe=_observe_policy,
        compare=_compare_policy,
        wrong={
            "a step late": wrong.value(
                "got",
                lambda got: [
                    [dataclasses.replace(d, train_steps=d.train_steps + 1) for d in draws]
                    for draws in got
                ],
            ),
            "all at the beginning": wrong.value(
                "got",
                lambda got: [
                    [dataclasses.replace(d, train_steps=0) for d in draws] for draws in got
                ],
            ),
        },
        defects=("mini-batch-off-policy",),
    ),
)
