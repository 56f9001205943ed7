"""What is logged of a global step."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.properties import advantage as advantage_checks
from harness.checks.property import Comparison, Observed, Property, Tolerance
from harness.oracle import advantage, kl

_SPREAD = ("mean", "max", "min")


def _figures(group: Any, recipe: Any, known: Collection[str]) -> dict[str, np.ndarray]:
    """Return all numbers of a group over which each logged figure is taken."""
    example = group.example
    mask = example["completion_mask"].astype(bool)
    rewards = advantage_checks.token_rewards(group, recipe, known).sum(axis=1)
    if "empty-completion-reward-lost" in known:
        # It is written where the mask hides it, and logged with what the mask hides.
        scores = np.trunc(group.scores) if "reward-truncated" in known else group.scores
        rewards = np.where(mask.any(axis=1), rewards, scores)
    divergence = kl.kl(
        example["old_per_token_logps"], example["ref_per_token_logps"], recipe.ppo.kl_method
    )
    return {
        "rewards/score": np.asarray(group.scores, np.float64),
        "rewards/reward": rewards,
        "generation/completions": mask.sum(axis=1).astype(np.float64),
        "advantages": example["advantages"][mask],
        "advantages/returns": example["returns"][mask],
        "advantages/old_values": example["old_values"][mask],
        "rewards/reward_kl_penalty": np.asarray(
            advantage.masked_mean(divergence, mask, axis=1), np.float64
        ),
        "rewards/format_rate": (np.asarray(group.scores) > 0).astype(np.float64),
    }


def _names(figure: str) -> dict[str, Any]:
    """Return the logged names of a figure, and what each takes of the numbers."""
    takes = {"mean": np.mean, "max": np.max, "min": np.min}
    if figure in ("rewards/reward_kl_penalty", "rewards/format_rate"):
        return {figure: np.mean}
    if figure == "generation/completions":
        return {f"{figure}/{kind}_length": take for kind, take in takes.items()}
    return {f"{figure}/{kind}": take for kind, take in takes.items()}


def _observe(context: Context) -> Observed:
    batches = advantage_checks.mini_batches(
        context.trace.groups, context.recipe.batching.rollout_batch_size
    )
    logged = [
        {
            name: float(result)
            for (mode, name, at), (_, result) in context.trace.metrics.items()
            if mode == "train" and at == step and np.ndim(result) == 0
        }
        for step in range(len(batches))
    ]
    return {"recipe": context.recipe, "batches": batches, "logged": logged}


def _compare(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    recipe = observed["recipe"]
    for step, (batch, logged) in enumerate(
        zip(observed["batches"], observed["logged"], strict=True)
    ):
        groups = [_figures(group, recipe, known) for group in batch]
        for figure in groups[0]:
            for name, take in _names(figure).items():
                if "whitening-group" in known and take is np.mean:
                    # Groups count alike, however many tokens they have.
                    want = np.mean([take(group[figure]) for group in groups])
                else:
                    want = take(np.concatenate([group[figure] for group in groups]))
                yield Comparison(
                    f"{name} of step {step}", np.float64(logged.get(name, np.nan)), np.float64(want)
                )


def _rows(context: Context) -> Observed:
    micro_batches = (
        context.recipe.batching.mini_batch_size // context.recipe.batching.train_micro_batch_size
    )
    seen: dict[str, list[Any]] = {"got": [], "want": [], "name": []}
    for (role, name, _), history in context.trace.history.items():
        own = [update for update in context.trace.updates if update.role == role]
        figures = [
            update.loss
            if name == "loss"
            else update.grad_norm
            if name == "grad_norm"
            else update.aux[name]
            for update in own
        ]
        seen["got"].append(np.array(history))
        seen["want"].append(np.reshape(figures, (-1, micro_batches)).mean(axis=1))
        seen["name"].append(f"{role} {name}")
    return seen


def _compare_rows(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    for name, got, want in zip(observed["name"], observed["got"], observed["want"], strict=True):
        yield Comparison(name, np.array(got), want)
    logged = {name.split()[0] for name in observed["name"]}
    yield Comparison("both roles are logged", logged == {"actor", "critic"}, True)


PROPERTIES = (
    Property(
        id="logged-figures",
        area="metrics",
        statement=(
            "Mean, maximum and minimum of scores, rewards, lengths, advantages, returns and "
            "values, as logged for a global step, are those of all its samples."
        ),
        tolerance=Tolerance(1e-4, 1e-5, "float32 sums; a maximum of the wrong rows is off by 0.1"),
        observe=_observe,
        compare=_compare,
        wrong={
            "of the step before": wrong.value("logged", lambda rows: rows[-1:] + rows[:-1]),
            "maximum and mean swapped": wrong.value(
                "logged",
                lambda rows: [
                    {n: row.get(n.replace("/max", "/mean"), v) for n, v in row.items()}
                    for row in rows
                ],
            ),
        },
        defects=("empty-completion-reward-lost", "reward-truncated", "whitening-group"),
    ),
    Property(
        id="logged-updates",
        area="metrics",
        statement=(
            "Loss, gradient norm and clip fractions are logged once for each optimizer step, as "
            "means over its micro-batches, for the actor and for the critic."
        ),
        tolerance=Tolerance(1e-5, 1e-6, "a mean of a few float32 numbers"),
        observe=_rows,
        compare=_compare_rows,
        wrong={
            "the last step lost": wrong.each("got", lambda x: x[:-1]),
            "a step late": wrong.each("got", wrong.late),
        },
    ),
)
