"""MMIO windows: accesses reach the device in order, reads wait with a deadline, completion waits for writes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from core.board.bus import bus_read, bus_write
from core.board.plic import plic_read, plic_set_line, plic_write
from core.board.state import Board
from core.board.window import window_answer, window_progress, window_state
from core.events import EventKind
from core.virtio.transport import DeviceState
from native import Area
from proto.pages import (
    CoreToDevice,
    DeviceToCore,
    format_core_page,
    format_device_page,
    open_session,
    set_irq_level,
    signal_core,
)

BASE, IRQ = 0x20000000, 20
CLAIM_S0 = 0x201004


class Device:
    """The device's side of window 0."""

    def __init__(self, bench) -> None:
        self.bench = bench
        self.areas = [Area.allocate(4096), Area.allocate(4096)]
        format_core_page(self.areas[0].view())
        format_device_page(self.areas[1].view())
        self.core_page = CoreToDevice(self.areas[0].address)
        self.device_page = DeviceToCore(self.areas[1].address)
        self.window = bench.board.windows[0]
        self.window.core_page = self.core_page.address
        self.window.device_page = self.device_page.address
        self.device_page.epoch = 1
        open_session(self.core_page, self.device_page, 1, 0)
        window_state(bench.board, 0, DeviceState.LIVE)

    @property
    def board(self) -> Board:
        return self.bench.board

    def read(self, offset: int, size: int) -> int:
        return bus_read(self.bench.harts[0], BASE + offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        bus_write(self.bench.harts[0], BASE + offset, size, value)

    def set_line(self, level: int) -> None:
        set_irq_level(self.device_page, level)
        signal_core(self.device_page, self.core_page, 0)


@pytest.fixture
def device(bench) -> Iterator[Device]:
    """A device that has said HELLO."""
    fake = Device(bench)
    yield fake
    for area in fake.areas:
        area.close()


def read_answered(device: Device, offset: int, size: int, value: int) -> int:
    """A read, answered by the link thread with `value`."""
    result: list[int] = []
    hart = threading.Thread(target=lambda: result.append(device.read(offset, size)))
    hart.start()
    while hart.is_alive():
        for kind, number, _, sequence in device.bench.events():
            assert (kind, number) == (EventKind.MMIO_READ, 0)
            window_answer(device.board, 0, sequence, value)
        hart.join(0.001)
    return result[0]


def test_a_read_waits_for_the_answer_and_keeps_its_width(device):
    assert read_answered(device, 8, 4, 0x1_2345_6789) == 0x23456789
    assert read_answered(device, 8, 8, 0x1_2345_6789) == 0x1_2345_6789


def test_accesses_are_numbered_and_posted_in_order(device):
    device.write(0, 4, 11)
    device.write(4, 2, 22)
    assert device.bench.events() == [
        (EventKind.MMIO_WRITE, 0, 0 | 4 << 32, 11),
        (EventKind.MMIO_WRITE, 0, 4 | 2 << 32, 22),
    ]
    assert (device.window.posted, device.window.written) == (2, 2)
    read_answered(device, 0, 1, 0)
    assert (device.window.posted, device.window.written) == (3, 2)


def test_after_a_missed_deadline_reads_are_all_ones_until_the_next_epoch(device):
    device.window.deadline_ns = 1_000_000
    assert device.read(0, 4) == 0xFFFFFFFF
    assert len(device.bench.events()) == 1
    assert device.read(0, 1) == 0xFF
    assert device.bench.events() == []
    device.window.deadline_ns = 60_000_000_000
    window_state(device.board, 0, DeviceState.LIVE)
    assert read_answered(device, 0, 4, 5) == 5


def test_a_late_answer_is_not_taken_for_the_next_read(device):
    device.window.deadline_ns = 1_000_000
    device.read(0, 4)
    window_state(device.board, 0, DeviceState.LIVE)
    window_answer(device.board, 0, 1, 0xBAD)
    assert device.read(0, 4) == 0xFFFFFFFF


def test_a_death_ends_the_wait(device):
    result: list[int] = []
    hart = threading.Thread(target=lambda: result.append(device.read(0, 4)))
    hart.start()
    while not device.bench.events():
        pass
    window_state(device.board, 0, DeviceState.GONE)
    hart.join(60)
    assert result == [0xFFFFFFFF]


def test_accesses_to_a_device_that_is_gone_do_not_wait(device):
    window_state(device.board, 0, DeviceState.GONE)
    assert device.read(0, 8) == 0xFFFFFFFFFFFFFFFF
    device.write(0, 4, 1)
    assert device.bench.events() == []


def test_the_interrupt_line_follows_the_device(device):
    device.set_line(1)
    window_progress(device.board, 0)
    assert device.board.plic.level == 1 << IRQ
    device.set_line(0)
    window_progress(device.board, 0)
    assert device.board.plic.level == 0


def test_completion_waits_for_the_writes_before_it(device):
    plic_write(device.board, 4 * IRQ, 1)
    plic_write(device.board, 0x2080, 1 << IRQ)
    device.set_line(1)
    window_progress(device.board, 0)
    assert plic_read(device.board, CLAIM_S0) == IRQ
    device.write(0, 4, 1)  # the driver clears the cause
    hart = threading.Thread(target=lambda: bus_write(device.bench.harts[0], 0xC000000 + CLAIM_S0, 4, IRQ))
    hart.start()
    hart.join(0.05)
    assert hart.is_alive()
    device.set_line(0)
    device.device_page.mmio_done = 1
    window_progress(device.board, 0)
    hart.join(60)
    assert not hart.is_alive()
    assert device.bench.harts[0].mip == 0


def test_completion_of_other_interrupts_does_not_wait(device):
    device.write(0, 4, 1)
    plic_set_line(device.board, 10, True)
    bus_write(device.bench.harts[0], 0xC000000 + CLAIM_S0, 4, 10)
