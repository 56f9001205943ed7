"""What `check --json` writes."""

from typing import Literal

from pydantic import computed_field

from harness.artifacts.parts import Part

# Files of `check` have no schema as yet; one that has it is read too.
SCHEMA = "tunix-ppo-harness/check/2"
Status = Literal["pass", "known-defect", "fail", "error"]


class Property(Part):
    """One property and what became of it."""

    id: str
    area: str
    status: Status
    tolerance: str
    statement: str
    messages: list[str] = []


class Defect(Part):
    """One known issue."""

    id: str
    present: bool | None
    fixed: bool
    title: str
    where: str = ""
    releases: list[str] = []
    shown_by: list[str] = []
    reproduction: str | None = None


class Check(Part):
    """The artefact."""

    mode: str
    version: str
    properties: list[Property]
    defects: list[Defect]

    @computed_field
    @property
    def ok(self) -> bool:
        """Whether nothing is wrong beyond the known issues."""
        return all(each.status in ("pass", "known-defect") for each in self.properties)
