"""Rewards, returns and advantages of the recorded run."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from harness import upstream
from harness.checks import context as context_lib
from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.property import Comparison, Observed, Property, Tolerance
from harness.oracle import advantage, rollout

_FLOAT32 = Tolerance(
    1e-4, 1e-4, "float32 sums over eight tokens; a wrong token or discount is off by 1e-2 or more"
)


def token_rewards(group: Any, recipe: Any, known: Collection[str]) -> np.ndarray:
    """Return the oracle's rewards [G, T] of a group, from its own log-probs and scores.

    Args:
      group: Of a trace.
      recipe: The algorithm's numbers.
      known: Ids of defects that are taken for granted.

    Returns:
      float64, 0 at positions that are not real; a row without tokens has no reward.
    """
    example = group.example
    mask = example["completion_mask"].astype(bool)
    scores = np.trunc(group.scores) if "reward-truncated" in known else group.scores
    found = np.zeros(mask.shape)
    rows = mask.any(axis=1)
    found[rows] = rollout.token_rewards(
        scores[rows],
        mask[rows],
        example["old_per_token_logps"][rows],
        example["ref_per_token_logps"][rows],
        recipe.ppo.beta,
        recipe.ppo.kl_method,
    )
    return found


def mini_batches(groups: Sequence[Any], rows: int) -> list[list[Any]]:
    """Gather the training groups behind each optimizer step's first epoch.

    Args:
      groups: Of a trace, in order.
      rows: Sequences in a mini-batch.

    Returns:
      Lists of groups that make a mini-batch each.
    """
    found: list[list[Any]] = []
    room = 0
    for group in groups:
        if group.evaluation:
            continue
        if not room:
            found.append([])
            room = rows
        found[-1].append(group)
        room -= len(group.scores)
    return found


def _observe(context: Context) -> Observed:
    batches = mini_batches(context.trace.groups, context.recipe.batching.mini_batch_size)
    flat = [group for batch in batches for group in batch]
    return {
        "recipe": context.recipe,
        "batches": batches,
        "scores": [group.scores for group in flat],
        "returns": [group.example["returns"] for group in flat],
        "advantages": [group.example["advantages"] for group in flat],
    }


def _compare_scores(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    groups = [group for batch in observed["batches"] for group in batch]
    for index, (group, got) in enumerate(zip(groups, observed["scores"], strict=True)):
        want = context_lib.reward(completions=group.completions, **group.columns)
        yield Comparison(f"scores of group {index}", np.array(got), np.array(want))
    every = np.concatenate(observed["scores"])
    kinds = bool(np.any(every < 0) and np.any(every % 1))
    yield Comparison("some are negative, some are fractions", kinds, True)


def _compare_returns(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    recipe = observed["recipe"]
    groups = [group for batch in observed["batches"] for group in batch]
    for index, (group, got) in enumerate(zip(groups, observed["returns"], strict=True)):
        mask = group.example["completion_mask"].astype(bool)
        _, want = advantage.gae(
            token_rewards(group, recipe, known),
            group.example["old_values"],
            mask,
            recipe.ppo.gamma,
            recipe.ppo.gae_lambda,
        )
        yield Comparison(f"returns of group {index}", np.array(got)[mask], want[mask])


def _compare_advantages(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    recipe = observed["recipe"]
    got = iter(observed["advantages"])
    for index, batch in enumerate(observed["batches"]):
        raw, masks = [], []
        for group in batch:
            mask = group.example["completion_mask"].astype(bool)
            found, _ = advantage.gae(
                token_rewards(group, recipe, known),
                group.example["old_values"],
                mask,
                recipe.ppo.gamma,
                recipe.ppo.gae_lambda,
            )
            raw.append(found)
            masks.append(mask)
        if "whitening-group" in known:
            want = np.concatenate(
                [advantage.whiten(one, mask) for one, mask in zip(raw, masks, strict=True)]
            )
        else:
            want = advantage.whiten(np.concatenate(raw), np.concatenate(masks))
        mask = np.concatenate(masks)
        mine = np.concatenate([next(got) for _ in batch])
        yield Comparison(f"advantages of mini-batch {index}", mine[mask], want[mask])


def _length(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    del prompts, columns
    return [len(text) / 4 for text in completions]


def _penalty(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    del completions, columns
    return [-0.3 * len(text) for text in prompts]


def _observe_several(context: Context) -> Observed:
    del context
    prompts, completions = ["a", "bcd", "ef"], ["1", "", "23456"]
    total, logged = upstream.total_rewards([_length, _penalty], prompts, completions)
    asked = [np.array(each(prompts, completions)) for each in (_length, _penalty)]
    return {
        "asked": asked,
        "got": [
            total,
            logged["rewards/sum"],
            logged["rewards/_length"],
            logged["rewards/_penalty"],
        ],
    }


def _compare_several(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    length, penalty = observed["asked"]
    wanted = {
        "their sum": length + penalty,
        "the logged sum": np.mean(length + penalty),
        "the logged mean of the first": np.mean(length),
        "the logged mean of the second": np.mean(penalty),
    }
    for (what, want), got in zip(wanted.items(), observed["got"], strict=True):
        yield Comparison(what, np.array(got, np.float64), np.array(want))


PROPERTIES = (
    Property(
        id="several-rewards",
        area="reward",
        statement="Several reward functions add up, row by row, and each is logged by its name.",
        tolerance=Tolerance(1e-9, 1e-9, "float64 sums of two numbers"),
        observe=_observe_several,
        compare=_compare_several,
        wrong={
            "their mean": wrong.each("got", lambda x: x / 2),
            "the first alone": lambda seen: {**seen, "got": [seen["asked"][0], *seen["got"][1:]]},
            "swapped": lambda seen: {
                **seen,
                "got": [*seen["got"][:2], seen["got"][3], seen["got"][2]],
            },
        },
    ),
    Property(
        id="scores",
        area="reward",
        statement=(
            "The reward function is asked about the very completions, row by row with their "
            "columns, and its figures are kept whole."
        ),
        tolerance=Tolerance(1e-6, 1e-6, "a float64 figure, at most rounded to float32"),
        observe=_observe,
        compare=_compare_scores,
        wrong={
            "of another row": wrong.each("scores", wrong.next_row),
            "cut to integers": wrong.each("scores", np.trunc),
        },
    ),
    Property(
        id="returns",
        area="advantage",
        statement=(
            "The score falls on the last real token, the divergence is charged token by token, "
            "and the returns are generalised advantages plus values."
        ),
        tolerance=_FLOAT32,
        observe=_observe,
        compare=_compare_returns,
        wrong={
            "of the token after": wrong.each("returns", wrong.late),
            "of another row": wrong.each("returns", wrong.next_row),
            "negated": wrong.each("returns", lambda x: -x),
            "the advantages": lambda seen: {**seen, "returns": seen["advantages"]},
        },
        defects=("reward-truncated",),
    ),
    Property(
        id="advantages",
        area="advantage",
        statement=(
            "Advantages have mean 0 and variance 1 over the real tokens of a mini-batch, however "
            "rollouts and log-probs are cut into micro-batches."
        ),
        tolerance=_FLOAT32,
        observe=_observe,
        compare=_compare_advantages,
        wrong={
            "of the token after": wrong.each("advantages", wrong.late),
            "of another row": wrong.each("advantages", wrong.next_row),
            "not whitened": wrong.each("advantages", lambda x: 2 * x + 0.1),
            "the returns": lambda seen: {**seen, "advantages": seen["returns"]},
        },
        defects=("reward-truncated", "whitening-group"),
    ),
)
