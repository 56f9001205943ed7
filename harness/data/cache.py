"""Where prepared data is kept between runs; see `harness.cache`."""

from harness.cache import cache_root

__all__ = ["cache_root"]
