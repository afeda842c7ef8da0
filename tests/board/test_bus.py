"""The bus: who answers where, in which widths, and what a hole does; and how a machine ends."""

import pytest

from core.board.bus import bus_read, bus_write, host_address
from core.board.virt import RAM_BASE, ROM_BASE
from core.cpu.state import Hart
from core.events import EventKind, PowerReason

LOAD_FAULT, STORE_FAULT = 5 + 1, 7 + 1
FINISHER = 0x100000


def read(bench, address, size) -> tuple[int, int]:
    """(value, pending trap)"""
    hart: Hart = bench.harts[0]
    hart.trap = 0
    value = bus_read(hart, address, size)
    return value, hart.trap


def write(bench, address, size, value) -> int:
    """The pending trap."""
    hart: Hart = bench.harts[0]
    hart.trap = 0
    bus_write(hart, address, size, value)
    return hart.trap


@pytest.mark.parametrize("address", [0, 0xFFF, 0x10000, 0x102000, 0xB000000, 0x10000100, 0x10009000, RAM_BASE - 8])
def test_holes_are_access_faults(bench, address):
    assert read(bench, address, 1) == (0, LOAD_FAULT)
    assert bench.harts[0].tval == address
    assert write(bench, address, 1, 0) == STORE_FAULT


def test_past_the_end_of_ram_is_a_hole(bench):
    end = RAM_BASE + bench.built.machine.memory
    assert read(bench, end, 8)[1] == LOAD_FAULT
    assert read(bench, end - 8, 8)[1] == 0
    assert read(bench, (1 << 64) - 8, 8)[1] == LOAD_FAULT


def test_ram_reads_and_writes_in_every_width(bench):
    assert write(bench, RAM_BASE, 8, 0x8877665544332211) == 0
    assert [read(bench, RAM_BASE, size)[0] for size in (1, 2, 4, 8)] == [
        0x11,
        0x2211,
        0x44332211,
        0x8877665544332211,
    ]
    write(bench, RAM_BASE + 4, 2, 0xFFFF1234)
    assert read(bench, RAM_BASE, 8)[0] == 0x8877123444332211


def test_rom_reads_and_does_not_take_stores(bench):
    bench.built.rom.view()[:4] = b"\x78\x56\x34\x12"
    assert read(bench, ROM_BASE, 4) == (0x12345678, 0)
    assert write(bench, ROM_BASE, 4, 0) == STORE_FAULT


@pytest.mark.parametrize(
    ("base", "widths"),
    [
        (0xC000004, {4}),  # PLIC
        (0x101000, {4}),  # RTC
        (0x2004000, {4, 8}),  # CLINT
        (FINISHER, {2, 4}),
        (0x10000008, {1, 2, 4, 8}),  # UART
    ],
)
def test_a_device_takes_its_widths_only(bench, base, widths):
    for size in (1, 2, 4, 8):
        expected = 0 if size in widths and base % size == 0 else LOAD_FAULT
        assert read(bench, base, size)[1] == expected


def test_misaligned_device_accesses_are_access_faults(bench):
    assert read(bench, 0x2004002, 4)[1] == LOAD_FAULT
    assert write(bench, 0xC000006, 4, 1) == STORE_FAULT


def test_host_addresses_are_ram_and_rom_only(bench):
    size = bench.built.machine.memory
    assert host_address(bench.board, RAM_BASE + 8, 8) == bench.ram.address + 8
    assert host_address(bench.board, RAM_BASE, size) == bench.ram.address
    assert host_address(bench.board, RAM_BASE + 1, size) == 0
    assert host_address(bench.board, RAM_BASE, (1 << 64) - 1) == 0
    assert host_address(bench.board, ROM_BASE, 4) == bench.built.rom.address
    assert host_address(bench.board, 0x10000000, 1) == 0


@pytest.mark.parametrize(
    ("value", "reason", "code"),
    [
        (0x5555, PowerReason.POWEROFF, 0),
        (0x3333, PowerReason.FINISHER, 0),
        (42 << 16 | 0x3333, PowerReason.FINISHER, 42),
        (0x7777, PowerReason.RESET, 0),
    ],
)
def test_the_finisher_ends_the_machine_once(bench, value, reason, code):
    assert write(bench, FINISHER, 4, value) == 0
    assert write(bench, FINISHER, 4, 0x5555) == 0
    assert bench.events() == [(EventKind.POWER, 0, reason, code)]
    assert bench.board.stopping == 1
    assert all(hart.attention for hart in bench.harts)


def test_the_finisher_ignores_other_values_and_offsets(bench):
    write(bench, FINISHER, 4, 0x1234)
    write(bench, FINISHER + 4, 4, 0x5555)
    assert bench.events() == []
