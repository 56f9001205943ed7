"""Advantages and returns by GAE, whitened, on chosen masks."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from harness.checks.context import Context
from harness.checks.properties.loss import wrong_cases
from harness.checks.properties.loss_cases import GARBAGE, mask_of_lengths
from harness.checks.property import EXACT, Comparison, Observed, Property, Tolerance
from harness.oracle import advantage as advantage_lib
from harness.upstream.instrument import losses

_WHITENED = Tolerance(
    1e-5, 1e-5, "float32 keeps 7 digits, of which a variance of 24 tokens loses one or two"
)


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
    """Rows of every length, one of them with masked positions between real ones."""
    mask = mask_of_lengths()
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
            spoilt(rewards, -GARBAGE, GARBAGE),
            spoilt(values, GARBAGE, GARBAGE, -GARBAGE),
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
        # NaN at a masked position reaches what comes before it in its row, and by the mean
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
    one = mask_of_lengths((0, 0, 1, 0, 0, 0))
    constant = (
        np.where(mask_of_lengths(), 0.5, 0).astype(np.float32),
        np.zeros(one.shape, np.float32),
    )
    return {
        "cases": [
            _estimate(context, "one token", one),
            _estimate(context, "two tokens", mask_of_lengths((0, 0, 1, 0, 1, 0))),
            _estimate(context, "equal advantages", mask_of_lengths(), (0.0, 1.0), constant),
        ]
    }


def _wrong_estimates(
    change: Callable[[Estimate], tuple[np.ndarray, np.ndarray]],
) -> Callable[[Observed], Observed]:
    def wrong(case: Estimate) -> Estimate:
        advantages, returns = change(case)
        return dataclasses.replace(case, advantages=advantages, returns=returns)

    return wrong_cases(wrong)


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
    """Every position a step, as if nothing were masked."""
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
            "steps through masked positions": _wrong_estimates(_through_padding),
            "returns of whitened advantages": _wrong_estimates(_whitened_returns),
        },
    ),
    Property(
        id="gae-masked",
        area="masks",
        statement=(
            "Large numbers and NaN at masked positions of rewards and values leave advantages and "
            "returns equal bit for bit."
        ),
        tolerance=EXACT,
        observe=_observe_gae_masked,
        compare=_compare_gae_masked,
        wrong={
            "steps through masked positions": _wrong_estimates(_through_padding),
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
