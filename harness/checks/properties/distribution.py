"""Sampling: by which distribution tokens are drawn, and with which noise."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats

from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.properties.completions import (
    as_table,
    cut_at_stop,
    handed_on,
    prompts_of,
    stop_and_pad_ids,
)
from harness.checks.property import EXACT, Comparison, Observed, Property, Tolerance
from harness.oracle import rollout as rollout_lib
from harness.oracle import sampling as oracle_sampling
from harness.upstream.instrument import sampling

_LEVEL = 1e-6

NARROW = {"temperature": 0.5, "top_k": 6, "top_p": 0.8}

FORWARD = Tolerance(
    1e-4,
    1e-4,
    "two float32 forward passes differ by some 1e-6; another token by far more",
)


@dataclasses.dataclass(frozen=True)
class _Case:
    """Single draws, and the logits behind each.

    Attributes:
      what: What they are.
      logits: [U, V].
      at: [N] which of the logits each was drawn from.
      tokens: [N] what was drawn.
      rows: [N] number of the row of each, positions of a row in order.
      distribution: Temperature, top-k and top-p.
    """

    what: str
    logits: np.ndarray
    at: np.ndarray
    tokens: np.ndarray
    rows: np.ndarray
    distribution: tuple[float, int | None, float | None]


def case_of(
    context: Context, what: str, draws: Sequence[sampling.Draws], weights: Any, **settings: Any
) -> _Case:
    """Gather the draws of completions, ends included, with the oracle's logits of each."""
    ids = stop_and_pad_ids(context)
    plain = context.recipe.rollout
    distribution = [
        settings.get(each, getattr(plain, each)) for each in ("temperature", "top_k", "top_p")
    ]
    inputs = [np.concatenate([each.prompt_ids, each.written], axis=1) for each in draws]
    width = draws[0].prompt_ids.shape[1]
    written = np.concatenate(inputs)[:, width:]
    # What the last token is makes no difference to the logits behind any.
    known, at = np.unique(np.concatenate(inputs)[:, :-1], axis=0, return_inverse=True)
    last = np.zeros((len(known), 1), known.dtype)
    sequences = known[:, :width], np.concatenate([known[:, width:], last], axis=1)
    logits = context.replay.logits(context.replay.policy(weights), *sequences)
    length = written.shape[1]
    positions = at.reshape(-1, 1) * length + np.arange(length)
    rows = np.repeat(np.arange(len(written))[:, None], length, axis=1)
    real_tokens = rollout_lib.completion_mask(
        [len(cut_at_stop(row, ids, ())) for row in written], length
    )
    return _Case(
        what=what,
        logits=logits.reshape(-1, logits.shape[-1]),
        at=positions[real_tokens],
        tokens=written[real_tokens],
        rows=rows[real_tokens],
        distribution=(distribution[0], distribution[1], distribution[2]),
    )


def _chances(case: _Case, known: Collection[str]) -> np.ndarray:
    """Return the distribution [L, V] of each position, as known defects leave it."""
    temperature, top_k, top_p = case.distribution
    chances = oracle_sampling.distribution(case.logits, temperature, top_k, top_p)
    if "nucleus-beside-top-k" not in known:
        return chances
    # The nucleus of all tokens, and of it what top_k leaves.
    nucleus = oracle_sampling.distribution(case.logits, temperature, None, top_p) > 0
    chances = oracle_sampling.distribution(case.logits, temperature, top_k, None) * nucleus
    return chances / chances.sum(axis=1, keepdims=True)


def _distribution_ratio(case: _Case, chances: np.ndarray) -> float:
    """Return Pearson's statistic over its bound, by rank of likelihood.

    The draws differ in their distributions, so that what is counted is how often one of
    the likeliest tokens was drawn, one of the next and so on, in some 20 cells
    of equal chance. Counts of unlike draws scatter less than those of equal
    ones: the bound holds all the more.
    """
    if not chances[case.at, case.tokens].all():
        return np.inf
    order = np.argsort(-case.logits, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1)[case.at, case.tokens]
    of_rank = np.take_along_axis(chances, order, axis=1)
    expected = np.bincount(case.at, minlength=len(chances)) @ of_rank / len(case.at)
    cells = np.minimum((np.cumsum(expected) - expected) * 20, 19).astype(int)
    statistic, degrees = oracle_sampling.chi_square(
        np.bincount(cells[ranks], minlength=20), np.bincount(cells, expected, minlength=20)
    )
    return statistic / float(stats.chi2.isf(_LEVEL, degrees))


def _repeats_ratio(case: _Case, chances: np.ndarray) -> float:
    """Return how often a token follows itself, less what is expected, over its bound.

    Bernstein's inequality bounds a sum of independent events of total variance v:
    it passes its mean by t with a probability of at most exp(-t^2 / (2 v + 2 t / 3)).
    """
    follows = np.flatnonzero(case.rows[1:] == case.rows[:-1]) + 1
    if not follows.size:
        return 0.0
    before = case.tokens[follows - 1]
    chance = chances[case.at[follows], before]
    spread, nats = np.sum(chance * (1 - chance)), -np.log(_LEVEL)
    bound = nats / 3 + np.sqrt(nats**2 / 9 + 2 * spread * nats)
    return float(np.sum(case.tokens[follows] == before) - np.sum(chance)) / bound


def _observe_distribution(context: Context) -> Observed:
    cluster, prompts = context.components.cluster, prompts_of(context)
    weights = sampling.weights(cluster)
    plain = [sampling.draw(cluster, prompts, seed=seed) for seed in range(100, 124)]
    return {
        "cases": [
            case_of(context, "plain draws", plain, weights),
            case_of(
                context,
                "draws of a nucleus",
                narrow_draws(context, seeds=(1, 2, 3)),
                weights,
                **NARROW,
            ),
        ]
    }


def narrow_draws(context: Context, seeds: Sequence[int]) -> list[sampling.Draws]:
    """Draw the first token of 4 prompts, 128 times each, and nothing after it."""
    return [
        sampling.draw(
            context.components.cluster,
            prompts_of(context) * 128,
            max_tokens_to_generate=1,
            seed=seed,
            **NARROW,
        )
        for seed in seeds
    ]


def _compare_distribution(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    for case in observed["cases"]:
        of = case, _chances(case, known)
        yield Comparison(
            f"chi-square of {case.what}, over its bound", _distribution_ratio(*of), 0.0
        )
        yield Comparison(f"repetitions in {case.what}, over their bound", _repeats_ratio(*of), 0.0)


def _redrawn(index: int, *distribution: Any) -> Callable[[Observed], Observed]:
    """Draw the tokens of a case anew, by another distribution."""

    def changed(observed: Observed) -> Observed:
        cases = list(observed["cases"])
        cases[index] = _drawn(cases[index], distribution)
        return {**observed, "cases": cases}

    return changed


def _drawn(case: _Case, distribution: Sequence[Any]) -> _Case:
    chances = oracle_sampling.distribution(case.logits, *distribution)
    below = np.cumsum(chances, axis=1) / chances.sum(axis=1, keepdims=True)
    heights = np.random.default_rng(0).random(len(case.at))
    tokens = [
        np.searchsorted(below[at], height, side="right")
        for at, height in zip(case.at, heights, strict=True)
    ]
    return dataclasses.replace(case, tokens=np.array(tokens))


def _one_noise(observed: Observed) -> Observed:
    """Draw each token of a row with the noise of its first."""
    case, *rest = observed["cases"]
    noise = np.random.default_rng(0).gumbel(size=(case.rows[-1] + 1, case.logits.shape[1]))
    tokens = np.argmax(case.logits[case.at] / case.distribution[0] + noise[case.rows], axis=1)
    return {**observed, "cases": [dataclasses.replace(case, tokens=tokens), *rest]}


def _observe_greedy(context: Context) -> Observed:
    cluster = context.components.cluster
    drawn = sampling.draw(cluster, prompts_of(context), top_k=1)
    policy = context.replay.policy(sampling.weights(cluster))
    return {
        **stop_and_pad_ids(context),
        "logits": context.replay.logits(policy, drawn.prompt_ids, drawn.written),
        "written": drawn.written,
        "tokens": drawn.tokens,
    }


def _compare_greedy(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    got, want, rows = [], [], []
    for logits, written in zip(observed["logits"], observed["written"], strict=True):
        cut = cut_at_stop(written, observed, known)
        got.append(logits[np.arange(len(cut)), cut])
        want.append(logits[: len(cut)].max(axis=1))
        rows.append(handed_on(written, observed, known))
    # The logits, not the ids: two may be equal to within rounding.
    yield Comparison(
        "logits of the tokens, and the largest", np.concatenate(got), np.concatenate(want)
    )
    tokens, width = observed["tokens"], observed["written"].shape[1]
    yield Comparison("tokens handed on", as_table(tokens, width), as_table(rows, width))


def _observe_no_nucleus(context: Context) -> Observed:
    cluster = context.components.cluster
    prompts = prompts_of(context)
    draws = [sampling.draw(cluster, prompts, top_p=None, seed=seed) for seed in range(16)]
    what = "draws without a nucleus"
    return {"cases": [case_of(context, what, draws, sampling.weights(cluster), top_p=None)]}


def _compare_no_nucleus(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    (case,) = observed["cases"]
    if "top-p-none-greedy" in known:
        found = case.logits[case.at, case.tokens]
        best = found >= case.logits.max(axis=1)[case.at] - FORWARD.absolute
        yield Comparison("each token is the likeliest", best, np.ones_like(best))
        return
    for what, ratio in (("chi-square", _distribution_ratio), ("repetitions", _repeats_ratio)):
        found = ratio(case, _chances(case, known))
        yield Comparison(f"{what} of {case.what} within bounds", found <= 1, True)


def _observe_noise(context: Context) -> Observed:
    prompts = prompts_of(context)[:1] * 8
    calls = [
        sampling.draw(context.components.cluster, prompts, micro_batch=4).written for _ in range(2)
    ]
    return {"written": np.concatenate(calls)}


def _compare_noise(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    written = observed["written"]
    got = (written[:, None] == written[None]).all(axis=-1)
    call, part, row = np.unravel_index(np.arange(len(written)), (2, 2, len(written) // 4))
    noise = row
    if "noise-repeats" not in known:
        noise = noise + 100 * call
    if "noise-shared-by-micro-batches" not in known:
        noise = noise + 10 * part
    yield Comparison("which rows of two calls are alike", got, noise[:, None] == noise[None])


def _alike(*noises: int) -> Callable[[Observed], Observed]:
    """Return rows that are alike where the numbers of their noise are."""

    def changed(observed: Observed) -> Observed:
        rng = np.random.default_rng(0)
        table = rng.integers(10, 400, (max(noises) + 1, observed["written"].shape[1]))
        return {**observed, "written": table[list(noises)]}

    return changed


def _observe_seeds(context: Context) -> Observed:
    def drawn(seed: Any) -> np.ndarray:
        return sampling.draw(context.components.cluster, prompts_of(context), seed=seed).written

    def relation(first: np.ndarray, second: np.ndarray) -> str:
        return "the same" if np.array_equal(first, second) else "others"

    plain, key = drawn(11), sampling.key(13)
    keyed = drawn(key)
    try:
        again = relation(keyed, drawn(key))
    except (RuntimeError, ValueError) as error:
        if not {"deleted", "donated"} & set(str(error).replace(".", " ").split()):
            raise
        again = "none: the key is gone"
    return {
        "integer again": relation(plain, drawn(11)),
        "another integer": relation(plain, drawn(12)),
        "key again": again,
        "another key": relation(keyed, drawn(sampling.key(14))),
    }


def _compare_seeds(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    gone = "seed-array-donated" in known
    want = {
        "integer again": "the same",
        "another integer": "others",
        "key again": "none: the key is gone" if gone else "the same",
        "another key": "others",
    }
    for name, completions in want.items():
        yield Comparison(f"completions of {name}", observed[name], completions)


PROPERTIES = (
    Property(
        id="greedy",
        area="rollout",
        statement="With top-k 1 each token is the likeliest after those before it.",
        tolerance=FORWARD,
        observe=_observe_greedy,
        compare=_compare_greedy,
        wrong={
            "of the position before": wrong.value("logits", lambda x: np.roll(x, 1, axis=1)),
            "of another row": wrong.value("logits", wrong.next_row),
            "a token too many": lambda seen: {
                **seen,
                "tokens": [
                    np.append(row, seen["pad"]) if len(row) < seen["written"].shape[1] else row[:-1]
                    for row in seen["tokens"]
                ],
            },
        },
        defects=("end-token-dropped", "pad-mid-sequence", "pad-not-trained"),
    ),
    Property(
        id="draws-follow-the-law",
        area="rollout",
        statement=(
            "Tokens are drawn with the probabilities that temperature, top-k and top-p leave, "
            "each with noise of its own."
        ),
        tolerance=Tolerance(0, 1, "a right sampler passes its bound once in a million runs"),
        observe=_observe_distribution,
        compare=_compare_distribution,
        wrong={
            "at temperature 1": _redrawn(0, 1.0),
            "one noise for all tokens of a row": _one_noise,
            "of a nucleus at temperature 1": _redrawn(1, 1.0, 6, 0.8),
            "without top-k": _redrawn(1, 0.5, None, 0.8),
            "one more than top-k": _redrawn(1, 0.5, 7, 0.8),
            "one less than top-k": _redrawn(1, 0.5, 5, 0.8),
            "of a nucleus at temperature 0.65": _redrawn(1, 0.65, 6, 0.8),
            "without top-p": _redrawn(1, 0.5, 6, None),
            "top-p of the whole, then top-k": _redrawn(1, 0.5, 6, 0.5),
        },
        defects=("nucleus-beside-top-k",),
    ),
    Property(
        id="noise-is-fresh",
        area="randomness",
        statement=(
            "Without a configured seed, all rows of one prompt differ: within a micro-batch, "
            "between those of one generation, and from one generation to the next."
        ),
        tolerance=EXACT,
        observe=_observe_noise,
        compare=_compare_noise,
        wrong={
            "rows alike": _alike(*[0] * 4, *[1] * 4, *[2] * 4, *[3] * 4),
            "only micro-batches alike": _alike(*range(4), *range(4), *range(4, 8), *range(4, 8)),
            "only calls alike": _alike(*range(8), *range(8)),
            "two rows alike": _alike(0, 0, *range(1, 15)),
        },
        defects=("noise-repeats", "noise-shared-by-micro-batches"),
    ),
    Property(
        id="seeds-are-kept",
        area="randomness",
        statement="A configured seed, an integer or a key, decides the completions every time.",
        tolerance=EXACT,
        observe=_observe_seeds,
        compare=_compare_seeds,
        wrong={
            "any seed gives the same": wrong.value("another integer", lambda _: "the same"),
            "any key gives the same": wrong.value("another key", lambda _: "the same"),
            "a seed gives others each time": wrong.value("integer again", lambda _: "others"),
            "a key gives others each time": wrong.value("key again", lambda _: "others"),
        },
        defects=("seed-array-donated",),
    ),
    Property(
        id="top-p-none",
        area="rollout",
        statement="With top-p none, tokens are drawn from all, by the temperature alone.",
        tolerance=EXACT,
        observe=_observe_no_nucleus,
        compare=_compare_no_nucleus,
        wrong={
            "at temperature 1": _redrawn(0, 1.0),
            "likeliest ten": _redrawn(0, 0.7, 10),
        },
        defects=("top-p-none-greedy",),
    ),
)
