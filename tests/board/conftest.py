"""A board without an engine: harts are records whose mip and attention the tests look at.

Where a test module imports native functions, each of its tests runs twice: with the functions as Python, and as machine
code of a debug build.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest

from core import events
from core.board.virt import RAM_BASE, BuiltBoard, Machine, Slot, WindowRange, build_board
from core.cpu.state import Hart
from native import Area, Function, Unit

SMALL = 1 << 20
WINDOW = WindowRange("mydev", 0x20000000, 0x1000, 20)


def native_functions(module: ModuleType) -> list[Function]:
    """What a test module imports of restricted Python."""
    return [value for value in vars(module).values() if isinstance(value, Function)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    runs = ["python", "native"] if native_functions(metafunc.module) else ["python"]
    metafunc.parametrize("twin", runs, indirect=True)


@pytest.fixture(autouse=True)
def twin(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the native run, replaces the functions that the test module imports by their machine code."""
    if request.param == "native":
        functions = native_functions(request.module)
        unit = Unit(f"test-{request.module.__name__}", exports=functions, debug=True).load()
        for function in functions:
            monkeypatch.setattr(request.module, function.name, getattr(unit, function.name))


@dataclass
class Bench:
    """A board, its harts, its RAM and its event queue."""

    built: BuiltBoard
    harts: list[Hart]
    ram: Area
    queue: events.EventQueue
    event_area: Area

    @property
    def board(self):
        return self.built.board

    def events(self) -> list[tuple[int, int, int, int]]:
        """Take everything that was posted: (kind, slot, a, b)."""
        event = events.Event(self.event_area.address)
        taken = []
        while events.take_event(self.queue, event):
            taken.append((event.kind, event.slot, event.a, event.b))
        return taken


@pytest.fixture
def make_bench() -> Iterator[Callable[[Machine], Bench]]:
    """Boards that are taken apart at the end of the test."""
    areas: list[Area] = []
    built: list[BuiltBoard] = []
    wakeups: list[int] = []

    def make(machine: Machine) -> Bench:
        ram = Area.allocate(machine.memory)
        queue_area, queue = events.create_queue()
        event_area = Area.allocate(events.Event.size())
        hart_areas = [Area.allocate(Hart.size()) for _ in range(machine.harts)]
        areas.extend([ram, queue_area, event_area, *hart_areas])
        wakeups.append(queue.wakeup)
        harts = [Hart(area.address) for area in hart_areas]
        board = build_board(machine, ram.address, queue.address, [hart.address for hart in harts])
        built.append(board)
        for index, hart in enumerate(harts):
            hart.board = board.board.address
            hart.mhartid = index
            hart.peer_bit = 1 << index
            hart.ram_base, hart.ram_size, hart.ram_host = RAM_BASE, machine.memory, ram.address
        return Bench(board, harts, ram, queue, event_area)

    yield make
    for board in built:
        board.close()
    for area in areas:
        area.close()
    for wakeup in wakeups:
        os.close(wakeup)


@pytest.fixture
def bench(make_bench: Callable[[Machine], Bench]) -> Bench:
    """Two harts, 1 MiB, a disk in slot 0, one MMIO window."""
    return make_bench(Machine(memory=SMALL, harts=2, slots=(Slot(0, "blk0"),), windows=(WINDOW,)))
