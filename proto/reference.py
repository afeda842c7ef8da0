"""The tables of docs/link.md, made from the declarations: `python -m proto.reference docs/link.md`.

The page is written by hand; what stands between `<!-- begin NAME -->` and `<!-- end NAME -->` is replaced. A test
checks that the page is up to date, and decodes its test vectors.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from native import Record
from native.types import IntType
from proto.inflight import InflightEntry, InflightHeader, queue_region_size
from proto.messages import ERROR, MESSAGES, Structure, encode
from proto.pages import CoreStats, CoreToDevice, DeviceToCore, HartStatistics, QueueStatistics, layout_hash

__all__ = ["BLOCKS", "VECTORS", "update"]

VECTORS = (
    ("KICK of queue 3", encode("KICK", {"queue": 3}, epoch=2, seq=17, correlation=99)),
    ("an answer to RESET", encode("RESET", {}, epoch=2, seq=18, reply=True)),
    ("GET_BASE answered with 5", encode("GET_BASE", {"base": 5}, epoch=2, seq=19, reply=True)),
    (
        "MMIO_READ refused",
        encode("MMIO_READ", {"code": "StateError", "text": "no"}, epoch=2, seq=20, reply=True, error=True),
    ),
    (
        "MEM_TABLE with one region",
        encode(
            "MEM_TABLE",
            {"regions": [{"region": 0, "gpa": 0x80000000, "size": 0x10000000, "writable": True}]},
            epoch=2,
            seq=21,
        ),
    ),
)


def messages() -> str:
    """One row a message."""
    rows = ["| no. | name | sent by | body | answer | meaning |", "| --- | --- | --- | --- | --- | --- |"]
    for kind in MESSAGES.values():
        name = kind.name if kind.idempotent else f"{kind.name} (at most once)"
        answer = "posted" if kind.answer is None else _fields(kind.answer)
        rows.append(f"| {kind.number} | {name} | {kind.sender} | {_fields(kind.request)} | {answer} | {kind.meaning} |")
    rows.append(f"\nAn answer with the error flag has the body {_fields(ERROR)}.")
    return "\n".join(rows)


def _fields(structure: Structure) -> str:
    parts = []
    for field in structure.fields:
        meaning = f" ({field.meaning})" if field.meaning else ""
        parts.append(f"`{field.name}`{'?' if field.optional else ''} {field.type.name}{meaning}")
    return "; ".join(parts) or "empty"


def layouts() -> str:
    """Offsets of every field of the shared records."""
    parts = []
    for record in (
        CoreToDevice,
        DeviceToCore,
        QueueStatistics,
        InflightHeader,
        InflightEntry,
        CoreStats,
        HartStatistics,
    ):
        first = (record.__doc__ or "").split("\n")[0].rstrip(".")
        parts += [f"`{record.__name__}`: {first}. {record.size()} bytes.", "", "| offset | field | type |"]
        parts += ["| --- | --- | --- |", *_rows(record), ""]
    return "\n".join(parts).rstrip()


def _rows(record: type[Record]) -> list[str]:
    rows = []
    for name, field in record.fields.items():
        kind = field.type.name if isinstance(field.type, IntType) else field.type.__name__
        count = "" if field.count is None else f"[{field.count or 'queue size'}]"
        rows.append(f"| {field.offset:#05x} | {name} | {kind}{count} |")
    return rows


def vectors() -> str:
    """Messages as bytes, and numbers to check an implementation with."""
    lines = ["```text"]
    for title, data in VECTORS:
        lines.append(f"{title}:")
        text = data.hex(" ")
        lines += [f"    {text[start : start + 96]}" for start in range(0, len(text), 96)]
    lines += [
        "```",
        "",
        f"The layout hash of this version is `{layout_hash():#018x}`.",
        f"The in-flight region of a queue of 256 entries has {queue_region_size(256)} bytes.",
    ]
    return "\n".join(line.rstrip() for line in lines)


BLOCKS: dict[str, Callable[[], str]] = {"messages": messages, "layouts": layouts, "vectors": vectors}


def update(page: str, blocks: Mapping[str, Callable[[], str]] = BLOCKS) -> str:
    """The page with its blocks made anew. Raises ValueError when one is missing."""
    for name, make in blocks.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"the page has no block {name}")
        made = make()
        page = pattern.sub(lambda match, made=made: f"{match[1]}{made}\n{match[2]}", page)  # type: ignore[misc]
    return page


def main() -> int:
    """`python -m proto.reference PAGE`."""
    path = Path(sys.argv[1])
    path.write_text(update(path.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
