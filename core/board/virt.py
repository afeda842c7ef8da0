"""The `virt` machine: what is where, and how a description becomes a board.

The addresses and interrupt numbers are those of `qemu-system-riscv64 -machine virt`, so that whatever runs there
without PCIe, flash and fw_cfg runs here. A `Machine` says how many harts, how much RAM, which slots and windows are
used; `memory_map` makes the region tree of it, and `build_board` the `Board` record that harts run on.

Slots are filled from the first (0x10001000, irq 1) unless a device asks for one; QEMU fills them from the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from core.board import clint, plic, power, rtc, uart
from core.board.map import FlatRange, Region, RegionKind, container, flatten
from core.board.state import (
    MAX_REGIONS,
    MAX_WINDOWS,
    NEVER,
    PLIC_SOURCES,
    Board,
    BusKind,
)
from core.board.window import DEADLINE_NS
from core.virtio import mmio
from core.virtio.transport import MAX_SLOTS, DeviceState
from native import Area, monotonic_ns
from proto.doorbell import NO_BELL
from proto.errors import ConfigError
from proto.pages import MAX_HARTS

MEGABYTE = 1 << 20
PAGE = 4096

MIN_RAM = 1 * MEGABYTE
MAX_RAM = 1 << 40
ROM_BASE = 0x1000
ROM_SIZE = 0xF000
FINISHER_BASE = 0x100000
RTC_BASE = 0x101000
RTC_IRQ = 11
CLINT_BASE = 0x2000000
PLIC_BASE = 0xC000000
UART_BASE = 0x10000000
UART_IRQ = 10
VIRTIO_BASE = 0x10001000
VIRTIO_STRIDE = 0x1000
VIRTIO_IRQ = 1  # of the first slot
RAM_BASE = 0x80000000
TIMEBASE = 10_000_000  # Hz

# What the engine implements, in the canonical order of the unprivileged ISA's chapter on naming.
ISA_LETTERS = "imafdc"
ISA_EXTENSIONS = ("zicntr", "zicsr", "zifencei")
INSTRUCTIONS_PER_TICK = 10  # lockstep: mtime advances once in so many instructions (100 MIPS)


@dataclass(frozen=True)
class BusDevice:
    """What the bus table says about an MMIO region: the dispatch kind, and which one of its kind."""

    kind: BusKind
    index: int = 0


@dataclass(frozen=True)
class Slot:
    """A virtio-mmio slot with a device."""

    number: int
    device: str  # the device's id, for people

    @property
    def base(self) -> int:
        return VIRTIO_BASE + self.number * VIRTIO_STRIDE

    @property
    def irq(self) -> int:
        return VIRTIO_IRQ + self.number


@dataclass(frozen=True)
class WindowRange:
    """The MMIO range of a device that is not virtio."""

    device: str
    base: int
    size: int
    irq: int  # 0: none
    compatible: str = ""  # for the device tree; empty: no node


@dataclass(frozen=True)
class Machine:
    """A machine description, checked."""

    memory: int = 128 * MEGABYTE
    harts: int = 1
    slots: tuple[Slot, ...] = ()
    windows: tuple[WindowRange, ...] = ()
    sstc: bool = True
    lockstep: bool = False
    xlen: int = 64
    extensions: tuple[str, ...] = field(default=ISA_EXTENSIONS)

    def __post_init__(self) -> None:
        if not 1 <= self.harts <= MAX_HARTS:
            raise ConfigError(f"{self.harts} harts; this board has 1 to {MAX_HARTS}")
        if not MIN_RAM <= self.memory <= MAX_RAM or self.memory % PAGE:
            raise ConfigError(f"{self.memory} bytes of memory; it must be whole pages, from 1 MiB to 1 TiB")
        if self.lockstep and self.harts != 1:
            raise ConfigError("lockstep runs one hart", hint="Leave out --smp, or --lockstep.")
        if len(self.windows) > MAX_WINDOWS:
            raise ConfigError(f"{len(self.windows)} MMIO devices; this board takes {MAX_WINDOWS}")
        _check_slots(self.slots)
        _check_irqs(self.windows)

    @property
    def isa_extensions(self) -> list[str]:
        """`riscv,isa-extensions`: single letters first, then the long names."""
        return [*ISA_LETTERS, *self.extensions, *(["sstc"] if self.sstc else [])]

    @property
    def isa(self) -> str:
        """`riscv,isa`: the canonical string; multi-letter extensions in the order given, S ones last."""
        return f"rv{self.xlen}{ISA_LETTERS}" + "".join(f"_{name}" for name in self.isa_extensions[len(ISA_LETTERS) :])


def _check_slots(slots: Sequence[Slot]) -> None:
    taken: dict[int, str] = {}
    for slot in slots:
        if not 0 <= slot.number < MAX_SLOTS:
            raise ConfigError(f"{slot.device}: slot {slot.number}; this board has 0 to {MAX_SLOTS - 1}")
        if slot.number in taken:
            raise ConfigError(f"{slot.device} and {taken[slot.number]} both ask for slot {slot.number}")
        taken[slot.number] = slot.device


def _check_irqs(windows: Sequence[WindowRange]) -> None:
    taken = {VIRTIO_IRQ + number: f"virtio slot {number}" for number in range(MAX_SLOTS)}
    taken |= {UART_IRQ: "the UART", RTC_IRQ: "the RTC"}
    for window in windows:
        if window.size <= 0 or window.base % PAGE or window.size % PAGE:
            raise ConfigError(f"{window.device}: its MMIO range must be whole pages of {PAGE} bytes")
        if not 0 <= window.irq < PLIC_SOURCES:
            raise ConfigError(f"{window.device}: irq {window.irq}; this board has 1 to {PLIC_SOURCES - 1}")
        if window.irq in taken:
            raise ConfigError(f"{window.device}: irq {window.irq} belongs to {taken[window.irq]}")
        if window.irq:
            taken[window.irq] = window.device


def free_slot(taken: Sequence[int]) -> int:
    """The first slot that nobody has. Raises ConfigError when all are taken."""
    for number in range(MAX_SLOTS):
        if number not in taken:
            return number
    raise ConfigError(f"more than {MAX_SLOTS} virtio devices", hint="This board has that many slots.")


def memory_map(machine: Machine) -> Region:
    """The region tree of a machine. Raises ConfigError when a window overlaps something."""
    system = container("system")

    def mmio_region(name: str, base: int, size: int, kind: BusKind, index: int = 0) -> None:
        system.add(base, Region(name, size, RegionKind.MMIO, BusDevice(kind, index)))

    system.add(ROM_BASE, Region("virt.rom", ROM_SIZE, RegionKind.ROM))
    mmio_region("sifive.test", FINISHER_BASE, power.FINISHER_SIZE, BusKind.FINISHER)
    mmio_region("goldfish.rtc", RTC_BASE, rtc.SIZE, BusKind.RTC)
    mmio_region("sifive.clint", CLINT_BASE, clint.SIZE, BusKind.CLINT)
    mmio_region("sifive.plic", PLIC_BASE, plic.SIZE, BusKind.PLIC)
    mmio_region("ns16550a", UART_BASE, uart.SIZE, BusKind.UART)
    devices = {slot.number: slot.device for slot in machine.slots}
    for number in range(MAX_SLOTS):
        name = f"virtio-mmio.{number} ({devices[number]})" if number in devices else f"virtio-mmio.{number}"
        mmio_region(name, VIRTIO_BASE + number * VIRTIO_STRIDE, mmio.SIZE, BusKind.VIRTIO, number)
    system.add(RAM_BASE, Region("virt.ram", machine.memory, RegionKind.RAM))
    for index, window in enumerate(machine.windows):
        mmio_region(f"mmio.{index} ({window.device})", window.base, window.size, BusKind.WINDOW, index)
    return system


@dataclass
class BuiltBoard:
    """A board and what keeps it alive."""

    machine: Machine
    board: Board
    area: Area
    rom: Area
    root: Region
    ranges: list[FlatRange]

    def close(self) -> None:
        """Give the memory back; nothing may run on the board any more."""
        self.rom.close()
        self.area.close()


def build_board(
    machine: Machine, ram_address: int, events: int, harts: Sequence[int], dirty_map: int = 0
) -> BuiltBoard:
    """Make the board: `ram_address` is where RAM is mapped, `events` an EventQueue, `harts` Hart records."""
    area = Area.allocate(Board.size())
    rom = Area.allocate(ROM_SIZE)
    board = Board(area.address)
    board.ram_base, board.ram_size, board.ram_host = RAM_BASE, machine.memory, ram_address
    board.dirty_map = dirty_map
    board.events = events
    board.nharts = machine.harts
    for index, hart in enumerate(harts):
        board.harts[index] = hart
        board.clint.mtimecmp[index] = NEVER
    board.clint.epoch_ns = monotonic_ns()
    board.clint.lockstep = int(machine.lockstep)
    board.clint.instructions_per_tick = INSTRUCTIONS_PER_TICK
    board.plic.ncontexts = 2 * machine.harts
    board.uart.irq = UART_IRQ
    board.rtc.irq = RTC_IRQ
    _fill_slots(board, machine)
    root = memory_map(machine)
    ranges = flatten(root)
    _fill_bus(board, ranges, ram_address, rom.address)
    return BuiltBoard(machine, board, area, rom, root, ranges)


def _fill_slots(board: Board, machine: Machine) -> None:
    board.nslots = MAX_SLOTS
    for number in range(MAX_SLOTS):
        board.transports[number].index = number
        board.transports[number].irq = VIRTIO_IRQ + number
        board.transports[number].bell = NO_BELL
    for slot in machine.slots:
        board.transports[slot.number].state = DeviceState.STARTING
    board.nslots = 1 + max((slot.number for slot in machine.slots), default=-1)
    board.nwindows = len(machine.windows)
    for index, window in enumerate(machine.windows):
        record = board.windows[index]
        record.index, record.irq, record.base, record.length = index, window.irq, window.base, window.size
        record.deadline_ns = DEADLINE_NS
        record.state = DeviceState.STARTING


def _fill_bus(board: Board, ranges: list[FlatRange], ram_address: int, rom_address: int) -> None:
    """The flattened map as the bus's table."""
    if len(ranges) > MAX_REGIONS:
        raise ConfigError(f"a memory map of {len(ranges)} ranges; the bus takes {MAX_REGIONS}")
    hosts = {RegionKind.RAM: (BusKind.RAM, ram_address), RegionKind.ROM: (BusKind.ROM, rom_address)}
    for number, item in enumerate(ranges):
        entry = board.ranges[number]
        entry.base, entry.length, entry.within = item.base, item.size, item.offset
        if item.region.kind in hosts:
            entry.kind, host = hosts[item.region.kind]
            entry.host = host + item.offset
        else:
            assert isinstance(item.region.device, BusDevice)
            entry.kind, entry.index = item.region.device.kind, item.region.device.index
    board.nranges = len(ranges)
