"""The machine as a debugger sees it: harts that are held or run, their registers, memory by virtual address.

Everything but `hold` and `held` is for while all harts are held: then their threads sleep, and their records may be
read and written from here. A hart that waits for a device in the middle of an instruction cannot be held before the
device answers; it counts as held when its thread sleeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from core.board.virt import RAM_BASE, ROM_BASE, ROM_SIZE
from core.cpu.state import (
    ACTIVITY_IDLE,
    ACTIVITY_PAUSED,
    ACTIVITY_STOPPED,
    BREAKPOINTS,
    CONTROL_DEBUG,
    MACHINE,
    PAGE_SIZE,
    STOP_BREAKPOINT,
    STOP_STEP,
    STOP_WATCHPOINT,
    USER,
    WATCH_READ,
    WATCH_WRITE,
    WATCHPOINTS,
    Hart,
)
from core.cpu.walk import NO_ADDRESS
from core.gdb.registers import CSR_FIRST, F_FIRST, PC, PRIVILEGE

__all__ = ["Access", "BadAccess", "Stop", "Target", "Why"]

MODES = {USER: "user", 1: "supervisor", MACHINE: "machine"}
WORD = (1 << 64) - 1


class BadAccess(Exception):
    """There is no such memory or register, or not for this."""


class Access(IntEnum):
    """What a watchpoint watches."""

    READ = WATCH_READ
    WRITE = WATCH_WRITE
    ANY = WATCH_READ | WATCH_WRITE


class Why(IntEnum):
    """Why a hart has stopped."""

    ASKED = 0
    BREAKPOINT = STOP_BREAKPOINT
    STEP = STOP_STEP
    WATCHPOINT = STOP_WATCHPOINT


@dataclass(frozen=True)
class Stop:
    """A hart that has stopped, and why."""

    hart: int
    why: Why
    address: int = 0  # of a watchpoint's access
    access: Access = Access.WRITE


class Target:
    """The harts and memory of one machine. `engine`, `harts`, `ram` and `rom` are core.assembly's."""

    def __init__(self, engine: Any, harts: list[Hart], ram: memoryview, rom: memoryview, dirty: memoryview) -> None:
        self.harts = harts
        self.breakpoints: set[int] = set()
        self.watches: set[tuple[int, int, Access]] = set()  # address, length, access
        self._engine = engine
        self._spans = ((RAM_BASE, ram), (ROM_BASE, rom[:ROM_SIZE]))
        self._dirty = dirty
        self._undecoded: set[int] = set()  # breakpoints whose instructions are not decoded anywhere

    # -- running and holding ---------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Ask every hart to stop; `held` says when they have."""
        for hart in self.harts:
            self._engine.control_hart(hart, CONTROL_DEBUG)

    def held(self) -> bool:
        """Does no hart run?"""
        resting = (ACTIVITY_PAUSED, ACTIVITY_IDLE, ACTIVITY_STOPPED)
        return all(hart.control & CONTROL_DEBUG and hart.activity in resting for hart in self.harts)

    def some_held(self) -> bool:
        """Is any hart held, or about to be?"""
        return any(hart.control & CONTROL_DEBUG for hart in self.harts)

    def settle(self) -> Stop:
        """Why the harts are held: the first hart with a reason of its own, else hart 0, which was asked to."""
        found = Stop(0, Why.ASKED)
        for number, hart in enumerate(self.harts):
            why = Why(self._engine.debug_settle(hart))
            if why is not Why.ASKED and found.why is Why.ASKED:
                found = Stop(number, why, hart.watch_hit, Access(hart.watch_hit_access or Access.WRITE))
        return found

    def step(self, number: int, *, skip_watches: bool = False) -> None:
        """Let one hart run one instruction."""
        hart = self.harts[number]
        self._apply()
        self._undecoded.clear()  # this one will be decoded
        self._engine.debug_step(hart, skip_watches)
        self._engine.release_hart(hart, CONTROL_DEBUG)

    def at_breakpoint(self) -> list[int]:
        """The harts that stand on a breakpoint, and must step over it before the others go on."""
        return [number for number, hart in enumerate(self.harts) if hart.pc in self.breakpoints]

    def go(self) -> None:
        """Let every hart run."""
        self._apply()
        for hart in self.harts:
            self._engine.release_hart(hart, CONTROL_DEBUG)

    def let_go(self) -> None:
        """The debugger leaves: nothing of it remains."""
        self.breakpoints.clear()
        self.watches.clear()
        self.settle()
        self.go()

    def _apply(self) -> None:
        """Tell the harts about breakpoints and watchpoints."""
        watches = sorted(self.watches)
        refresh = not self.breakpoints <= self._undecoded
        for hart in self.harts:
            hart.breakpoint_count = len(self.breakpoints)
            for index, address in enumerate(sorted(self.breakpoints)):
                hart.breakpoints[index] = address
            before = [(hart.watches[n].first, hart.watches[n].last) for n in range(hart.watch_count)]
            hart.watch_count = len(watches)
            for index, (address, length, access) in enumerate(watches):
                watch = hart.watches[index]
                watch.first, watch.last, watch.access = address, address + length - 1, access
            refresh |= before != [(address, address + length - 1) for address, length, _ in watches]
        if refresh:
            self._forget()
        self._undecoded = set(self.breakpoints)

    def _forget(self) -> None:
        for hart in self.harts:
            self._engine.debug_refresh(hart)

    # -- what stops them -------------------------------------------------------------------------------------------

    def add_breakpoint(self, address: int) -> None:
        """Stop before the instruction at this virtual address. Raises BadAccess when there are too many."""
        if len(self.breakpoints | {address}) > BREAKPOINTS:
            raise BadAccess(f"at most {BREAKPOINTS} breakpoints")
        self.breakpoints.add(address)

    def add_watch(self, address: int, length: int, access: Access) -> None:
        """Stop at accesses to these bytes. Raises BadAccess."""
        if not 0 < length <= PAGE_SIZE or address + length > WORD:
            raise BadAccess(f"a watchpoint of {length} bytes")
        if len(self.watches | {(address, length, access)}) > WATCHPOINTS:
            raise BadAccess(f"at most {WATCHPOINTS} watchpoints")
        self.watches.add((address, length, access))

    # -- registers -------------------------------------------------------------------------------------------------

    def read_register(self, number: int, register: int) -> int:
        """A register of a hart, by gdb's number. Raises BadAccess."""
        hart = self.harts[number]
        if 0 <= register < PC:
            return int(hart.x[register])
        if register == PC:
            return int(hart.pc)
        if F_FIRST <= register < CSR_FIRST:
            return int(hart.f[register - F_FIRST])
        if register == PRIVILEGE:
            return int(hart.privilege)
        return int(self._engine.debug_read_csr(hart, self._csr(register)))

    def write_register(self, number: int, register: int, value: int) -> None:
        """Write a register. Raises BadAccess; what cannot be written stays (WARL)."""
        hart, value = self.harts[number], value & WORD
        if register == 0:
            return
        if 0 < register < PC:
            hart.x[register] = value
        elif register == PC:
            hart.pc = value & ~1
        elif F_FIRST <= register < CSR_FIRST:
            hart.f[register - F_FIRST] = value
        elif register == PRIVILEGE:
            raise BadAccess("the privilege mode changes by traps and returns only")
        else:
            self._engine.debug_write_csr(hart, self._csr(register), value)

    def _csr(self, register: int) -> int:
        csr = register - CSR_FIRST
        if not 0 <= csr < 4096 or not self._engine.debug_has_csr(csr):
            raise BadAccess(f"no register {register}")
        return csr

    def describe(self, number: int) -> str:
        """A line about a hart."""
        hart = self.harts[number]
        state = "stopped (HSM)" if hart.activity == ACTIVITY_STOPPED else MODES.get(hart.privilege, "?")
        return f"hart {number}: {state}{', in WFI' if hart.waiting else ''}"

    # -- memory ----------------------------------------------------------------------------------------------------

    def read(self, number: int, address: int, size: int) -> bytes:
        """Memory as the hart sees it; fewer bytes where it ends. Raises BadAccess when not even the first is there."""
        found = bytearray()
        while len(found) < size:
            at = address + len(found)
            part = min(size - len(found), PAGE_SIZE - at % PAGE_SIZE)
            view = self._locate(number, at, part, writing=False)
            if view is None:
                break
            found += view
        if size and not found:
            raise BadAccess(f"no memory at {address:#x}")
        return bytes(found)

    def read_physical(self, address: int, size: int) -> bytes:
        """Memory by physical address; fewer bytes where it ends. Raises BadAccess when not even the first is there."""
        for base, view in self._spans:
            if base <= address < base + len(view):
                return bytes(view[address - base : address - base + size])
        raise BadAccess(f"no memory at physical address {address:#x}")

    def write(self, number: int, address: int, data: bytes) -> None:
        """Write memory; all of it or nothing. Raises BadAccess."""
        parts = []
        done = 0
        while done < len(data):
            at = address + done
            size = min(len(data) - done, PAGE_SIZE - at % PAGE_SIZE)
            view = self._locate(number, at, size, writing=True)
            if view is None:
                raise BadAccess(f"no memory at {at:#x}")
            parts.append((view, data[done : done + size]))
            done += size
        for view, piece in parts:
            view[:] = piece
        self._forget()

    def _locate(self, number: int, address: int, size: int, *, writing: bool) -> memoryview | None:
        """Bytes inside one page of RAM, or (for reading) of the boot ROM; registers of devices are not peeked at."""
        physical = self._engine.debug_translate(self.harts[number], address & WORD)
        if physical == NO_ADDRESS:
            return None
        for base, view in self._spans[:1] if writing else self._spans:
            if base <= physical and physical + size <= base + len(view):
                if writing:
                    self._dirty[(physical - RAM_BASE) // PAGE_SIZE] = 0xFF  # a bit too many does no harm
                return view[physical - base : physical - base + size]
        return None
