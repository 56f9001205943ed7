"""What the models of all artefacts share: bounded figures, and where something was measured."""

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _finite(value: Any) -> Any:
    """Return None for what is not finite: JSON has no name for it, Python's dialect has."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


# Bounded, so that no figure runs out of what a chart's arithmetic can hold.
Count = Annotated[int, Field(ge=0, le=2**63)]
Amount = Annotated[float, Field(ge=0, le=1e24, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Reading = Annotated[
    Annotated[float, Field(ge=-1e18, le=1e18, allow_inf_nan=False)] | None, BeforeValidator(_finite)
]


class Part(BaseModel):
    """A part of an artefact; keys that the model does not name are not looked at."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with the keys that were given and no others."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class OpenPart(Part):
    """A part that retains the keys that the model does not name."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Upstream(Part):
    """Which Tunix, in which mode."""

    mode: str
    version: str
    fixes: list[str] = []


class Processor(OpenPart):
    """The host's processor."""

    model: str | None = None
    count: int | None = None


class Devices(OpenPart):
    """The accelerators, or the host as one."""

    kind: str | None = None
    count: int | None = None


class Environment(OpenPart):
    """Where something was measured; see `harness.measure.environment.fingerprint`."""

    python: str | None = None
    cpu: Processor = Processor()
    packages: dict[str, str | None] = {}
    backend: str | None = None
    devices: Devices = Devices()
