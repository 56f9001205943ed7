"""What tests of oracle share."""

from hypothesis import settings

PROPERTY = settings(max_examples=50, deadline=None, derandomize=True)
