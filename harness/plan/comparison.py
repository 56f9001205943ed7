"""In what two plans differ, to the byte."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

_FIELDS: Mapping[str, tuple[str, ...]] = {
    "resident": ("bytes",),
    "programs": (
        *("micro_batch", "argument_bytes", "output_bytes", "alias_bytes", "temp_bytes"),
        *("code_bytes", "peak_bytes", "fits"),
    ),
    "phases": ("peak_bytes", "fits"),
    "largest_micro_batches": ("compiles", "refused", "fits_beside_the_rest_about"),
}


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return in what two plans differ: the bytes of everything, exactly.

    Args:
      old: A plan as JSON.
      new: The same plan made again.

    Returns:
      A line for each difference; none if they are the same.
    """
    lines = [
        f"{key}: {old[key]} became {new[key]}"
        for key in ("chip", "hbm_bytes")
        if old[key] != new[key]
    ]
    for kind, fields in _FIELDS.items():
        tables = [{_name(each): each for each in plan.get(kind, ())} for plan in (old, new)]
        if kind == "largest_micro_batches" and not all(tables):
            continue  # only a sweep looks for them
        for name in dict.fromkeys(itertools.chain(*tables)):
            before, after = (table.get(name) for table in tables)
            if before is None or after is None:
                lines.append(f"{kind} {name}: {'new' if before is None else 'gone'}")
                continue
            lines += [
                f"{kind} {name}: {change}" for change in _changed_fields(before, after, fields)
            ]
    return lines


def _changed_fields(
    before: Mapping[str, Any], after: Mapping[str, Any], fields: Sequence[str]
) -> list[str]:
    return [
        f"{field} {_text(before[field], after[field])}"
        for field in fields
        if before[field] != after[field]
    ]


def _text(before: Any, after: Any) -> str:
    if isinstance(before, int) and isinstance(after, int):
        return f"{before:,} became {after:,}"
    return f"{before} became {after}"


def _name(each: Mapping[str, Any]) -> str:
    return f"{each['name']} of {each['micro_batch']}" if "micro_batch" in each else each["name"]
