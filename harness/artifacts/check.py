"""What `check --json` writes."""

from typing import Literal

from pydantic import Field, computed_field

from harness.artifacts.parts import Part

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

    schema_name: Literal["tunix-ppo-harness/check/2"] = Field(alias="schema")
    mode: str
    version: str
    properties: list[Property]
    defects: list[Defect]

    @computed_field
    @property
    def ok(self) -> bool:
        """Whether nothing is wrong beyond the known issues."""
        return all(each.status in ("pass", "known-defect") for each in self.properties)
