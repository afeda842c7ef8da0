"""The tables of docs/trace.md, made from the declarations: `python -m launcher.trace.reference docs/trace.md`.

As with docs/link.md, what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced, and a test checks
that the page is up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from launcher.trace.requests import FIELDS
from proto.filters import UNITS
from proto.reference import update
from proto.trace import DATA_BYTES, RECORDS, TRACE_SIZE, TracePoint, TraceSlot

__all__ = ["BLOCKS"]


def fields() -> str:
    """What a filter may ask for."""
    return "\n".join(
        ["| field | what it is |", "| --- | --- |", *(f"| `{n}` | {what} |" for n, what in FIELDS.items())]
    )


def units() -> str:
    """Of numbers in filters."""
    return "Units: " + ", ".join(f"`{name}`" for name in UNITS) + "."


def points() -> str:
    """One row a trace point."""
    rows = ["| no. | point | written by | fields, and where they lie |", "| --- | --- | --- | --- |"]
    for point in TracePoint:
        told = "; ".join(f"`{name}` {what} ({place})" for name, (place, what) in point.fields.items())
        rows.append(f"| {int(point)} | {point.name} | {point.writer} | {told} |")
    return "\n".join(rows)


def layout() -> str:
    """Of a slot, and the sizes."""
    rows = ["| offset | field | bytes |", "| --- | --- | --- |"]
    for name, field in TraceSlot.fields.items():
        size = DATA_BYTES if name == "data" else field.type.size
        rows.append(f"| {field.offset} | {name} | {size} |")
    sizes = (
        f"A ring has {RECORDS} slots of {TraceSlot.size()} bytes after a header of {TRACE_SIZE - RECORDS * 64} bytes."
    )
    return "\n".join([*rows, "", sizes])


BLOCKS: dict[str, Callable[[], str]] = {"fields": fields, "units": units, "points": points, "layout": layout}


def main() -> int:
    """`python -m launcher.trace.reference PAGE`."""
    path = Path(sys.argv[1])
    path.write_text(update(path.read_text(), BLOCKS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
