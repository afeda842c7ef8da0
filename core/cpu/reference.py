"""The reference page of the CSRs, made from their table: `python -m core.cpu.reference docs/csrs.md`."""

from __future__ import annotations

import sys
from pathlib import Path

from core.cpu.csrs import ANY, CSRS, Csr, Kind, Needs

INTRODUCTION = """\
# Control and status registers

Made from the table in `core/cpu/csrs.py` by `make docs`; do not edit. What is not listed is an illegal instruction. The
privilege is the lowest that has access. "Writable" is the mask of the bits that a write changes; *special* has rules of
its own, in `core/cpu/csr.py`; a constant ignores writes, where its address permits them.

| address | name | privilege | writable | needs |
|---|---|---|---|---|
"""
PRIVILEGES = {0: "U", 1: "S", 3: "M"}
NEEDS = {
    Needs.FP: "`mstatus.FS`",
    Needs.COUNTER: "`mcounteren`, in U-mode `scounteren` too",
    Needs.VIRTUAL_MEMORY: "in S-mode `mstatus.TVM` = 0",
    Needs.STCE: "below M-mode `menvcfg.STCE` and `mcounteren.TM`",
}


def _writable(csr: Csr) -> str:
    if csr.read_only:
        return "read-only"
    if csr.kind == Kind.CONSTANT:
        return f"constant {csr.value:#x}"
    if csr.kind != Kind.FIELD:
        return "*special*"
    return "all bits" if csr.writable == ANY else f"`{csr.writable:#x}`"


def page() -> str:
    """The text of docs/csrs.md."""
    rows = [
        f"| `{csr.address:#05x}` | `{csr.name}` | {PRIVILEGES[csr.privilege]} | {_writable(csr)} |"
        f" {NEEDS.get(csr.needs, '')} |\n"
        for csr in sorted(CSRS, key=lambda csr: csr.address)
    ]
    return INTRODUCTION + "".join(rows)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
