"""Completions and prompts: which tokens are handed on, and when decoding stops."""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np

from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.property import EXACT, Comparison, Observed, Property
from harness.oracle import rollout as rollout_lib
from harness.upstream.instrument import sampling

# Under a higher temperature than this the few tokens that are left are nearly
# alike, and another temperature would not show.
_PADS_GO_ON = {"pad-mid-sequence", "pad-not-trained"}


def prompts_of(context: Context) -> list[str]:
    """Return 4 prompts of unequal length; one fills its row."""
    encode, width = context.components.tokenizer.encode, context.recipe.rollout.max_prompt_length
    batch = next(iter(context.components.dataset.train))
    texts = [str(prompt) for prompt in batch["prompts"][:4]]
    while len(encode(texts[1])) + 1 < width:
        texts[1] += " coins"
    return [texts[0], texts[1], texts[2][: len(texts[2]) // 2], texts[3][: len(texts[3]) // 4]]


def stop_and_pad_ids(context: Context) -> Observed:
    """Return the ids that end a completion, and the one that fills it."""
    tokenizer = context.components.tokenizer
    ends = tokenizer.end_ids(context.recipe.rollout.stop_tokens)
    return {"ends": tuple(ends), "pad": tokenizer.pad_id()}


def cut_at_stop(row: np.ndarray, observed: Observed, known: Collection[str]) -> np.ndarray:
    """Return the completion that was drawn, its end included; a drawn pad ends it too."""
    pad = () if _PADS_GO_ON & set(known) else (observed["pad"],)
    return rollout_lib.cut_after_end(row, (*observed["ends"], *pad))


def _ended(cut: np.ndarray, observed: Observed, known: Collection[str]) -> bool:
    pad = () if _PADS_GO_ON & set(known) else (observed["pad"],)
    return bool(np.isin(cut[-1], [*observed["ends"], *pad]))


def handed_on(row: np.ndarray, observed: Observed, known: Collection[str]) -> np.ndarray:
    """Return the tokens of a sequence that the sampler hands on."""
    cut = cut_at_stop(row, observed, known)
    dropped = "end-token-dropped" in known and _ended(cut, observed, known)
    return cut[:-1] if dropped else cut


def as_table(rows: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Return sequences as one table, padded with -1."""
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


def _observe_completions(context: Context) -> Observed:
    trace = context.trace
    starts = [0, *(group.generations for group in trace.groups)]
    return {
        **stop_and_pad_ids(context),
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
    wanted = []
    for index, written in enumerate(observed["written"]):
        tokens = observed["tokens"][index]
        want = [handed_on(row, observed, known) for row in written]
        width = max(length, *map(len, tokens))
        yield Comparison(
            f"tokens of generation {index}", as_table(tokens, width), as_table(want, width)
        )
        texts = []
        for row in written:
            cut = cut_at_stop(row, observed, known)
            texts.append(observed["decode"](cut[:-1] if _ended(cut, observed, known) else cut))
        yield Comparison(f"texts of generation {index}", observed["texts"][index], texts)
        wanted.append(want)
    for index, of in enumerate(observed["of"]):
        rows = [row for part in wanted[of] for row in part]
        ids = rollout_lib.pad_right(rows, length, pad)
        mask = rollout_lib.completion_mask([len(row) for row in rows], length) & (ids != pad)
        prompts = np.concatenate(observed["prompts"][of])
        yield Comparison(f"completions of group {index}", observed["ids"][index], ids)
        yield Comparison(f"mask of group {index}", observed["masks"][index] != 0, mask)
        yield Comparison(f"prompts of group {index}", observed["prompt_ids"][index], prompts)
    lengths = [len(row) for rows in wanted for row in rows]
    found = [max(lengths) == length, min(lengths) < length]
    yield Comparison("a full completion, and a short one", found, [True, True])


def _observe_stops(context: Context) -> Observed:
    width, ids = context.recipe.rollout.max_prompt_length, stop_and_pad_ids(context)
    calls = [(each.buffer[:, width:], each.last_position) for each in context.trace.generations]
    length = calls[0][0].shape[1]
    # A call stops early only if its last row does.
    for seed in range(50):
        cuts = [len(rollout_lib.cut_after_end(row, ids["ends"])) for row in calls[-1][0]]
        if max(cuts) < length and seed:
            break
        drawn = sampling.draw(context.components.cluster, prompts_of(context), seed=seed)
        calls.append((drawn.written, drawn.last_positions[0]))
    return {
        **ids,
        "width": width,
        "length": length,
        "written": [written for written, _ in calls],
        "got": [np.array(position) for _, position in calls],
    }


def _compare_stops(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    longest = []
    for index, (written, got) in enumerate(zip(observed["written"], observed["got"], strict=True)):
        cuts = [cut_at_stop(row, observed, known) for row in written]
        longest.append(max(map(len, cuts)))
        want = observed["width"] + longest[-1] - 1
        if "decode-one-too-many" in known:
            want += not all(_ended(cut, observed, known) for cut in cuts)
        yield Comparison(f"last position of call {index}", got, want)
    found = [max(longest) == observed["length"], min(longest) < observed["length"]]
    yield Comparison("a call to the limit, and one that stops before", found, [True, True])


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
    unequal = prompts_of(context)
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
    prompts = [prompt * 2 for prompt in prompts_of(context)]
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
            "a token early": wrong.each("got", lambda position: position - 1),
            "a token late": wrong.each("got", lambda position: position + 1),
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
)
