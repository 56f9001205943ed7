"""A warning of a run: something that does not stop it, and that its reader should know."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RunWarning:
    """Something that a run reports when it begins or ends, and in its result.

    Attributes:
      id: Short name.
      text: What was found, and what changes it.
    """

    id: str
    text: str
