"""What the mask hides does not reach the losses."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from harness.checks.context import Context
from harness.checks.properties.loss import (
    figures_over_all_positions,
    leaking_figures,
    nan_figures,
    policy_case_of,
    summed_figures,
    value_case_of,
    wrong_figures,
)
from harness.checks.properties.loss_cases import (
    GARBAGE,
    PROMPT,
    Case,
    mask_of_lengths,
    policy_inputs_of,
    value_inputs_of,
)
from harness.checks.property import EXACT, Comparison, Observed, Property


def _spoilt(example: Mapping[str, Any], names: tuple[str, ...], fills: Any) -> dict[str, Any]:
    """Put other things at the masked positions of some fields."""
    masked = ~example["completion_mask"]
    changed = dict(example)
    for index, name in enumerate(names):
        changed[name] = example[name].copy()
        # Of two fields each pair of fills meets somewhere.
        changed[name][masked] = np.resize(np.repeat(fills, index + 1), masked.sum())
    return changed


def _masked_cases(context: Context, spoils: Mapping[str, tuple[tuple[str, ...], Any]]) -> Observed:
    """Run both losses on clean and on spoilt examples."""
    policy = policy_inputs_of(context.recipe.rollout.temperature, mask_of_lengths())
    value = value_inputs_of(mask_of_lengths())
    clean = {
        "policy": policy_case_of(context, "clean", *policy),
        "value": value_case_of(context, "clean", *value),
    }
    cases = []
    for name, (fields, fills) in spoils.items():
        if fields[0] in policy[1]:
            spoilt = policy_case_of(context, name, policy[0], _spoilt(policy[1], fields, fills))
            cases.append((clean["policy"], spoilt))
        else:
            spoilt = value_case_of(context, name, value[0], _spoilt(value[1], fields, fills))
            cases.append((clean["value"], spoilt))
    return {"clean": [a for a, _ in cases], "cases": [b for _, b in cases]}


def _compare_spoilt(
    clean: Case, case: Case, nan_positions: np.ndarray, nan_figures: bool = False
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
    excused = nan_positions[..., None] & np.isnan(got.gradient)
    gradient = np.where(excused, want.gradient, got.gradient)
    yield Comparison(f"{case.name}: gradient", gradient, want.gradient)


def _observe_masked_garbage(context: Context) -> Observed:
    return _masked_cases(
        context,
        {
            "policy": (
                ("old_per_token_logps", "advantages", "ref_per_token_logps"),
                (GARBAGE, -GARBAGE),
            ),
            "value": (("old_values", "returns"), (GARBAGE, -GARBAGE)),
        },
    )


def _compare_masked_garbage(observed: Observed, known: Collection[str]) -> Iterator[Comparison]:
    for clean, case in zip(observed["clean"], observed["cases"], strict=True):
        nan_positions = np.zeros(case.outputs.shape[:2], bool)
        old = case.example.get("old_per_token_logps")
        if "masked-gradient-nan" in known and old is not None:
            # There exp(new - old) is infinite, and its slope times 0 is NaN.
            nan_positions[:, PROMPT - 1 : -1] = old == -GARBAGE
        yield from _compare_spoilt(clean, case, nan_positions)


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
        nan_positions = np.zeros(case.outputs.shape[:2], bool)
        nan_positions[:, PROMPT - 1 : -1] = leaks & ~case.mask
        yield from _compare_spoilt(clean, case, nan_positions, leaks)


PROPERTIES = (
    Property(
        id="masked-garbage-does-not-count",
        area="masks",
        statement=(
            "Numbers as large as 1e6, of either sign, at masked positions leave both losses, what "
            "is reported beside them, and their gradients equal bit for bit."
        ),
        tolerance=EXACT,
        observe=_observe_masked_garbage,
        compare=_compare_masked_garbage,
        wrong={
            "loss over all positions": wrong_figures(figures_over_all_positions),
            "gradient at masked positions": wrong_figures(leaking_figures),
            "NaN everywhere": wrong_figures(nan_figures),
        },
        defects=("masked-gradient-nan",),
    ),
    Property(
        id="masked-nan-does-not-count",
        area="masks",
        statement="NaN at masked positions leaves both losses and their gradients as they are.",
        tolerance=EXACT,
        observe=_observe_masked_nan,
        compare=_compare_masked_nan,
        wrong={
            "another loss": wrong_figures(summed_figures),
            "gradient at masked positions": wrong_figures(leaking_figures),
            "NaN everywhere": wrong_figures(nan_figures),
        },
        defects=("masked-nan-leaks",),
    ),
)
