"""Where prepared data, warm starts and compiled answers are kept between runs."""

import os
import pathlib

_VARIABLE = "PPO_HARNESS_CACHE"


def cache_root() -> pathlib.Path:
    """Return the cache folder, which need not exist.

    It is the environment variable `PPO_HARNESS_CACHE`, or
    `~/.cache/tunix-ppo-harness` where that is unset or empty.
    """
    chosen = os.environ.get(_VARIABLE)
    return pathlib.Path(chosen or "~/.cache/tunix-ppo-harness").expanduser()
