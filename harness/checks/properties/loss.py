"""The policy loss and the value loss, figure by figure."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from harness import recipe as recipe_lib
from harness.checks.context import Context
from harness.checks.properties.loss_cases import (
    LENGTHS,
    PROMPT,
    ROWS,
    TOKENS,
    Case,
    Terms,
    mask_of_lengths,
    policy_inputs_of,
    value_inputs_of,
)
from harness.checks.property import Comparison, Observed, Property, Tolerance
from harness.oracle import advantage as advantage_lib
from harness.oracle import logprob
from harness.oracle import loss as loss_lib
from harness.upstream.instrument import losses
from harness.upstream.instrument.losses import Figures

_FORMULA = Tolerance(
    1e-5,
    2e-6,
    "float32 keeps 7 digits, of which sums of 23 tokens and exp of 8 logits lose one or two",
)


def policy_case_of(
    context: Context,
    name: str,
    logits: np.ndarray,
    example: dict[str, Any],
    ppo: recipe_lib.Ppo | None = None,
) -> Case:
    """Compute the policy loss of Tunix on inputs that `policy_inputs_of` made."""
    got = losses.policy_loss(context.components.learner, logits, example, ppo)
    return Case(name, logits, example, got)


def value_case_of(context: Context, name: str, values: np.ndarray, example: dict[str, Any]) -> Case:
    """Compute the value loss of Tunix on inputs that `value_inputs_of` made."""
    return Case(
        name, values, example, losses.value_loss(context.components.learner, values, example)
    )


def _right_policy(case: Case, temperature: float, terms: Terms) -> Figures:
    example, mask = case.example, case.mask
    logits = case.outputs[:, PROMPT - 1 : -1]
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
    gradient[:, PROMPT - 1 : -1] = own
    return Figures(loss, aux, gradient)


def _right_value(case: Case, clip_range: float) -> Figures:
    example, mask = case.example, case.mask
    values = case.outputs[:, PROMPT - 1 : -1, 0]
    given = values, example["old_values"], example["returns"], mask, clip_range
    found = loss_lib.value_loss(*given)
    gradient = np.zeros(case.outputs.shape)
    gradient[:, PROMPT - 1 : -1, 0] = loss_lib.value_loss_gradient(*given)
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
    elsewhere = ~case.positions
    if elsewhere.any():
        none = (got.gradient[elsewhere] == 0).all(axis=-1)
        yield Comparison(f"{case.name}: no gradient elsewhere", none, np.ones(none.shape, bool))


def _observe_policy(context: Context) -> Observed:
    temperature, mask = context.recipe.rollout.temperature, mask_of_lengths()
    return {
        "terms": Terms.of(context.recipe.ppo),
        "temperature": temperature,
        "used": temperature if "log-prob-temperature" in context.fixes else 1.0,
        "cases": [policy_case_of(context, "grid", *policy_inputs_of(temperature, mask))],
    }


def _compare_policy(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    temperature = 1.0 if "log-prob-temperature" in known else observed["temperature"]
    for case in observed["cases"]:
        yield from _compare_figures(case, _right_policy(case, temperature, observed["terms"]))


def _observe_plain(context: Context) -> Observed:
    temperature, mask = context.recipe.rollout.temperature, mask_of_lengths()
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
        "cases": [
            policy_case_of(context, "plain", *policy_inputs_of(temperature, mask), ppo=plain)
        ],
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
        "cases": [value_case_of(context, "grid", *value_inputs_of(mask_of_lengths()))],
    }


def _compare_value(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    del known
    for case in observed["cases"]:
        yield from _compare_figures(case, _right_value(case, observed["clip_range"]))


def _observe_degenerate(context: Context) -> Observed:
    temperature = context.recipe.rollout.temperature
    masks = {
        "one token": mask_of_lengths((0, 0, 1, 0, 0, 0)),
        "a masked row": mask_of_lengths((6, 0, 3, 5, 2, 6)),
        "nothing": mask_of_lengths((0,) * ROWS),
    }
    policy, value = [], []
    for name, mask in masks.items():
        policy.append(policy_case_of(context, name, *policy_inputs_of(temperature, mask)))
        value.append(value_case_of(context, name, *value_inputs_of(mask)))
    logits, example = policy_inputs_of(temperature, mask_of_lengths())
    example["advantages"] = np.zeros_like(example["advantages"])
    policy.append(policy_case_of(context, "equal rewards", logits, example))
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


def wrong_cases(change: Callable[[Any], Any]) -> Callable[[Observed], Observed]:
    """Change what every case gave."""

    def wrong(observed: Observed) -> Observed:
        return {**observed, "cases": [change(case) for case in observed["cases"]]}

    return wrong


def wrong_figures(change: Callable[[Figures], Figures]) -> Callable[[Observed], Observed]:
    """Change the figures of every case."""
    return wrong_cases(lambda case: dataclasses.replace(case, got=change(case.got)))


def _wrong_policy(**changes: Any) -> Callable[[Observed], Observed]:
    """Return what a loss of other terms would have given."""

    def wrong(observed: Observed) -> Observed:
        terms = dataclasses.replace(observed["terms"], **changes)

        def change(case: Case) -> Case:
            return dataclasses.replace(case, got=_right_policy(case, observed["used"], terms))

        return wrong_cases(change)(observed)

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

        return wrong_cases(misread)(observed)

    return wrong


def _shifted(figures: Figures) -> Figures:
    return dataclasses.replace(figures, gradient=np.roll(figures.gradient, 1, axis=1))


def leaking_figures(figures: Figures) -> Figures:
    """Let a gradient reach every position."""
    return dataclasses.replace(figures, gradient=figures.gradient + np.float32(1e-12))


def nan_figures(figures: Figures) -> Figures:
    """Make the gradient NaN."""
    return dataclasses.replace(figures, gradient=np.full_like(figures.gradient, np.nan))


def figures_over_all_positions(figures: Figures) -> Figures:
    """Take means over all positions, whatever the mask."""
    share = sum(LENGTHS) / (ROWS * TOKENS)
    return Figures(
        figures.loss * share,
        {name: each * share for name, each in figures.aux.items()},
        figures.gradient * share,
    )


def summed_figures(figures: Figures) -> Figures:
    """Add one to the loss."""
    return Figures(figures.loss + 1.0, figures.aux, figures.gradient)


def _wrong_clip(observed: Observed) -> Observed:
    """A critic's loss without its clip."""
    return wrong_cases(lambda case: dataclasses.replace(case, got=_right_value(case, np.inf)))(
        observed
    )


PROPERTIES = (
    Property(
        id="policy-loss",
        area="losses",
        statement=(
            "The policy's loss is the clipped surrogate with both bounds and the second clip, "
            "less the entropy bonus, as a mean over real tokens; its gradient is the closed form, "
            "and 0 on prompts and masked positions."
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
            "advantages a position late": _wrong_example("advantages", lambda x: np.roll(x, 1, 1)),
            "mean over all positions": wrong_figures(figures_over_all_positions),
            "gradient a position late": wrong_figures(_shifted),
            "gradient on prompts": wrong_figures(leaking_figures),
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
            "and 0 on prompts and masked positions."
        ),
        tolerance=_FORMULA,
        observe=_observe_value,
        compare=_compare_value,
        wrong={
            "no clip": _wrong_clip,
            "old values a position late": _wrong_example("old_values", lambda x: np.roll(x, 1, 1)),
            "returns of another row": _wrong_example("returns", lambda x: np.roll(x, 1, 0)),
            "over all positions": wrong_figures(figures_over_all_positions),
            "not halved": wrong_figures(
                lambda x: dataclasses.replace(x, loss=2 * x.loss, gradient=2 * x.gradient)
            ),
            "values after the tokens": wrong_figures(_shifted),
            "gradient on prompts": wrong_figures(leaking_figures),
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
            "NaN": wrong_figures(nan_figures),
            "an empty mean of 1": wrong_figures(summed_figures),
            "mean over all positions": wrong_figures(figures_over_all_positions),
            "a critic's NaN": lambda seen: {
                **seen,
                "value": wrong_figures(nan_figures)(seen["value"]),
            },
        },
        defects=("log-prob-temperature",),
    ),
)
