"""Log-probs and values: of the right token, under the right policy, at the right position."""

from collections.abc import Collection, Iterator

import numpy as np

from harness import upstream
from harness.checks import wrong
from harness.checks.context import Context
from harness.checks.property import EXACT, Comparison, Observed, Property, Tolerance
from harness.oracle import kl as kl_lib

_FORWARD = Tolerance(
    1e-4,
    1e-4,
    "two float32 forward passes differ by some 1e-6; a token off or a mask off by far more",
)


def _real(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.asarray(array)[np.asarray(mask, bool)]


def _observe_log_probs(context: Context) -> Observed:
    groups = context.trace.groups
    return {
        "replay": context.replay,
        "groups": groups,
        "got": [group.example["old_per_token_logps"] for group in groups],
    }


def _compare_log_probs(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    replay = observed["replay"]
    temperature = 1.0 if "log-prob-temperature" in known else None
    for index, (group, got) in enumerate(zip(observed["groups"], observed["got"], strict=True)):
        example = group.example
        want = replay.log_probs(
            replay.policy(group.actor),
            example["prompt_ids"],
            example["completion_ids"],
            temperature,
        )
        mask = example["completion_mask"]
        yield Comparison(f"log-probs of group {index}", _real(got, mask), _real(want, mask))


def _observe_reference(context: Context) -> Observed:
    groups = context.trace.groups
    return {
        "replay": context.replay,
        "groups": groups,
        "got": [group.example["ref_per_token_logps"] for group in groups],
    }


def _compare_reference(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    replay = observed["replay"]
    temperature = 1.0 if "reference-without-temperature" in known else None
    for index, (group, got) in enumerate(zip(observed["groups"], observed["got"], strict=True)):
        example = group.example
        want = replay.log_probs(
            replay.policy(group.actor, adapted=False),
            example["prompt_ids"],
            example["completion_ids"],
            temperature,
        )
        mask = example["completion_mask"]
        yield Comparison(f"reference of group {index}", _real(got, mask), _real(want, mask))


def _observe_divergence(context: Context) -> Observed:
    method = context.recipe.ppo.kl_method
    groups = context.trace.groups
    return {
        "replay": context.replay,
        "method": method,
        "groups": groups,
        "got": [
            kl_lib.kl(g.example["old_per_token_logps"], g.example["ref_per_token_logps"], method)
            for g in groups
        ],
    }


def _compare_divergence(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    replay = observed["replay"]
    without = "reference-without-temperature" in known
    temperature = 1.0 if without or "reference-temperature" in known else None
    for index, (group, got) in enumerate(zip(observed["groups"], observed["got"], strict=True)):
        ids = group.example["prompt_ids"], group.example["completion_ids"]
        policy = replay.log_probs(replay.policy(group.actor), *ids, temperature)
        plain = replay.policy(group.actor, adapted=False)
        reference = replay.log_probs(plain, *ids, 1.0 if without else None)
        want = kl_lib.kl(policy, reference, observed["method"])
        mask = group.example["completion_mask"]
        yield Comparison(f"divergence of group {index}", _real(got, mask), _real(want, mask))


def _observe_sampler(context: Context) -> Observed:
    generations = [each for each in context.trace.generations if each.log_probs is not None]
    return {
        "replay": context.replay,
        "generations": generations,
        "got": [np.concatenate(each.log_probs or []) for each in generations],
    }


def _compare_sampler(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    if "sampler-log-probs-missing" in known:
        yield Comparison("generations that returned log-probs", len(observed["generations"]), 0)
        return
    replay, longest = observed["replay"], 0
    for index, (each, got) in enumerate(zip(observed["generations"], observed["got"], strict=True)):
        width = each.prompt_ids.shape[1]
        completions = each.buffer[:, width:]
        found = replay.log_probs(replay.policy(each.actor), each.prompt_ids, completions)
        lengths = [len(tokens) for tokens in each.tokens]
        want = np.concatenate([row[:n] for row, n in zip(found, lengths, strict=True)])
        # Of a row that drew a pad in the middle nothing is asked here.
        clean = np.concatenate(
            [
                np.full(n, replay.pad not in row[:n])
                for row, n in zip(completions, lengths, strict=True)
            ]
        )
        yield Comparison(f"sampler's log-probs of generation {index}", got[clean], want[clean])
        real = np.sum(each.prompt_ids != replay.pad, axis=1) + lengths
        longest = max(longest, int(real.max()))
    seen_past = longest > observed["replay"].recipe.model.sliding_window
    yield Comparison("a sequence passed the sliding window", seen_past, True)


def _observe_values(context: Context) -> Observed:
    groups = context.trace.groups
    return {
        "replay": context.replay,
        "groups": groups,
        "got": [group.example["old_values"] for group in groups],
    }


def _compare_values(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    for index, (group, got) in enumerate(zip(observed["groups"], observed["got"], strict=True)):
        example = group.example
        want = observed["replay"].values(
            group.critic, example["prompt_ids"], example["completion_ids"]
        )
        mask = example["completion_mask"]
        yield Comparison(f"values of group {index}", _real(got, mask), _real(want, mask))


def _sequences(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of unequal length and whole completions without a pad, [4, P] and [4, T]."""
    rng = np.random.default_rng(1)
    rollout = context.recipe.rollout
    shape = 4, rollout.max_prompt_length
    prompts = rng.integers(10, context.recipe.model.vocab_size, shape)
    for row, pads in enumerate((0, 3, 9, 17)):
        prompts[row, :pads] = 0
    completions = rng.integers(10, context.recipe.model.vocab_size, (4, rollout.max_new_tokens))
    return prompts, completions


def _observe_neighbours(context: Context) -> Observed:
    prompts, completions = _sequences(context)
    cluster = context.components.cluster
    order = np.array([2, 0, 3, 1])

    def both(rows: np.ndarray, others: np.ndarray | None = None) -> list[np.ndarray]:
        ids = prompts[rows], completions[rows] if others is None else others
        return [upstream.log_probs(cluster, *ids), upstream.values(cluster, *ids)]

    moved = both(order)
    # Row 0 stays; its neighbours become other sequences.
    strangers = completions.copy()
    strangers[1:] = strangers[1:, ::-1]
    return {
        "want": both(np.arange(4)),
        "got": [np.asarray(each)[np.argsort(order)] for each in moved],
        "alone": both(np.arange(4), strangers),
    }


def _compare_neighbours(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    names = ("log-probs", "values")
    for name, got, alone, want in zip(
        names, observed["got"], observed["alone"], observed["want"], strict=True
    ):
        yield Comparison(f"{name} in another order", np.array(got), np.array(want))
        yield Comparison(f"{name} beside others", np.array(alone)[0], np.array(want)[0])


def _observe_padding(context: Context) -> Observed:
    ids = _sequences(context)
    components, replay = context.components, context.replay
    return {
        "replay": replay,
        "ids": ids,
        "actor": upstream.weights(components.actor),
        "critic": upstream.weights(components.critic),
        "got": [
            upstream.log_probs(components.cluster, *ids),
            upstream.values(components.cluster, *ids),
        ],
    }


def _compare_padding(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    replay, (prompts, completions) = observed["replay"], observed["ids"]
    temperature = 1.0 if "log-prob-temperature" in known else None
    policy = replay.policy(observed["actor"])
    for row, prompt in enumerate(prompts):
        # Without its padding, a row alone is of another shape.
        ids = prompt[prompt != replay.pad][None], completions[row : row + 1]
        yield Comparison(
            f"log-probs after a prompt of {ids[0].size}",
            np.array(observed["got"][0])[row],
            replay.log_probs(policy, *ids, temperature)[0],
        )
        yield Comparison(
            f"values after a prompt of {ids[0].size}",
            np.array(observed["got"][1])[row],
            replay.values(observed["critic"], *ids)[0],
        )


def _observe_estimators(context: Context) -> Observed:
    del context
    rng = np.random.default_rng(3)
    policy, reference = -3 * rng.random((2, 4, 6)).astype(np.float32)
    got = [upstream.divergence(policy, reference, method) for method in kl_lib.ESTIMATORS]
    return {"policy": policy, "reference": reference, "got": got}


def _compare_estimators(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    for method, got in zip(kl_lib.ESTIMATORS, observed["got"], strict=True):
        want = kl_lib.kl(observed["policy"], observed["reference"], method)
        yield Comparison(f"estimator {method}", np.array(got), want)


def _observe_causality(context: Context) -> Observed:
    prompts, completions = _sequences(context)
    cluster = context.components.cluster
    position = 3
    changed = completions.copy()
    changed[:, position] = changed[:, position] % 400 + 11
    pairs = [
        [np.asarray(function(cluster, prompts, ids)) for ids in (completions, changed)]
        for function in (upstream.log_probs, upstream.values)
    ]
    return {
        "position": position,
        # A log-prob of token t may change from t on, a value of the state before
        # it from t + 1 on.
        "got": [(before != after).any(axis=0) for before, after in pairs],
    }


def _compare_causality(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    position = observed["position"]
    for name, got, first in zip(
        ("log-probs", "values"), observed["got"], (position, position + 1), strict=True
    ):
        want = np.arange(len(got)) >= first
        yield Comparison(
            f"positions whose {name} change with token {position}", np.array(got), want
        )


def _observe_values_calls(context: Context) -> Observed:
    rows = 2 * context.recipe.batching.compute_logps_micro_batch_size
    return {
        "rows": rows,
        "got": [np.array(upstream.rows_of_values_calls(context.components.cluster, rows))],
    }


def _compare_values_calls(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    rows = observed["rows"]
    want = [rows] if "values-not-micro-batched" in known else [rows // 2] * 2
    yield Comparison("rows of each call", np.array(observed["got"][0]), np.array(want))


PROPERTIES = (
    Property(
        id="old-log-probs",
        area="log-probs",
        statement=(
            "The log-probs that PPO keeps are those of the drawn tokens under the policy that "
            "drew them, at the temperature of the draw, in every batch."
        ),
        tolerance=_FORWARD,
        observe=_observe_log_probs,
        compare=_compare_log_probs,
        wrong={
            "of the token after": wrong.each("got", wrong.late),
            "of another row": wrong.each("got", wrong.next_row),
            "at temperature 1": wrong.each("got", lambda x: 0.7 * x),
        },
        defects=("log-prob-temperature",),
    ),
    Property(
        id="reference-log-probs",
        area="log-probs",
        statement="The reference is the policy without its LoRA pairs, in every batch.",
        tolerance=_FORWARD,
        observe=_observe_reference,
        compare=_compare_reference,
        wrong={
            "of the token after": wrong.each("got", wrong.late),
            "of the policy": lambda seen: {
                **seen,
                "got": [group.example["old_per_token_logps"] for group in seen["groups"]],
            },
        },
        defects=("reference-without-temperature",),
    ),
    Property(
        id="divergence",
        area="log-probs",
        statement=(
            "The divergence of the policy from its reference is taken at one temperature: two "
            "equal policies have none."
        ),
        tolerance=Tolerance(1e-3, 1e-4, "exp of a difference of two float32 forward passes"),
        observe=_observe_divergence,
        compare=_compare_divergence,
        wrong={
            "negated": wrong.each("got", lambda x: -x),
            "nothing": wrong.each("got", np.zeros_like),
        },
        defects=("reference-temperature", "reference-without-temperature"),
    ),
    Property(
        id="cached-decode",
        area="rollout",
        statement=(
            "Decoding with the key-value cache computes what a full forward pass of the just "
            "updated policy does, token by token, past the sliding window too."
        ),
        tolerance=_FORWARD,
        observe=_observe_sampler,
        compare=_compare_sampler,
        wrong={
            "of the token after": wrong.each("got", wrong.late),
            "at temperature 1": wrong.each("got", lambda x: 0.7 * x),
        },
        defects=("sampler-log-probs-missing",),
    ),
    Property(
        id="old-values",
        area="values",
        statement=(
            "The value of a token is the just updated critic's value of the state before it."
        ),
        tolerance=_FORWARD,
        observe=_observe_values,
        compare=_compare_values,
        wrong={
            "of the state after": wrong.each("got", lambda x: np.roll(x, -1, axis=1)),
            "of another row": wrong.each("got", wrong.next_row),
        },
    ),
    Property(
        id="rows-are-alone",
        area="log-probs",
        statement=(
            "Log-probs and values of a row depend neither on where it stands nor on its neighbours."
        ),
        tolerance=Tolerance(1e-5, 1e-5, "one program, other rows: sums in another order at most"),
        observe=_observe_neighbours,
        compare=_compare_neighbours,
        wrong={"of another row": wrong.each("got", wrong.next_row)},
    ),
    Property(
        id="padding-is-invisible",
        area="log-probs",
        statement=(
            "Log-probs and values after prompts of unequal length, padded on the left, are those "
            "of each row alone without its padding."
        ),
        tolerance=_FORWARD,
        observe=_observe_padding,
        compare=_compare_padding,
        wrong={
            "of another row": wrong.each("got", wrong.next_row),
            "of the token after": wrong.each("got", wrong.late),
        },
        defects=("log-prob-temperature",),
    ),
    Property(
        id="estimators",
        area="log-probs",
        statement="Each estimator of the divergence is that of its name, with its sign.",
        tolerance=Tolerance(1e-5, 1e-6, "one exponential in float32"),
        observe=_observe_estimators,
        compare=_compare_estimators,
        wrong={
            "negated": wrong.each("got", lambda x: -x),
            "of one another": wrong.value("got", lambda x: x[1:] + x[:1]),
        },
    ),
    Property(
        id="no-look-ahead",
        area="log-probs",
        statement=(
            "Changing token t changes the log-probs from t on and the values from t + 1 on, and "
            "leaves all before it equal bit for bit."
        ),
        tolerance=EXACT,
        observe=_observe_causality,
        compare=_compare_causality,
        wrong={
            "a token sees the next": wrong.each("got", lambda x: np.roll(x, -1)),
            "nothing changes": wrong.each("got", np.zeros_like),
        },
    ),
    Property(
        id="values-in-micro-batches",
        area="values",
        statement="Values are computed in micro-batches of the size that log-probs have.",
        tolerance=EXACT,
        observe=_observe_values_calls,
        compare=_compare_values_calls,
        wrong={
            "row by row": wrong.each("got", lambda rows: np.ones(rows.sum(), int)),
            "not at all": wrong.each("got", lambda rows: rows[:0]),
        },
        defects=("values-not-micro-batched",),
    ),
)
