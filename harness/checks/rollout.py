"""Rollouts: which tokens are handed on, when decoding stops, and by which distribution it draws."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats

from harness import upstream
from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.property import EXACT, Comparison, Observed, Property, Tolerance
from harness.oracle import logprob
from harness.oracle import rollout as rollout_lib
from harness.oracle import sampling as oracle_sampling
from harness.upstream.instrument import sampling

_LEVEL = 1e-6
# Under a higher temperature than this the few tokens that are left are nearly
# alike, and another temperature would not show.
_PADS_GO_ON = {"pad-mid-sequence", "pad-not-trained"}
_NARROW = {"temperature": 0.5, "top_k": 6, "top_p": 0.8}
_FORWARD = Tolerance(
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
      rows: [N] number of the row of each, places of a row in order.
      distribution: Temperature, top-k and top-p.
    """

    what: str
    logits: np.ndarray
    at: np.ndarray
    tokens: np.ndarray
    rows: np.ndarray
    distribution: tuple[float, int | None, float | None]


def _prompts(context: Context) -> list[str]:
    """Return 4 prompts of unequal length; one fills its row."""
    encode, width = context.components.tokenizer.encode, context.recipe.rollout.max_prompt_length
    batch = next(iter(context.components.dataset.train))
    texts = [str(prompt) for prompt in batch["prompts"][:4]]
    while len(encode(texts[1])) + 1 < width:
        texts[1] += " coins"
    return [texts[0], texts[1], texts[2][: len(texts[2]) // 2], texts[3][: len(texts[3]) // 4]]


def _ids(context: Context) -> Observed:
    tokenizer = context.components.tokenizer
    ends = tokenizer.end_ids(context.recipe.rollout.stop_tokens)
    return {"ends": tuple(ends), "pad": tokenizer.pad_id()}


def _cut(row: np.ndarray, observed: Observed, known: Collection[str]) -> np.ndarray:
    """Return the completion that was drawn, its end included; a drawn pad ends it too."""
    pad = () if _PADS_GO_ON & set(known) else (observed["pad"],)
    return rollout_lib.cut_after_end(row, (*observed["ends"], *pad))


def _ended(cut: np.ndarray, observed: Observed, known: Collection[str]) -> bool:
    pad = () if _PADS_GO_ON & set(known) else (observed["pad"],)
    return bool(np.isin(cut[-1], [*observed["ends"], *pad]))


def _handed_on(row: np.ndarray, observed: Observed, known: Collection[str]) -> np.ndarray:
    cut = _cut(row, observed, known)
    dropped = "end-token-dropped" in known and _ended(cut, observed, known)
    return cut[:-1] if dropped else cut


def _table(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    # No id is -1, so that lengths are compared too.
    return rollout_lib.pad_right(rows, width, -1)


def _by_row(
    name: str, change: Callable[[Observed, int, int], Any]
) -> Callable[[Observed], Observed]:
    """Change what was observed of each row of each generation."""

    def changed(observed: Observed) -> Observed:
        return {
            **observed,
            name: [
                [change(observed, index, row) for row in range(len(rows))]
                for index, rows in enumerate(observed[name])
            ],
        }

    return changed


# Completions.


def _observe_completions(context: Context) -> Observed:
    trace = context.trace
    starts = [0, *(group.generations for group in trace.groups)]
    return {
        **_ids(context),
        "decode": context.components.tokenizer.decode,
        "length": context.recipe.rollout.max_new_tokens,
        "written": [each.buffer[:, each.prompt_ids.shape[1] :] for each in trace.generations],
        "prompts": [each.prompt_ids for each in trace.generations],
        "of": [slice(a, b) for a, b in itertools.pairwise(starts)],
        "tokens": [each.tokens for each in trace.generations],
        "texts": [each.texts for each in trace.generations],
        "ids": [group.example["completion_ids"] for group in trace.groups],
        "masks": [group.example["completion_mask"] for group in trace.groups],
        "prompt_ids": [group.example["prompt_ids"] for group in trace.groups],
    }


def _compare_completions(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    length, pad = observed["length"], observed["pad"]
    kept = []
    for index, written in enumerate(observed["written"]):
        tokens = observed["tokens"][index]
        want = [_handed_on(row, observed, known) for row in written]
        width = max(length, *map(len, tokens))
        yield Comparison(
            f"tokens of generation {index}", _table(tokens, width), _table(want, width)
        )
        texts = []
        for row in written:
            cut = _cut(row, observed, known)
            texts.append(observed["decode"](cut[:-1] if _ended(cut, observed, known) else cut))
        yield Comparison(f"texts of generation {index}", observed["texts"][index], texts)
        kept.append(want)
    for index, of in enumerate(observed["of"]):
        rows = [row for part in kept[of] for row in part]
        ids = rollout_lib.pad_right(rows, length, pad)
        mask = rollout_lib.completion_mask([len(row) for row in rows], length) & (ids != pad)
        prompts = np.concatenate(observed["prompts"][of])
        yield Comparison(f"completions of group {index}", observed["ids"][index], ids)
        yield Comparison(f"mask of group {index}", observed["masks"][index] != 0, mask)
        yield Comparison(f"prompts of group {index}", observed["prompt_ids"][index], prompts)
    lengths = [len(row) for rows in kept for row in rows]
    found = [max(lengths) == length, min(lengths) < length]
    yield Comparison("a full completion, and a short one", found, [True, True])


def _observe_stops(context: Context) -> Observed:
    width, ids = context.recipe.rollout.max_prompt_length, _ids(context)
    calls = [(each.buffer[:, width:], each.last_place) for each in context.trace.generations]
    length = calls[0][0].shape[1]
    # A call stops early only if its last row does.
    for seed in range(50):
        cuts = [len(rollout_lib.cut_after_end(row, ids["ends"])) for row in calls[-1][0]]
        if max(cuts) < length and seed:
            break
        drawn = sampling.draw(context.components.cluster, _prompts(context), seed=seed)
        calls.append((drawn.written, drawn.last_places[0]))
    return {
        **ids,
        "width": width,
        "length": length,
        "written": [written for written, _ in calls],
        "got": [np.array(place) for _, place in calls],
    }


def _compare_stops(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    longest = []
    for index, (written, got) in enumerate(zip(observed["written"], observed["got"], strict=True)):
        cuts = [_cut(row, observed, known) for row in written]
        longest.append(max(map(len, cuts)))
        want = observed["width"] + longest[-1] - 1
        if "decode-one-too-many" in known:
            want += not all(_ended(cut, observed, known) for cut in cuts)
        yield Comparison(f"last place of call {index}", got, want)
    found = [max(longest) == observed["length"], min(longest) < observed["length"]]
    yield Comparison("a call to the limit, and one that stops before", found, [True, True])


# Prompts.


def _observe_prompts(context: Context) -> Observed:
    trace, dataset, tokenizer = (
        context.trace,
        context.components.dataset,
        context.components.tokenizer,
    )
    names = ("prompts", "question", "answer")
    columns = {}
    for evaluation, batches in ((False, dataset.train), (True, dataset.validation)):
        groups = [group for group in trace.groups if group.evaluation == evaluation]
        given = [dict(batch) for batch in batches or ()]
        for name in names:
            columns[evaluation, name] = (
                [str(each) for group in groups for each in group.columns[name]],
                [str(each) for batch in given for each in batch[name]],
            )
    starts = [0, *(group.generations for group in trace.groups)]
    unequal = _prompts(context)
    return {
        "pad": tokenizer.pad_id(),
        "encode": lambda text: [tokenizer.bos_id(), *tokenizer.encode(text)],
        "columns": columns,
        "asked": [
            [text for each in trace.generations[a:b] for text in each.prompts]
            for a, b in itertools.pairwise(starts)
        ],
        "groups": [[str(each) for each in group.columns["prompts"]] for group in trace.groups],
        "texts": [*(each.prompts for each in trace.generations), unequal],
        "got": [
            *(each.prompt_ids for each in trace.generations),
            sampling.draw(context.components.cluster, unequal, seed=0).prompt_ids,
        ],
        "width": context.recipe.rollout.max_prompt_length,
        "too long": _too_long(context),
    }


def _too_long(context: Context) -> str:
    prompts = [prompt * 2 for prompt in _prompts(context)]
    try:
        drawn = sampling.draw(context.components.cluster, prompts, seed=0)
    except ValueError:
        return "refused"
    encode, width = context.components.tokenizer.encode, drawn.prompt_ids.shape[1]
    return "cut" if max(len(encode(prompt)) + 1 for prompt in prompts) > width else "whole"


def _compare_prompts(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    for (evaluation, name), (got, given) in observed["columns"].items():
        # Validation begins anew each time.
        times = len(got) // len(given) if evaluation else 1
        kind = "validation" if evaluation else "training"
        yield Comparison(f"{name} in {kind}", got, given * times)
    for index, (asked, given) in enumerate(zip(observed["asked"], observed["groups"], strict=True)):
        yield Comparison(f"prompts asked for group {index}", asked, given)
    lengths = set()
    for index, (texts, got) in enumerate(zip(observed["texts"], observed["got"], strict=True)):
        rows = [observed["encode"](text) for text in texts]
        want = rollout_lib.pad_left(rows, observed["width"], observed["pad"])
        yield Comparison(f"prompt ids of generation {index}", got, want)
        lengths |= {len(row) for row in rows}
    found = [len(lengths) > 2, max(lengths) == observed["width"]]
    yield Comparison("prompts of several lengths, and one that fills its row", found, [True, True])
    yield Comparison("a prompt too long was cut", observed["too long"] == "cut", False)


# Distributions.


def _case(
    context: Context, what: str, draws: Sequence[sampling.Draws], weights: Any, **settings: Any
) -> _Case:
    """Gather the draws of completions, ends included, with the oracle's logits of each."""
    ids = _ids(context)
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
    places = at.reshape(-1, 1) * length + np.arange(length)
    rows = np.repeat(np.arange(len(written))[:, None], length, axis=1)
    kept = rollout_lib.completion_mask([len(_cut(row, ids, ())) for row in written], length)
    return _Case(
        what=what,
        logits=logits.reshape(-1, logits.shape[-1]),
        at=places[kept],
        tokens=written[kept],
        rows=rows[kept],
        distribution=(distribution[0], distribution[1], distribution[2]),
    )


def _chances(case: _Case, known: Collection[str]) -> np.ndarray:
    """Return the distribution [L, V] of each place, as known defects leave it."""
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
    cluster, prompts = context.components.cluster, _prompts(context)
    weights = sampling.weights(cluster)
    plain = [sampling.draw(cluster, prompts, seed=seed) for seed in range(100, 124)]
    return {
        "cases": [
            _case(context, "plain draws", plain, weights),
            _case(
                context, "draws of a nucleus", _narrow(context, seeds=(1, 2, 3)), weights, **_NARROW
            ),
        ]
    }


def _narrow(context: Context, seeds: Sequence[int]) -> list[sampling.Draws]:
    """Draw the first token of 4 prompts, 128 times each, and nothing after it."""
    return [
        sampling.draw(
            context.components.cluster,
            _prompts(context) * 128,
            max_tokens_to_generate=1,
            seed=seed,
            **_NARROW,
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
    drawn = sampling.draw(cluster, _prompts(context), top_k=1)
    policy = context.replay.policy(sampling.weights(cluster))
    return {
        **_ids(context),
        "logits": context.replay.logits(policy, drawn.prompt_ids, drawn.written),
        "written": drawn.written,
        "tokens": drawn.tokens,
    }


def _compare_greedy(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    got, want, rows = [], [], []
    for logits, written in zip(observed["logits"], observed["written"], strict=True):
        cut = _cut(written, observed, known)
        got.append(logits[np.arange(len(cut)), cut])
        want.append(logits[: len(cut)].max(axis=1))
        rows.append(_handed_on(written, observed, known))
    # The logits, not the ids: two may be equal to within rounding.
    yield Comparison(
        "logits of the tokens, and the largest", np.concatenate(got), np.concatenate(want)
    )
    tokens, width = observed["tokens"], observed["written"].shape[1]
    yield Comparison("tokens handed on", _table(tokens, width), _table(rows, width))


def _observe_no_nucleus(context: Context) -> Observed:
    cluster = context.components.cluster
    prompts = _prompts(context)
    draws = [sampling.draw(cluster, prompts, top_p=None, seed=seed) for seed in range(16)]
    what = "draws without a nucleus"
    return {"cases": [_case(context, what, draws, sampling.weights(cluster), top_p=None)]}


def _compare_no_nucleus(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    (case,) = observed["cases"]
    if "top-p-none-greedy" in known:
        found = case.logits[case.at, case.tokens]
        best = found >= case.logits.max(axis=1)[case.at] - _FORWARD.absolute
        yield Comparison("each token is the likeliest", best, np.ones_like(best))
        return
    for what, ratio in (("chi-square", _distribution_ratio), ("repetitions", _repeats_ratio)):
        found = ratio(case, _chances(case, known))
        yield Comparison(f"{what} of {case.what} within bounds", found <= 1, True)


# Noise.


def _observe_noise(context: Context) -> Observed:
    prompts = _prompts(context)[:1] * 8
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
        return sampling.draw(context.components.cluster, _prompts(context), seed=seed).written

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


# Log-probs.


def _observe_pad(context: Context) -> Observed:
    cluster, ids = context.components.cluster, _ids(context)
    pad, length = ids["pad"], context.recipe.rollout.max_new_tokens
    plain = context.replay.policy(sampling.weights(cluster))
    prompts = _prompts(context)
    first = sampling.draw(cluster, prompts, seed=0)
    # The pad becomes as likely as what is likely in many places.
    logits = context.replay.logits(plain, first.prompt_ids, first.written)
    rivals = np.argsort(-logits.mean(axis=(0, 1)))[:4].tolist()
    seen: dict[str, list[Any]] = {
        name: [] for name in ("prompts", "ids", "lengths", "sampler", "trainer")
    }
    padded = 0
    with sampling.favouring(cluster, pad, rivals):
        policy = context.replay.policy(sampling.weights(cluster))
        for seed in range(40):
            drawn = sampling.draw(cluster, prompts, seed=seed)
            early = [len(_cut(row, ids, ())) for row in drawn.written]
            found = sum(
                n < length and row[n - 1] == pad
                for n, row in zip(early, drawn.written, strict=True)
            )
            if not found:
                continue
            padded += found
            completions = rollout_lib.pad_right(drawn.tokens, length, pad)
            seen["prompts"].append(drawn.prompt_ids)
            seen["ids"].append(completions)
            seen["lengths"].append([len(row) for row in drawn.tokens])
            seen["sampler"].append(np.concatenate(drawn.log_probs or [np.zeros(0)]))
            seen["trainer"].append(upstream.log_probs(cluster, drawn.prompt_ids, completions))
            if padded >= 6:
                break
    return {**seen, "replay": context.replay, "policy": policy, "padded": padded}


def _compare_pad(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    replay = observed["replay"]
    parts = zip(*(observed[x] for x in ("prompts", "ids", "lengths", "trainer")), strict=True)
    for index, (prompts, ids, lengths, trainer) in enumerate(parts):
        kept = rollout_lib.completion_mask(lengths, ids.shape[1])
        want = observed["sampler"][index]
        if "sampler-log-probs-missing" in known:
            yield Comparison(f"sampler's log-probs in call {index}", want.size, 0)
        if {"pad-mid-sequence", "log-prob-temperature", "sampler-log-probs-missing"} & set(known):
            # With the first defect, the oracle too takes a drawn pad for padding.
            shifted = "pad-mid-sequence" in known
            real = np.concatenate(
                [prompts != replay.pad, ids != replay.pad if shifted else kept], axis=1
            )
            temperature = 1.0 if "log-prob-temperature" in known else None
            want = replay.log_probs(observed["policy"], prompts, ids, temperature, real)[kept]
        yield Comparison(f"trainer's log-probs of call {index}", trainer[kept], want)
    yield Comparison("the pad was drawn in the middle", observed["padded"] >= 4, True)


def _observe_reported(context: Context) -> Observed:
    (drawn,) = _narrow(context, seeds=(5,))
    rows = [index for index, row in enumerate(drawn.log_probs or []) if len(row)]
    case = _case(
        context,
        "draws of a nucleus",
        [drawn],
        sampling.weights(context.components.cluster),
        **_NARROW,
    )
    return {
        "case": case,
        "rows": rows,
        "got": [np.array([(drawn.log_probs or [])[row][0] for row in rows])],
    }


def _compare_reported(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    case, rows = observed["case"], observed["rows"]
    if "sampler-log-probs-missing" in known:
        yield Comparison("rows of which the sampler tells log-probs", len(rows), 0)
        return
    logits, tokens = case.logits[case.at[rows]], case.tokens[rows]
    if "sampler-log-probs-full-softmax" in known:
        want = logprob.token_log_probs(logits, tokens, case.distribution[0])
    else:
        chances = oracle_sampling.distribution(logits, *case.distribution)
        with np.errstate(divide="ignore"):  # of what could not be drawn: infinite, and refused
            want = np.log(np.take_along_axis(chances, tokens[:, None], axis=1)[:, 0])
    yield Comparison("log-probs that the sampler tells", observed["got"][0], want)
    yield Comparison("most rows have one", len(rows) > len(case.tokens) / 2, True)


PROPERTIES = (
    Property(
        id="completions-end",
        area="rollout",
        statement=(
            "A completion is what was drawn up to the first stop token of any kind, that token "
            "included; its text lacks it; and PPO learns from just these tokens, in their rows."
        ),
        tolerance=EXACT,
        observe=_observe_completions,
        compare=_compare_completions,
        wrong={
            "nothing is cut": _by_row("tokens", lambda seen, i, row: seen["written"][i][row]),
            "a token is missing": _by_row(
                "tokens", lambda seen, i, row: seen["tokens"][i][row][:-1]
            ),
            "a token too many": _by_row(
                "tokens",
                lambda seen, i, row: seen["written"][i][row][: len(seen["tokens"][i][row]) + 1],
            ),
            "one end id of many": _by_row(
                "tokens",
                lambda seen, i, row: rollout_lib.cut_after_end(
                    seen["written"][i][row], seen["ends"][:1]
                ),
            ),
            "rows swapped": _by_row("tokens", lambda seen, i, row: seen["tokens"][i][row - 1]),
            "texts swapped": _by_row("texts", lambda seen, i, row: seen["texts"][i][row - 1]),
            "no mask": wrong.each("masks", np.ones_like),
            "the example's rows swapped": wrong.each("ids", wrong.next_row),
            "the example's prompts swapped": wrong.each("prompt_ids", wrong.next_row),
        },
        defects=(
            "end-token-dropped",
            "pad-mid-sequence",
            "pad-not-trained",
            "empty-completion-reward-lost",
        ),
    ),
    Property(
        id="decode-stops",
        area="rollout",
        statement=(
            "Decoding stops with the last token that is needed: the end of the longest "
            "completion, or the limit."
        ),
        tolerance=EXACT,
        observe=_observe_stops,
        compare=_compare_stops,
        wrong={
            "never before the limit": lambda seen: {
                **seen,
                "got": [np.array(max(seen["got"])) for _ in seen["got"]],
            },
            "a token early": wrong.each("got", lambda place: place - 1),
            "a token late": wrong.each("got", lambda place: place + 1),
        },
        defects=("decode-one-too-many", "pad-mid-sequence", "pad-not-trained"),
    ),
    Property(
        id="prompts-whole",
        area="rollout",
        statement=(
            "The model reads each prompt of the data set in order and whole: the begin token, "
            "all of its tokens, and padding before them."
        ),
        tolerance=EXACT,
        observe=_observe_prompts,
        compare=_compare_prompts,
        wrong={
            "padded behind": wrong.each(
                "got",
                lambda ids: np.stack([np.concatenate([r[r != 0], r[r == 0]]) for r in ids]),
            ),
            "first token cut": wrong.each(
                "got", lambda ids: np.where(np.cumsum(ids != 0, axis=1) == 1, 0, ids)
            ),
            "last token cut": wrong.each("got", wrong.late),
            "rows swapped": wrong.each("got", wrong.next_row),
            "a prompt too long is cut": wrong.value("too long", lambda _: "cut"),
            "another order": lambda seen: {
                **seen,
                "columns": {
                    name: (list(reversed(got)), given)
                    for name, (got, given) in seen["columns"].items()
                },
            },
        },
    ),
    Property(
        id="greedy",
        area="rollout",
        statement="With top-k 1 each token is the likeliest after those before it.",
        tolerance=_FORWARD,
        observe=_observe_greedy,
        compare=_compare_greedy,
        wrong={
            "of the place before": wrong.value("logits", lambda x: np.roll(x, 1, axis=1)),
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
    Property(
        id="pad-is-no-token",
        area="rollout",
        statement=(
            "Where the policy draws the pad in the middle of a row, every token that is handed "
            "on has the log-prob in training with which it was drawn."
        ),
        tolerance=_FORWARD,
        observe=_observe_pad,
        compare=_compare_pad,
        wrong={
            "of the token after": wrong.each("trainer", wrong.late),
            "of another row": wrong.each("trainer", wrong.next_row),
            "at another temperature": wrong.each("trainer", lambda x: 0.7 * x),
        },
        defects=("pad-mid-sequence", "log-prob-temperature", "sampler-log-probs-missing"),
    ),
    Property(
        id="sampler-tells-its-law",
        area="rollout",
        statement=(
            "The log-prob that the sampler tells of a token is that of the distribution it drew "
            "from, which top-k and top-p have cut."
        ),
        tolerance=_FORWARD,
        observe=_observe_reported,
        compare=_compare_reported,
        wrong={
            "at temperature 1": wrong.each("got", lambda x: 0.5 * x),
            "of another row": wrong.each("got", wrong.next_row),
        },
        defects=("sampler-log-probs-full-softmax", "sampler-log-probs-missing"),
    ),
)
