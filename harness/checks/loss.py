"""The losses and advantages: their formulas, and that a masked place is no place."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from harness import recipe as recipe_lib
from harness.checks.context import Context
from harness.checks.property import EXACT, Comparison, Observed, Property, Tolerance
from harness.oracle import advantage as advantage_lib
from harness.oracle import logprob
from harness.oracle import loss as loss_lib
from harness.upstream.instrument import losses

_FORMULA = Tolerance(
    1e-5,
    2e-6,
    "float32 keeps 7 digits, of which sums of 23 tokens and exp of 8 logits lose one or two",
)
_WHITENED = Tolerance(
    1e-5, 1e-5, "float32 keeps 7 digits, of which a variance of 24 tokens loses one or two"
)
_ROWS, _PROMPT, _TOKENS, _VOCABULARY = 6, 3, 6, 8
_LENGTHS = (6, 1, 3, 5, 2, 6)
# Below, between and above each bound of the two recipes; 1 itself is a kink where a
# bound is 0.
_RATIOS = (0.3, 0.7, 0.9, 0.93, 0.97, 1.03, 1.07, 1.13, 1.3, 1.6, 3.0)
_GARBAGE = 1e6

Figures = losses.Figures


@dataclasses.dataclass(frozen=True)
class Terms:
    """What the policy's loss is made of.

    Attributes:
      low: Lower clip range.
      high: Upper clip range.
      second: Bound of the second clip, if any.
      entropy: Weight of the entropy bonus, if any.
    """

    low: float
    high: float
    second: float | None
    entropy: float | None

    @classmethod
    def of(cls, ppo: recipe_lib.Ppo) -> "Terms":
        """Read a recipe."""
        low, high = ppo.epsilon_low, ppo.epsilon_high
        return cls(
            ppo.epsilon if low is None else low,
            ppo.epsilon if high is None else high,
            ppo.epsilon_c,
            ppo.entropy_coef,
        )


@dataclasses.dataclass(frozen=True)
class Case:
    """One input of a loss and what it gave.

    Attributes:
      name: What is special about it.
      outputs: [B, P + T, V] logits, or [B, P + T, 1] values.
      example: Fields of upstream's example.
      got: What Tunix made of it.
    """

    name: str
    outputs: np.ndarray
    example: dict[str, np.ndarray]
    got: Figures

    @property
    def mask(self) -> np.ndarray:
        """Real tokens, [B, T] bool."""
        return self.example["completion_mask"]

    @property
    def places(self) -> np.ndarray:
        """The outputs' places on which a real token depends, [B, P + T] bool."""
        found = np.zeros(self.outputs.shape[:2], bool)
        found[:, _PROMPT - 1 : -1] = self.mask
        return found


def _mask(lengths: tuple[int, ...] = _LENGTHS) -> np.ndarray:
    return np.arange(_TOKENS) < np.array(lengths)[:, None]


def _policy_inputs(temperature: float, mask: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Return logits and an example whose ratios at `temperature` are `_RATIOS` in turn."""
    rng = np.random.default_rng(3)
    shape = _ROWS, _TOKENS
    logits = rng.normal(0, 1.5, (_ROWS, _PROMPT + _TOKENS, _VOCABULARY)).astype(np.float32)
    drawn = rng.integers(2, _VOCABULARY, shape)
    ids = np.where(mask, drawn, 0)
    log_probs = logprob.token_log_probs(logits[:, _PROMPT - 1 : -1], ids, temperature)
    # Each ratio is met with advantages of both signs, at places that are real.
    order = np.cumsum(mask).reshape(shape)
    ratios = np.array(_RATIOS)[order % len(_RATIOS)]
    signs = np.where(order // len(_RATIOS) % 2, -1, 1)
    return logits, {
        "prompt_ids": rng.integers(2, _VOCABULARY, (_ROWS, _PROMPT)),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": (signs * rng.uniform(0.3, 2.0, shape)).astype(np.float32),
        "old_per_token_logps": (log_probs - np.log(ratios)).astype(np.float32),
        "ref_per_token_logps": rng.normal(-2, 0.5, shape).astype(np.float32),
    }


def _value_inputs(mask: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Return values and an example in which the recipe's clip acts on either side."""
    rng = np.random.default_rng(4)
    shape = _ROWS, _TOKENS
    order = np.cumsum(mask).reshape(shape)
    moves = np.array([-0.3, -0.05, -0.01, 0.01, 0.05, 0.3])[order % 6]
    targets = np.array([-0.6, -0.1, 0.11, 0.7])[order // 6 % 4]
    old = rng.normal(0, 0.5, shape).astype(np.float32)
    values = rng.normal(0, 1, (_ROWS, _PROMPT + _TOKENS, 1)).astype(np.float32)
    values[:, _PROMPT - 1 : -1, 0] = old + moves
    return values, {
        "prompt_ids": rng.integers(2, _VOCABULARY, (_ROWS, _PROMPT)),
        "completion_ids": np.where(mask, rng.integers(2, _VOCABULARY, shape), 0),
        "completion_mask": mask,
        "old_values": old,
        "returns": (old + targets).astype(np.float32),
    }


def _policy_case(
    context: Context,
    name: str,
    logits: np.ndarray,
    example: dict[str, Any],
    ppo: recipe_lib.Ppo | None = None,
) -> Case:
    got = losses.policy_loss(context.components.learner, logits, example, ppo)
    return Case(name, logits, example, got)


def _value_case(context: Context, name: str, values: np.ndarray, example: dict[str, Any]) -> Case:
    return Case(
        name, values, example, losses.value_loss(context.components.learner, values, example)
    )


def _right_policy(case: Case, temperature: float, terms: Terms) -> Figures:
    example, mask = case.example, case.mask
    logits = case.outputs[:, _PROMPT - 1 : -1]
    ids = example["completion_ids"]
    log_probs = logprob.token_log_probs(logits, ids, temperature)
    old, advantages = example["old_per_token_logps"], example["advantages"]
    given = log_probs, old, advantages, mask, terms.low, terms.high, terms.second
    found = loss_lib.policy_loss(*given)
    slope = loss_lib.policy_loss_gradient(*given)
    own = slope[..., None] * logprob.token_log_probs_gradient(logits, ids, temperature)
    loss = found.loss
    aux = {"pg_clipfrac": found.clip_fraction}
    if terms.second is not None or losses.REPORTS_UNUSED_LOWER_CLIP:
        aux["pg_clipfrac_lower"] = found.lower_clip_fraction
    if terms.entropy is not None:
        aux["loss/entropy"] = loss_lib.entropy_bonus(logits, mask, temperature)
        loss -= terms.entropy * aux["loss/entropy"]
        own -= terms.entropy * loss_lib.entropy_bonus_gradient(logits, mask, temperature)
    gradient = np.zeros(case.outputs.shape)
    gradient[:, _PROMPT - 1 : -1] = own
    return Figures(loss, aux, gradient)


def _right_value(case: Case, clip_range: float) -> Figures:
    example, mask = case.example, case.mask
    values = case.outputs[:, _PROMPT - 1 : -1, 0]
    given = values, example["old_values"], example["returns"], mask, clip_range
    found = loss_lib.value_loss(*given)
    gradient = np.zeros(case.outputs.shape)
    gradient[:, _PROMPT - 1 : -1, 0] = loss_lib.value_loss_gradient(*given)
    aux = {
        "vf_loss": found.loss,
        "vf_clipfrac": found.clip_fraction,
        "vpred_mean": found.mean_value,
        "return_mean": float(advantage_lib.masked_mean(example["returns"], mask)),
    }
    aux = {name: figure for name, figure in aux.items() if name in losses.VALUE_FIGURES}
    return Figures(found.loss, aux, gradient)


def _compare_figures(case: Case, want: Figures) -> Iterator[Comparison]:
    got = case.got
    yield Comparison(f"{case.name}: loss", got.loss, want.loss)
    for name, figure in want.aux.items():
        yield Comparison(f"{case.name}: {name}", got.aux.get(name, np.nan), figure)
    yield Comparison(f"{case.name}: gradient", got.gradient, want.gradient)
    elsewhere = ~case.places
    if elsewhere.any():
        none = (got.gradient[elsewhere] == 0).all(axis=-1)
        yield Comparison(f"{case.name}: no gradient elsewhere", none, np.ones(none.shape, bool))


def _observe_policy(context: Context) -> Observed:
    temperature, mask = context.recipe.rollout.temperature, _mask()
    return {
        "terms": Terms.of(context.recipe.ppo),
        "temperature": temperature,
        "used": temperature if "log-prob-temperature" in context.fixes else 1.0,
        "cases": [_policy_case(context, "grid", *_policy_inputs(temperature, mask))],
    }


def _compare_policy(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    temperature = 1.0 if "log-prob-temperature" in known else observed["temperature"]
    for case in observed["cases"]:
        yield from _compare_figures(case, _right_policy(case, temperature, observed["terms"]))


def _observe_plain(context: Context) -> Observed:
    temperature, mask = context.recipe.rollout.temperature, _mask()
    plain = dataclasses.replace(
        context.recipe.ppo,
        epsilon=0.2,
        epsilon_low=0.0,
        epsilon_high=None,
        epsilon_c=None,
        entropy_coef=None,
    )
    mirrored = dataclasses.replace(plain, epsilon_low=None, epsilon_high=0.0)
    both = dataclasses.replace(plain, epsilon_low=0.1, epsilon_high=0.3)
    given = plain, mirrored, both
    return {
        "terms": Terms.of(plain),
        "given": given,
        "bounds": [losses.epsilons(each, context.fixes) for each in given],
        "temperature": temperature,
        "used": temperature if "log-prob-temperature" in context.fixes else 1.0,
        "cases": [_policy_case(context, "plain", *_policy_inputs(temperature, mask), ppo=plain)],
    }


def _compare_plain(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    terms = [Terms.of(ppo) for ppo in observed["given"]]
    if "epsilon-zero-ignored" in known:
        default = observed["given"][0].epsilon
        terms = [
            dataclasses.replace(each, low=each.low or default, high=each.high or default)
            for each in terms
        ]
    for each, got in zip(terms, observed["bounds"], strict=True):
        yield Comparison("bounds", np.array(got), np.array([each.low, each.high]))
    yield from _compare_policy({**observed, "terms": terms[0]}, known)


def _observe_value(context: Context) -> Observed:
    return {
        "clip_range": context.recipe.ppo.clip_range_value,
        "cases": [_value_case(context, "grid", *_value_inputs(_mask()))],
    }


def _compare_value(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    for case in observed["cases"]:
        yield from _compare_figures(case, _right_value(case, observed["clip_range"]))


def _observe_degenerate(context: Context) -> Observed:
    temperature = context.recipe.rollout.temperature
    masks = {
        "one token": _mask((0, 0, 1, 0, 0, 0)),
        "a masked row": _mask((6, 0, 3, 5, 2, 6)),
        "nothing": _mask((0,) * _ROWS),
    }
    policy, value = [], []
    for name, mask in masks.items():
        policy.append(_policy_case(context, name, *_policy_inputs(temperature, mask)))
        value.append(_value_case(context, name, *_value_inputs(mask)))
    logits, example = _policy_inputs(temperature, _mask())
    example["advantages"] = np.zeros_like(example["advantages"])
    policy.append(_policy_case(context, "equal rewards", logits, example))
    return {
        "terms": Terms.of(context.recipe.ppo),
        "temperature": temperature,
        "used": temperature if "log-prob-temperature" in context.fixes else 1.0,
        "cases": policy,
        "value": {"clip_range": context.recipe.ppo.clip_range_value, "cases": value},
    }


def _compare_degenerate(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    yield from _compare_policy(observed, known)
    yield from _compare_value(observed["value"], known)


def _spoilt(example: Mapping[str, Any], names: tuple[str, ...], fills: Any) -> dict[str, Any]:
    """Put other things at the masked places of some fields."""
    masked = ~example["completion_mask"]
    changed = dict(example)
    for index, name in enumerate(names):
        changed[name] = example[name].copy()
        # Of two fields each pair of fills meets somewhere.
        changed[name][masked] = np.resize(np.repeat(fills, index + 1), masked.sum())
    return changed


def _masked_cases(context: Context, spoils: Mapping[str, tuple[tuple[str, ...], Any]]) -> Observed:
    """Run both losses on clean and on spoilt examples."""
    policy = _policy_inputs(context.recipe.rollout.temperature, _mask())
    value = _value_inputs(_mask())
    clean = {
        "policy": _policy_case(context, "clean", *policy),
        "value": _value_case(context, "clean", *value),
    }
    cases = []
    for name, (fields, fills) in spoils.items():
        if fields[0] in policy[1]:
            spoilt = _policy_case(context, name, policy[0], _spoilt(policy[1], fields, fills))
            cases.append((clean["policy"], spoilt))
        else:
            spoilt = _value_case(context, name, value[0], _spoilt(value[1], fields, fills))
            cases.append((clean["value"], spoilt))
    return {"clean": [a for a, _ in cases], "cases": [b for _, b in cases]}


def _compare_spoilt(
    clean: Case, case: Case, nan_places: np.ndarray, nan_figures: bool = False
) -> Iterator[Comparison]:
    """Ask for equal bits, but for NaN where a known defect may give it.

    Whether it does is the compiler's choice: XLA turns a product with a mask into a
    selection, which drops NaN, where it can.
    """
    got, want = case.got, clean.got

    def known(figure: float, right: float) -> float:
        return right if nan_figures and np.isnan(figure) else figure

    yield Comparison(f"{case.name}: loss", known(got.loss, want.loss), want.loss)
    for name, right in want.aux.items():
        yield Comparison(f"{case.name}: {name}", known(got.aux[name], right), right)
    excused = nan_places[..., None] & np.isnan(got.gradient)
    gradient = np.where(excused, want.gradient, got.gradient)
    yield Comparison(f"{case.name}: gradient", gradient, want.gradient)


def _observe_masked_garbage(context: Context) -> Observed:
    return _masked_cases(
        context,
        {
            "policy": (
                ("old_per_token_logps", "advantages", "ref_per_token_logps"),
                (_GARBAGE, -_GARBAGE),
            ),
            "value": (("old_values", "returns"), (_GARBAGE, -_GARBAGE)),
        },
    )


def _compare_masked_garbage(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    for clean, case in zip(observed["clean"], observed["cases"], strict=True):
        nan_places = np.zeros(case.outputs.shape[:2], bool)
        old = case.example.get("old_per_token_logps")
        if "masked-gradient-nan" in known and old is not None:
            # There exp(new - old) is infinite, and its slope times 0 is NaN.
            nan_places[:, _PROMPT - 1 : -1] = old == -_GARBAGE
        yield from _compare_spoilt(clean, case, nan_places)


def _observe_masked_nan(context: Context) -> Observed:
    fields = (
        "old_per_token_logps",
        "advantages",
        "ref_per_token_logps",
        "old_values",
        "returns",
    )
    return _masked_cases(context, {name: ((name,), (np.nan,)) for name in fields})


def _compare_masked_nan(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    for clean, case in zip(observed["clean"], observed["cases"], strict=True):
        # The reference is no part of the loss, so nothing can leak from there.
        leaks = "masked-nan-leaks" in known and case.name != "ref_per_token_logps"
        nan_places = np.zeros(case.outputs.shape[:2], bool)
        nan_places[:, _PROMPT - 1 : -1] = leaks & ~case.mask
        yield from _compare_spoilt(clean, case, nan_places, leaks)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One input of the advantage estimator, and what it gave.

    Attributes:
      name: What is special about it.
      rewards: [B, T].
      values: [B, T].
      mask: [B, T] bool, or 0 and 1.
      gamma: Discount.
      gae_lambda: Lambda of GAE.
      advantages: [B, T] as Tunix gave them.
      returns: [B, T] as Tunix gave them.
    """

    name: str
    rewards: np.ndarray
    values: np.ndarray
    mask: np.ndarray
    gamma: float
    gae_lambda: float
    advantages: np.ndarray
    returns: np.ndarray


def _steps(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rewards at every real token, the largest at each row's last, and values."""
    rng = np.random.default_rng(6)
    rewards = rng.normal(0, 0.1, mask.shape)
    last = np.cumsum(mask, axis=1) == mask.sum(axis=1, keepdims=True)
    rewards += np.where(last, rng.normal(0, 1, mask.shape), 0)
    return (
        np.where(mask, rewards, 0).astype(np.float32),
        np.where(mask, rng.normal(0, 1, mask.shape), 0).astype(np.float32),
    )


def _holes() -> np.ndarray:
    """Rows of every length, one of them with masked places between real ones."""
    mask = _mask()
    mask[2] = [True, False, True, False, False, True]
    return mask


def _estimate(
    context: Context,
    name: str,
    mask: np.ndarray,
    rates: tuple[float, float] | None = None,
    steps: tuple[np.ndarray, np.ndarray] | None = None,
) -> Estimate:
    ppo = context.recipe.ppo
    rates = rates or (ppo.gamma, ppo.gae_lambda)
    rewards, values = steps or _steps(mask)
    found = losses.advantages(context.components.learner, rewards, values, mask, *rates)
    return Estimate(name, rewards, values, mask, *rates, *found)


def _right_estimate(case: Estimate) -> tuple[np.ndarray, np.ndarray]:
    advantages, returns = advantage_lib.gae(
        case.rewards, case.values, case.mask, case.gamma, case.gae_lambda
    )
    return advantage_lib.whiten(advantages, case.mask), returns


def _observe_gae(context: Context) -> Observed:
    ppo = context.recipe.ppo
    rates = {
        "recipe": (ppo.gamma, ppo.gae_lambda),
        "no discount, no lambda": (1.0, 1.0),
        "one step": (1.0, 0.0),
        "no future": (0.0, 1.0),
    }
    return {"cases": [_estimate(context, name, _holes(), pair) for name, pair in rates.items()]}


def _compare_gae(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    for case in observed["cases"]:
        advantages, returns = _right_estimate(case)
        got, real = case.advantages, case.mask
        if "whiten-one-token" in known and real.sum() == 1:
            # The variance of one is 0 times the infinity of Bessel's correction.
            yield Comparison(f"{case.name}: advantage", np.isnan(got[real]), np.array([True]))
        else:
            yield Comparison(f"{case.name}: advantages", got[real], advantages[real])
        yield Comparison(f"{case.name}: returns", case.returns[real], returns[real])


def _observe_gae_masked(context: Context) -> Observed:
    mask = _holes()
    rewards, values = _steps(mask)

    def spoilt(array: np.ndarray, *fills: float) -> np.ndarray:
        changed = array.copy()
        changed[~mask] = np.resize(np.array(fills), (~mask).sum())
        return changed

    steps = {
        "garbage": (
            spoilt(rewards, -_GARBAGE, _GARBAGE),
            spoilt(values, _GARBAGE, _GARBAGE, -_GARBAGE),
        ),
        "NaN rewards": (spoilt(rewards, np.nan), values),
        "NaN values": (rewards, spoilt(values, np.nan)),
    }
    # The estimator takes masks of either kind; a product with one of integers is never
    # compiled to a selection.
    masks = {"bool": mask, "int": mask.astype(np.int32)}
    return {
        "clean": [_estimate(context, "clean", each) for each in masks.values() for _ in steps],
        "cases": [
            _estimate(context, f"{name}, {kind}", each, steps=pair)
            for kind, each in masks.items()
            for name, pair in steps.items()
        ],
    }


def _compare_gae_masked(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    for clean, case in zip(observed["clean"], observed["cases"], strict=True):
        mask = clean.mask != 0
        # NaN at a masked place reaches what comes before it in its row, and by the mean
        # of the whitening every advantage; whether it does is the compiler's choice.
        before = np.cumsum(~mask[:, ::-1], axis=1)[:, ::-1] > 0
        leaks = "masked-nan-leaks" in known and case.name.startswith("NaN")
        for name, got, want, reach in (
            ("advantages", case.advantages, clean.advantages, np.ones_like(mask)),
            ("returns", case.returns, clean.returns, before),
        ):
            got = np.where(leaks & reach & np.isnan(got), want, got)
            yield Comparison(f"{case.name}: {name}", got[mask], want[mask])


def _observe_gae_degenerate(context: Context) -> Observed:
    one = _mask((0, 0, 1, 0, 0, 0))
    constant = np.where(_mask(), 0.5, 0).astype(np.float32), np.zeros(one.shape, np.float32)
    return {
        "cases": [
            _estimate(context, "one token", one),
            _estimate(context, "two tokens", _mask((0, 0, 1, 0, 1, 0))),
            _estimate(context, "equal advantages", _mask(), (0.0, 1.0), constant),
        ]
    }


def _wrong_cases(change: Callable[[Any], Any]) -> Callable[[Observed], Observed]:
    """Change what every case gave."""

    def wrong(observed: Observed) -> Observed:
        return {**observed, "cases": [change(case) for case in observed["cases"]]}

    return wrong


def _wrong_figures(change: Callable[[Figures], Figures]) -> Callable[[Observed], Observed]:
    return _wrong_cases(lambda case: dataclasses.replace(case, got=change(case.got)))


def _wrong_policy(**changes: Any) -> Callable[[Observed], Observed]:
    """Return what a loss of other terms would have given."""

    def wrong(observed: Observed) -> Observed:
        terms = dataclasses.replace(observed["terms"], **changes)

        def change(case: Case) -> Case:
            return dataclasses.replace(case, got=_right_policy(case, observed["used"], terms))

        return _wrong_cases(change)(observed)

    return wrong


def _wrong_example(
    name: str, change: Callable[[np.ndarray], Any]
) -> Callable[[Observed], Observed]:
    """Return what a loss that reads a field wrongly would have given."""

    def wrong(observed: Observed) -> Observed:
        def misread(case: Case) -> Case:
            read = dataclasses.replace(
                case, example={**case.example, name: change(case.example[name])}
            )
            if "terms" in observed:
                got = _right_policy(read, observed["used"], observed["terms"])
            else:
                got = _right_value(read, observed["clip_range"])
            return dataclasses.replace(case, got=got)

        return _wrong_cases(misread)(observed)

    return wrong


def _shifted(figures: Figures) -> Figures:
    return dataclasses.replace(figures, gradient=np.roll(figures.gradient, 1, axis=1))


def _leaking(figures: Figures) -> Figures:
    return dataclasses.replace(figures, gradient=figures.gradient + np.float32(1e-12))


def _all_nan(figures: Figures) -> Figures:
    return dataclasses.replace(figures, gradient=np.full_like(figures.gradient, np.nan))


def _over_all_places(figures: Figures) -> Figures:
    share = sum(_LENGTHS) / (_ROWS * _TOKENS)
    return Figures(
        figures.loss * share,
        {name: each * share for name, each in figures.aux.items()},
        figures.gradient * share,
    )


def _summed(figures: Figures) -> Figures:
    return Figures(figures.loss + 1.0, figures.aux, figures.gradient)


def _wrong_clip(observed: Observed) -> Observed:
    """A critic's loss without its clip."""
    return _wrong_cases(lambda case: dataclasses.replace(case, got=_right_value(case, np.inf)))(
        observed
    )


def _wrong_estimates(
    change: Callable[[Estimate], tuple[np.ndarray, np.ndarray]],
) -> Callable[[Observed], Observed]:
    def wrong(case: Estimate) -> Estimate:
        advantages, returns = change(case)
        return dataclasses.replace(case, advantages=advantages, returns=returns)

    return _wrong_cases(wrong)


def _with_rates(**changes: Any) -> Callable[[Observed], Observed]:
    return _wrong_estimates(lambda case: _right_estimate(dataclasses.replace(case, **changes)))


def _not_whitened(case: Estimate) -> tuple[np.ndarray, np.ndarray]:
    return advantage_lib.gae(case.rewards, case.values, case.mask, case.gamma, case.gae_lambda)


def _biased(case: Estimate) -> tuple[np.ndarray, np.ndarray]:
    real = case.mask.sum()
    advantages, returns = _right_estimate(case)
    return advantages * np.sqrt(real / max(real - 1, 1)), returns


def _per_row(case: Estimate) -> tuple[np.ndarray, np.ndarray]:
    raw, returns = _not_whitened(case)
    rows = [advantage_lib.whiten(a, m) for a, m in zip(raw, case.mask, strict=True)]
    return np.stack(rows), returns


def _through_padding(case: Estimate) -> tuple[np.ndarray, np.ndarray]:
    """Every place a step, as if nothing were masked."""
    everything = np.ones_like(case.mask)
    raw, returns = advantage_lib.gae(
        case.rewards, case.values, everything, case.gamma, case.gae_lambda
    )
    return advantage_lib.whiten(raw, case.mask), returns


def _whitened_returns(case: Estimate) -> tuple[np.ndarray, np.ndarray]:
    advantages, _ = _right_estimate(case)
    return advantages, advantages + case.values


def _nowhere(case: Estimate) -> tuple[np.ndarray, np.ndarray]:
    nothing = np.full(case.mask.shape, np.nan)
    return nothing, nothing


PROPERTIES = (
    Property(
        id="policy-loss",
        area="losses",
        statement=(
            "The policy's loss is the clipped surrogate with both bounds and the second clip, "
            "less the entropy bonus, as a mean over real tokens; its gradient is the closed form, "
            "and 0 on prompts and masked places."
        ),
        tolerance=_FORMULA,
        observe=_observe_policy,
        compare=_compare_policy,
        wrong={
            "one bound for both": _wrong_policy(high=0.05),
            "bounds swapped": _wrong_policy(low=0.1, high=0.05),
            "no second clip": _wrong_policy(second=None),
            "another second clip": _wrong_policy(second=1.4),
            "no entropy in the loss": _wrong_policy(entropy=0.0),
            "entropy punished": _wrong_policy(entropy=-0.01),
            "advantages negated": _wrong_example("advantages", np.negative),
            "advantages a place late": _wrong_example("advantages", lambda x: np.roll(x, 1, 1)),
            "mean over all places": _wrong_figures(_over_all_places),
            "gradient a place late": _wrong_figures(_shifted),
            "gradient on prompts": _wrong_figures(_leaking),
        },
        defects=("log-prob-temperature",),
    ),
    Property(
        id="policy-loss-plain",
        area="losses",
        statement=(
            "Without second clip and entropy bonus the policy's loss is the clipped surrogate "
            "alone, and a bound of 0 is 0."
        ),
        tolerance=_FORMULA,
        observe=_observe_plain,
        compare=_compare_plain,
        wrong={
            "another lower bound": _wrong_policy(low=0.1),
            "another upper bound": _wrong_policy(high=0.3),
            "no upper bound": _wrong_policy(high=1e6),
            "a second clip": _wrong_policy(second=2.0),
            "an entropy bonus": _wrong_policy(entropy=0.01),
            "bounds not handed on": lambda seen: {**seen, "bounds": [(0.2, 0.2)] * 3},
        },
        defects=("log-prob-temperature", "epsilon-zero-ignored"),
    ),
    Property(
        id="value-loss",
        area="losses",
        statement=(
            "The critic's loss is half the mean of the larger of the plain and the clipped "
            "squared error of the value before each real token; its gradient is the closed form, "
            "and 0 on prompts and masked places."
        ),
        tolerance=_FORMULA,
        observe=_observe_value,
        compare=_compare_value,
        wrong={
            "no clip": _wrong_clip,
            "old values a place late": _wrong_example("old_values", lambda x: np.roll(x, 1, 1)),
            "returns of another row": _wrong_example("returns", lambda x: np.roll(x, 1, 0)),
            "over all places": _wrong_figures(_over_all_places),
            "not halved": _wrong_figures(
                lambda x: dataclasses.replace(x, loss=2 * x.loss, gradient=2 * x.gradient)
            ),
            "values after the tokens": _wrong_figures(_shifted),
            "gradient on prompts": _wrong_figures(_leaking),
        },
    ),
    Property(
        id="degenerate-batches",
        area="losses",
        statement=(
            "One real token, a wholly masked row, a wholly masked batch and advantages of 0 give "
            "the losses and gradients of their formulas; a mean of nothing is 0."
        ),
        tolerance=_FORMULA,
        observe=_observe_degenerate,
        compare=_compare_degenerate,
        wrong={
            "NaN": _wrong_figures(_all_nan),
            "an empty mean of 1": _wrong_figures(_summed),
            "mean over all places": _wrong_figures(_over_all_places),
            "a critic's NaN": lambda seen: {
                **seen,
                "value": _wrong_figures(_all_nan)(seen["value"]),
            },
        },
        defects=("log-prob-temperature",),
    ),
    Property(
        id="masked-garbage-does-not-count",
        area="masks",
        statement=(
            "Numbers as large as 1e6, of either sign, at masked places leave both losses, what "
            "is reported beside them, and their gradients equal bit for bit."
        ),
        tolerance=EXACT,
        observe=_observe_masked_garbage,
        compare=_compare_masked_garbage,
        wrong={
            "loss over all places": _wrong_figures(_over_all_places),
            "gradient at masked places": _wrong_figures(_leaking),
            "NaN everywhere": _wrong_figures(_all_nan),
        },
        defects=("masked-gradient-nan",),
    ),
    Property(
        id="masked-nan-does-not-count",
        area="masks",
        statement="NaN at masked places leaves both losses and their gradients as they are.",
        tolerance=EXACT,
        observe=_observe_masked_nan,
        compare=_compare_masked_nan,
        wrong={
            "another loss": _wrong_figures(_summed),
            "gradient at masked places": _wrong_figures(_leaking),
            "NaN everywhere": _wrong_figures(_all_nan),
        },
        defects=("masked-nan-leaks",),
    ),
    Property(
        id="gae",
        area="advantages",
        statement=(
            "Advantages are GAE's over the real tokens of a row, whitened over all real tokens; "
            "returns are advantages before whitening, plus values."
        ),
        tolerance=_WHITENED,
        observe=_observe_gae,
        compare=_compare_gae,
        wrong={
            "lambda ignored": _with_rates(gae_lambda=1.0),
            "discount ignored": _with_rates(gamma=1.0),
            "not whitened": _wrong_estimates(_not_whitened),
            "biased variance": _wrong_estimates(_biased),
            "whitened by row": _wrong_estimates(_per_row),
            "steps through masked places": _wrong_estimates(_through_padding),
            "returns of whitened advantages": _wrong_estimates(_whitened_returns),
        },
    ),
    Property(
        id="gae-masked",
        area="masks",
        statement=(
            "Large numbers and NaN at masked places of rewards and values leave advantages and "
            "returns equal bit for bit."
        ),
        tolerance=EXACT,
        observe=_observe_gae_masked,
        compare=_compare_gae_masked,
        wrong={
            "steps through masked places": _wrong_estimates(_through_padding),
            "NaN everywhere": _wrong_estimates(_nowhere),
        },
        defects=("masked-nan-leaks",),
    ),
    Property(
        id="gae-one-token",
        area="advantages",
        statement=(
            "Whitening gives 0 for one real token and for equal advantages, and the right scale "
            "for two tokens."
        ),
        tolerance=_WHITENED,
        observe=_observe_gae_degenerate,
        compare=_compare_gae,
        wrong={
            "not whitened": _wrong_estimates(_not_whitened),
            "biased variance": _wrong_estimates(_biased),
            "NaN everywhere": _wrong_estimates(_nowhere),
        },
        defects=("whiten-one-token",),
    ),
)
