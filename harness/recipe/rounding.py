"""How much of what training changes is lost to rounding, by arithmetic on dtypes.

Nearest rounding, as in IEEE 754: of an update below half of the spacing of numbers about a weight,
nothing is left.
"""

import math

# Bits of the significand after the leading one.
_FRACTION_BITS = {"float32": 23, "bfloat16": 7}


def share_lost(update: float, deviation: float, dtype: str) -> float:
    """Return the share of weights that an update of one size leaves as they were.

    Weights are taken to be normal about 0, as kernels are drawn and, roughly, as trained ones
    are spread. An AdamW step is about the learning rate, whatever the gradient (Kingma and Ba
    2014, arXiv:1412.6980, sec. 2.1), so the rate stands for the update.

    Args:
      update: Size of the update, positive.
      deviation: Standard deviation of the weights.
      dtype: In which the weights are stored.

    Returns:
      A share of 1.
    """
    # Half of the spacing is one number between two powers of two; from this power on it is the
    # update or more. Where it is the update, AdamW's epsilon makes that a little smaller.
    exponent = math.ceil(math.log2(update)) + _FRACTION_BITS[dtype] + 1
    return math.erfc(2.0**exponent / deviation / math.sqrt(2))


def decays(decay: float, dtype: str) -> bool:
    """Return whether a moving average that is stored in a dtype can shrink at every value.

    Args:
      decay: Factor of each step, below 1.
      dtype: In which it is stored.

    Returns:
      Whether the step down from the smallest significand is more than half of the spacing.
    """
    return 1 - decay > 2.0 ** -(_FRACTION_BITS[dtype] + 1)
