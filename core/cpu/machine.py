"""The harts of one machine: their records and the memory that belongs to them, made and reset from Python.

Everything a hart needs to run is allocated here: its record, its pool of decoded code, the maps that harts share. All
of it is lazily committed, so that an idle machine stays small.
"""

from __future__ import annotations

import time
from typing import Any

from core.board.boot import Boot, Mode
from core.board.state import HsmState
from core.board.virt import RAM_BASE, ROM_BASE, ROM_SIZE, BuiltBoard, Machine
from core.cpu.handlers import H_CROSS, H_DECODE
from core.cpu.state import (
    ACTIVITY_RUNNING,
    ACTIVITY_WAITING,
    CONTROL_EXIT,
    CONTROL_PAUSE,
    PAGE_SIZE,
    SLOT_PAGE_SIZE,
    Hart,
    SlotPage,
)
from core.cpu.status import SATP_BARE, SATP_SV39
from native import Area
from proto.pages import CoreState, CoreStats

QUANTUM = 2000  # instructions between two looks at timers and devices
POOL_PAGES = 2048  # pages of decoded code a hart: 32 KiB each


class HartSet:
    """The harts of a machine. Owns their memory."""

    def __init__(
        self, engine: Any, machine: Machine, ram: Area, dirty_map: int, stats: CoreStats | None = None
    ) -> None:
        self.engine = engine
        self.machine = machine
        self.stats = stats
        self._shared = _SharedMaps(machine)
        self._areas = [_HartMemory(machine) for _ in range(machine.harts)]
        self.harts = [memory.hart for memory in self._areas]
        self._last = (0, 0)  # nanoseconds and instructions at the last `publish`
        for number, memory in enumerate(self._areas):
            self._shared.peers[number] = memory.hart.address
            self._initialise(number, memory, ram, dirty_map)

    @property
    def addresses(self) -> list[int]:
        """Addresses of the Hart records, by hart id."""
        return [hart.address for hart in self.harts]

    def _initialise(self, number: int, memory: _HartMemory, ram: Area, dirty_map: int) -> None:
        hart = memory.hart
        hart.mhartid = number
        hart.quantum = QUANTUM
        hart.satp_modes = 1 << SATP_BARE | 1 << SATP_SV39
        hart.ram_base, hart.ram_size, hart.ram_host = RAM_BASE, self.machine.memory, ram.address
        hart.rom_base, hart.rom_size = ROM_BASE, ROM_SIZE
        hart.dirty_map = dirty_map
        hart.decode_handler = self.engine.symbol_address(H_DECODE)
        hart.cross_handler = self.engine.symbol_address(H_CROSS)
        hart.pool, hart.pool_pages = memory.pool.address, POOL_PAGES
        hart.pool_info, hart.code_index = memory.info.address, memory.index.address
        self._shared.connect(hart)

    def reset(self, built: BuiltBoard, boot: Boot) -> None:
        """Put every hart where the program begins: all in M-mode at the boot ROM, or the first in S-mode at its entry
        and the others waiting for the built-in SBI to start them."""
        supervisor = boot.mode is Mode.SUPERVISOR
        built.board.sbi.enabled = int(supervisor)
        for number, hart in enumerate(self.harts):
            hart.board = built.board.address
            hart.rom_host = built.rom.address
            self.engine.reset_hart(hart, boot.entry)
            if supervisor:
                self.engine.supervise(hart, self.machine.sstc)
                built.board.sbi.harts[number].state = HsmState.STARTED if number == 0 else HsmState.STOPPED
        if supervisor:
            self.engine.enter_supervisor(self.harts[0], boot.entry, boot.device_tree)

    def ask_to_exit(self) -> None:
        """Make every hart leave run_hart."""
        for hart in self.harts:
            self.engine.control_hart(hart, CONTROL_EXIT)

    def pause(self) -> None:
        """Make every hart stop running guest code, soon."""
        for hart in self.harts:
            self.engine.control_hart(hart, CONTROL_PAUSE)

    def resume(self) -> None:
        """Let harts that were paused go on."""
        for hart in self.harts:
            self.engine.release_hart(hart, CONTROL_PAUSE)

    def running(self) -> bool:
        """Does any hart run guest code, or wait inside one of its instructions?"""
        return any(hart.activity in (ACTIVITY_RUNNING, ACTIVITY_WAITING) for hart in self.harts)

    def instret(self) -> int:
        """Instructions retired by all harts, as of their last looks up."""
        return sum(hart.instret for hart in self.harts)

    def mark_start(self) -> None:
        """The first instruction is about to run."""
        self._last = (time.monotonic_ns(), 0)
        if self.stats is not None:
            self.stats.started_ns = self._last[0]

    def publish(self, stats: CoreStats, state: CoreState) -> None:
        """Refresh the statistics page. Each number is whole; together they are only nearly of one moment."""
        now, instret = time.monotonic_ns(), self.instret()
        then, before = self._last
        if now > then:
            stats.kips = (instret - before) * 1_000_000 // (now - then)
        self._last = (now, instret)
        stats.state, stats.nharts, stats.instret, stats.updated_ns = state, len(self.harts), instret, now
        for entry, hart in zip((stats.harts[n] for n in range(len(self.harts))), self.harts, strict=True):
            entry.instret, entry.sleeps, entry.mmio = hart.instret, hart.sleeps, hart.mmio
            entry.traps, entry.interrupts = hart.traps, hart.interrupts
            entry.running_ns = max(0, now - stats.started_ns - hart.slept_ns)

    def close(self) -> None:
        """Give the memory back; no hart may run any more."""
        for memory in self._areas:
            memory.close()
        self._shared.close()


class _HartMemory:
    """What belongs to one hart alone."""

    def __init__(self, machine: Machine) -> None:
        self.record = Area.allocate(Hart.size())
        self.hart = Hart(self.record.address)
        self.pool = Area.allocate(POOL_PAGES * SLOT_PAGE_SIZE)
        self.info = Area.allocate(POOL_PAGES * SlotPage.size())
        self.index = Area.allocate(4 * _pages(machine))

    def close(self) -> None:
        for area in (self.record, self.pool, self.info, self.index):
            area.close()


class _SharedMaps:
    """What the harts of a machine share (core/cpu/memory.py)."""

    def __init__(self, machine: Machine) -> None:
        pages = _pages(machine)
        self.count = machine.harts
        self.code_map = Area.allocate(pages)
        self.store_map = Area.allocate(pages)
        self.stamps = Area.allocate(4 * pages)
        self.words = Area.allocate(8 * (1 + machine.harts))
        self.generation = self.words.address
        self.peers = self.words.view().cast("Q")[1:]

    def connect(self, hart: Hart) -> None:
        """Tell one hart where they are."""
        hart.code_map, hart.store_map = self.code_map.address, self.store_map.address
        hart.stamps, hart.code_generation = self.stamps.address, self.generation
        hart.peers, hart.peer_count = self.generation + 8, self.count
        hart.peer_bit = 1 << hart.mhartid

    def close(self) -> None:
        self.peers.release()
        for area in (self.code_map, self.store_map, self.stamps, self.words):
            area.close()


def _pages(machine: Machine) -> int:
    """Pages with a host address: RAM, then ROM."""
    return machine.memory // PAGE_SIZE + ROM_SIZE // PAGE_SIZE
