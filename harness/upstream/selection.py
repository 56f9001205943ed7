"""Which fixes are in place: a list that may be empty, beside the engine that is always there."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator


@dataclasses.dataclass(frozen=True)
class Fixes(Collection[str]):
    """Fixes of known issues, as a collection of their ids.

    Attributes:
      ids: Ids of the issues that are fixed, in the registry's order.
      avoided: Ids of the issues that the engine never meets, whatever is fixed.
      stock: Whether Tunix is used exactly as installed, without the engine; then both are empty.
    """

    ids: tuple[str, ...] = ()
    avoided: tuple[str, ...] = ()
    stock: bool = False

    def __contains__(self, name: object) -> bool:
        return name in self.ids

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def cover(self, name: str) -> bool:
        """Return whether an issue is fixed or avoided."""
        return name in self.ids or name in self.avoided

    def without(self, names: Iterable[str]) -> "Fixes":
        """Return the same without the fixes of some issues.

        Args:
          names: Ids; those that are not fixed do not matter.
        """
        left_out = set(names)
        ids = tuple(each for each in self.ids if each not in left_out)
        return dataclasses.replace(self, ids=ids)


STOCK = Fixes(stock=True)
