"""What the tests of core/cpu share: the functions under test in both runs, a bare machine, page tables, programs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from core.bare import BareMachine
from core.board.virt import RAM_BASE, Machine
from core.cpu import (
    access,
    atomic,
    calls,
    csr,
    fetch,
    hart,
    interrupts,
    linger,
    pmp,
    requests,
    signal,
    slots,
    tlb,
    traps,
    walk,
)
from core.cpu.engine import EXPORTS
from core.cpu.handlers import H_CROSS, H_DECODE
from core.cpu.interpreter import interpreter_ir
from core.cpu.state import Hart
from core.cpu.status import SATP_MODE_SHIFT
from core.isa.text import assemble
from native import Unit

MEGABYTE = 1 << 20
PAGE = 4096

UNDER_TEST = (
    access.load_slow,
    access.store_slow,
    atomic.amo_slow,
    atomic.load_reserved,
    atomic.store_conditional,
    csr.csr_access,
    fetch.fetch_page,
    fetch.fetch_parcel,
    hart.attend,
    interrupts.due_interrupt,
    linger.linger,
    linger.slept,
    pmp.pmp_permits,
    pmp.pmp_uniform,
    pmp.pmp_open,
    requests.serve_requests,
    signal.post_request,
    slots.do_fence_i,
    slots.slots_of,
    tlb.flush_all,
    tlb.flush_page,
    tlb.select_banks,
    traps.take_trap,
    traps.do_mret,
    traps.do_sret,
    traps.do_wfi,
    traps.do_ecall,
    traps.do_ebreak,
    traps.do_sfence_vma,
    walk.translate,
    walk.walk,
)

# Addresses of handlers, for the Python run: nobody jumps there.
DECODE, CROSS = 0x1000, 0x2000


class PythonRun:
    """The functions as Python, under the names of the engine."""

    def __init__(self) -> None:
        self._functions: dict[str, Any] = {f.name: f for f in (*EXPORTS, *UNDER_TEST)}

    def __getattr__(self, name: str) -> Any:
        return self._functions[name]

    def symbol_address(self, symbol: str) -> int:
        return {H_DECODE: DECODE, H_CROSS: CROSS}[symbol]


@cache
def native_run() -> Any:
    """The functions as machine code, with the checks of a debug build."""
    unit = Unit(
        "cpu-tests",
        exports=dict.fromkeys([*EXPORTS, *UNDER_TEST]),
        functions=calls.all_calls(),
        ir=interpreter_ir(),
        symbols=[H_DECODE, H_CROSS],
        debug=True,
    )
    return unit.load()


@cache
def python_run() -> PythonRun:
    return PythonRun()


class PageTables:
    """Page tables in the RAM of a machine, in the pages from `base` on; the root is the first."""

    def __init__(self, machine: BareMachine, base: int, levels: int = 3, index_bits: int = 9) -> None:
        self.machine = machine
        self.base = base
        self.levels = levels
        self.index_bits = index_bits
        self.entry_size = PAGE >> index_bits
        self._next = base + PAGE

    def satp(self, mode: int) -> int:
        return mode << SATP_MODE_SHIFT | self.base >> 12

    def map(self, va: int, pa: int, flags: int, level: int = 0) -> int:
        """Make a leaf at `level` for `va`; the address of its entry."""
        table = self.base
        for above in range(self.levels - 1, level, -1):
            where = self.entry_address(table, va, above)
            entry = self.entry(where)
            if not entry:
                entry = self._next >> 12 << 10 | 1
                self._next += PAGE
                self.set_entry(where, entry)
            table = entry >> 10 << 12
        where = self.entry_address(table, va, level)
        self.set_entry(where, pa >> 12 << 10 | flags)
        return where

    def entry_address(self, table: int, va: int, level: int) -> int:
        index = va >> (12 + level * self.index_bits) & ((1 << self.index_bits) - 1)
        return table + index * self.entry_size

    def entry(self, where: int) -> int:
        return int.from_bytes(self.machine.read(where, self.entry_size), "little")

    def set_entry(self, where: int, value: int) -> None:
        self.machine.write(where, value.to_bytes(self.entry_size, "little"))


def cause(hart: Hart) -> int | None:
    """The cause of the trap that is pending, which is taken back; None: there is none."""
    pending = hart.trap
    hart.trap = 0
    return pending - 1 if pending else None


def program(*lines: tuple[Any, ...]) -> bytes:
    """Instructions, as (name, operands by name), assembled."""
    return b"".join(assemble(name, **operands).to_bytes(4, "little") for name, operands in lines)


def small_machine(engine: Any, harts: int = 1, **options: Any) -> BareMachine:
    return BareMachine(engine, Machine(memory=MEGABYTE, harts=harts, **options))


def words(machine: BareMachine, offset: int, values: Iterable[int]) -> None:
    """Put 8-byte values into RAM."""
    for index, value in enumerate(values):
        machine.write(RAM_BASE + offset + 8 * index, value.to_bytes(8, "little"))
