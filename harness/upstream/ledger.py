"""The ledger: what is known to be wrong in Tunix's PPO, and what is done about it."""

import dataclasses
import importlib.metadata
import warnings
from collections.abc import Callable
from typing import Literal

from harness import errors
from harness.upstream import probes

Mode = Literal["mended", "stock"]
SUPPORTED = ("0.1.6", "0.1.7")


@dataclasses.dataclass(frozen=True)
class Defect:
    """One entry.

    Attributes:
      id: Short name, used in results.
      title: What is wrong, in a line.
      where: File and line in `google-tunix` 0.1.7.
      effect: What it does to learning.
      mend: How it is corrected here, at the seam.
      probe: Runs upstream's code and tells whether the defect is there.
    """

    id: str
    title: str
    where: str
    effect: str
    mend: str
    probe: Callable[[], bool]


DEFECTS: tuple[Defect, ...] = (
    Defect(
        id="reward-truncated",
        title="Fractional rewards are cut to integers.",
        where="tunix/rl/ppo/ppo_learner.py:353",
        effect=(
            "The reward tensor is made like the token ids, int32: the recipe's 0.1 for a "
            "well-formed answer becomes 0, while the logged score still shows 0.1."
        ),
        mend="The learner's reward tensor is float32.",
        probe=probes.rewards_truncated,
    ),
    Defect(
        id="end-token-dropped",
        title="The end token is cut from the completion before training.",
        where="tunix/generate/sampler.py:945",
        effect=(
            "The choice to stop has no log-probability, value or gradient, and its reward "
            "lands on the token before it: a policy that stops too early is never told."
        ),
        mend="The rollout keeps the end token that was drawn; the text has none, as before.",
        probe=probes.end_token_dropped,
    ),
    Defect(
        id="noise-repeats",
        title="Every generation draws the same noise.",
        where="tunix/generate/sampler.py:836",
        effect=(
            "Without a seed in the rollout configuration each call uses PRNGKey(0), so row i "
            "of every batch sees one fixed noise sequence and exploration is correlated."
        ),
        mend="Each generation's key is the run's seed folded with the number of the call.",
        probe=probes.noise_repeats,
    ),
)


def installed_version() -> str:
    """Gives the version of the installed Tunix.

    Raises:
      HarnessError: It is not installed, or the empty package of the name
        `tunix` is in its place.
    """
    try:
        return importlib.metadata.version("google-tunix")
    except importlib.metadata.PackageNotFoundError:
        raise errors.HarnessError(
            "google-tunix is not installed (the package called tunix is an empty "
            "placeholder): pip install google-tunix"
        ) from None


def present() -> tuple[str, ...]:
    """Probes the installed Tunix and gives the ids of the defects found."""
    with warnings.catch_warnings():
        # The very warning that gives the first defect away.
        warnings.simplefilter("ignore", FutureWarning)
        return tuple(defect.id for defect in DEFECTS if defect.probe())


def mends(mode: Mode) -> tuple[str, ...]:
    """Gives the ids of the mends to apply: of every defect found, or none.

    Args:
      mode: `mended`, or `stock` for Tunix exactly as installed.

    Returns:
      Ids in the ledger's order.
    """
    return present() if mode == "mended" else ()
