"""The table of CSRs: address, name, where the value is, which bits can be written, and what else access depends on.

One row a CSR (privileged ISA, tables 3 to 8; unprivileged ISA, chapters 6, 8 and 20). Its address says the lowest
privilege and whether it is read-only (2.1). What is not in the table is an illegal instruction. A FIELD is a u64 of
`Hart` and a CONSTANT a number; every other kind has a case in csr.py. From the rows come the arrays that compiled code
reads, by row number (`ROW[address]`; 0: no such CSR), and the reference page in docs/.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from core.cpu.state import PMP_ENTRIES, Hart
from core.cpu.status import (
    COUNTER_CY,
    COUNTER_IR,
    COUNTER_TM,
    ENVCFG_FIOM,
    ENVCFG_STCE,
    MEDELEG_WRITABLE,
    MIP_ALL,
    MIP_SUPERVISOR,
)
from native import table, u8, u32, u64

ANY = (1 << 64) - 1


class Kind(IntEnum):
    """How a CSR is read and written."""

    CONSTANT = 0  # writes, where the address allows them, change nothing
    FIELD = 1
    FCSR = 2
    MSTATUS = 3
    SSTATUS = 4
    MIP = 5
    SIE = 6
    SIP = 7
    TVEC = 8  # mtvec, stvec
    SATP = 9
    CYCLE = 10
    INSTRET = 11
    TIME = 12
    STIMECMP = 13
    COUNTINHIBIT = 14
    MENVCFG = 15
    PMPCFG = 16
    PMPADDR = 17


class Needs(IntFlag):
    """What access needs besides privilege."""

    NOTHING = 0
    FP = 1  # mstatus.FS not Off; a write makes it Dirty
    COUNTER = 2  # mcounteren, and scounteren in U-mode
    VIRTUAL_MEMORY = 4  # in S-mode, mstatus.TVM clear
    STCE = 8  # below M-mode, menvcfg.STCE and mcounteren.TM
    INTERRUPTS = 16  # not a condition: after a write interrupts are looked at anew


@dataclass(frozen=True)
class Csr:
    """One row."""

    address: int
    name: str
    kind: Kind = Kind.CONSTANT
    field: str = ""  # of Hart
    writable: int = 0  # bits
    needs: Needs = Needs.NOTHING
    value: int = 0  # of a constant

    @property
    def privilege(self) -> int:
        return self.address >> 8 & 3

    @property
    def read_only(self) -> bool:
        return self.address >> 10 == 3


def _field(address: int, name: str, writable: int = ANY, needs: Needs = Needs.NOTHING) -> Csr:
    return Csr(address, name, Kind.FIELD, name, writable, needs)


def _counters(first: int, prefix: str, needs: Needs = Needs.NOTHING) -> list[Csr]:
    """The hardware performance counters 3 to 31: none count."""
    return [Csr(first + n, f"{prefix}{n}", needs=needs) for n in range(3, 32)]


# misa (3.1.1): XLEN 64, extensions A C D F I M, modes S and U.
MISA = 2 << 62 | sum(1 << ord(letter) - ord("A") for letter in "ACDFIMSU")

CSRS = [
    # unprivileged
    _field(0x001, "fflags", 0x1F, Needs.FP),
    _field(0x002, "frm", 0x7, Needs.FP),
    Csr(0x003, "fcsr", Kind.FCSR, needs=Needs.FP),
    Csr(0xC00, "cycle", Kind.CYCLE, needs=Needs.COUNTER),
    Csr(0xC01, "time", Kind.TIME, needs=Needs.COUNTER),
    Csr(0xC02, "instret", Kind.INSTRET, needs=Needs.COUNTER),
    *_counters(0xC00, "hpmcounter", Needs.COUNTER),
    # supervisor
    Csr(0x100, "sstatus", Kind.SSTATUS),
    Csr(0x104, "sie", Kind.SIE),
    Csr(0x105, "stvec", Kind.TVEC, "stvec"),
    _field(0x106, "scounteren", COUNTER_CY | COUNTER_TM | COUNTER_IR),
    _field(0x10A, "senvcfg", ENVCFG_FIOM),
    _field(0x140, "sscratch"),
    _field(0x141, "sepc", ANY & ~1),
    _field(0x142, "scause"),
    _field(0x143, "stval"),
    Csr(0x144, "sip", Kind.SIP),
    Csr(0x14D, "stimecmp", Kind.STIMECMP, needs=Needs.STCE),
    Csr(0x180, "satp", Kind.SATP, needs=Needs.VIRTUAL_MEMORY),
    # machine
    Csr(0xF11, "mvendorid"),
    Csr(0xF12, "marchid"),
    Csr(0xF13, "mimpid"),
    Csr(0xF14, "mhartid", Kind.FIELD, "mhartid"),
    Csr(0xF15, "mconfigptr"),
    Csr(0x300, "mstatus", Kind.MSTATUS),
    Csr(0x301, "misa", value=MISA),
    _field(0x302, "medeleg", MEDELEG_WRITABLE),
    _field(0x303, "mideleg", MIP_SUPERVISOR, Needs.INTERRUPTS),
    _field(0x304, "mie", MIP_ALL, Needs.INTERRUPTS),
    Csr(0x305, "mtvec", Kind.TVEC, "mtvec"),
    _field(0x306, "mcounteren", COUNTER_CY | COUNTER_TM | COUNTER_IR),
    Csr(0x30A, "menvcfg", Kind.MENVCFG, "menvcfg", ENVCFG_FIOM | ENVCFG_STCE),
    Csr(0x320, "mcountinhibit", Kind.COUNTINHIBIT),
    *(Csr(0x320 + n, f"mhpmevent{n}") for n in range(3, 32)),
    _field(0x340, "mscratch"),
    _field(0x341, "mepc", ANY & ~1),
    _field(0x342, "mcause"),
    _field(0x343, "mtval"),
    Csr(0x344, "mip", Kind.MIP),
    *(Csr(0x3A0 + n, f"pmpcfg{n}", Kind.PMPCFG) for n in range(0, PMP_ENTRIES // 4, 2)),
    *(Csr(0x3B0 + n, f"pmpaddr{n}", Kind.PMPADDR) for n in range(PMP_ENTRIES)),
    # No trigger exists: tdata1 reads as type 0 whatever tselect selects (debug specification 0.13, 5.2).
    *(Csr(0x7A0 + n, name) for n, name in enumerate(("tselect", "tdata1", "tdata2", "tdata3"))),
    Csr(0xB00, "mcycle", Kind.CYCLE),
    Csr(0xB02, "minstret", Kind.INSTRET),
    *_counters(0xB00, "mhpmcounter"),
]

BY_NAME = {csr.name: csr for csr in CSRS}


def _rows() -> list[int]:
    rows = [0] * 4096
    for number, csr in enumerate(CSRS, 1):
        assert rows[csr.address] == 0, csr
        rows[csr.address] = number
    return rows


ROW = table(u8, _rows())
ROW_KIND = table(u8, [0] + [csr.kind for csr in CSRS])
ROW_NEEDS = table(u8, [0] + [csr.needs for csr in CSRS])
ROW_OFFSET = table(u32, [0] + [Hart.offset(csr.field) if csr.field else 0 for csr in CSRS])
ROW_WRITABLE = table(u64, [0] + [csr.writable for csr in CSRS])
ROW_VALUE = table(u64, [0] + [csr.value for csr in CSRS])
