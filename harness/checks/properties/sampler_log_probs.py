"""Log-probs of the sampler, and what follows a completion."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from harness import upstream
from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.properties.completions import cut_at_stop, prompts_of, stop_and_pad_ids
from harness.checks.properties.distribution import FORWARD, NARROW, case_of, narrow_draws
from harness.checks.property import Comparison, Observed, Property
from harness.oracle import logprob
from harness.oracle import rollout as rollout_lib
from harness.oracle import sampling as oracle_sampling
from harness.upstream.instrument import sampling


def _observe_pad(context: Context) -> Observed:
    cluster, ids = context.components.cluster, stop_and_pad_ids(context)
    pad, length = ids["pad"], context.recipe.rollout.max_new_tokens
    plain = context.replay.policy(sampling.weights(cluster))
    prompts = prompts_of(context)
    first = sampling.draw(cluster, prompts, seed=0)
    # The pad becomes as likely as what is likely in many positions.
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
            early = [len(cut_at_stop(row, ids, ())) for row in drawn.written]
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
        real_tokens = rollout_lib.completion_mask(lengths, ids.shape[1])
        want = observed["sampler"][index]
        if "sampler-log-probs-missing" in known:
            yield Comparison(f"sampler's log-probs in call {index}", want.size, 0)
        if {"pad-mid-sequence", "log-prob-temperature", "sampler-log-probs-missing"} & set(known):
            # With the first defect, the oracle too takes a drawn pad for padding.
            shifted = "pad-mid-sequence" in known
            real = np.concatenate(
                [prompts != replay.pad, ids != replay.pad if shifted else real_tokens], axis=1
            )
            temperature = 1.0 if "log-prob-temperature" in known else None
            want = replay.log_probs(observed["policy"], prompts, ids, temperature, real)[
                real_tokens
            ]
        yield Comparison(f"trainer's log-probs of call {index}", trainer[real_tokens], want)
    yield Comparison("the pad was drawn in the middle", observed["padded"] >= 4, True)


def _observe_reported(context: Context) -> Observed:
    (drawn,) = narrow_draws(context, seeds=(5,))
    rows = [index for index, row in enumerate(drawn.log_probs or []) if len(row)]
    case = case_of(
        context,
        "draws of a nucleus",
        [drawn],
        sampling.weights(context.components.cluster),
        **NARROW,
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
        id="pad-is-no-token",
        area="rollout",
        statement=(
            "Where the policy draws the pad in the middle of a row, every token that is handed "
            "on has the log-prob in training with which it was drawn."
        ),
        tolerance=FORWARD,
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
        tolerance=FORWARD,
        observe=_observe_reported,
        compare=_compare_reported,
        wrong={
            "at temperature 1": wrong.each("got", lambda x: 0.5 * x),
            "of another row": wrong.each("got", wrong.next_row),
        },
        defects=("sampler-log-probs-full-softmax", "sampler-log-probs-missing"),
    ),
)
