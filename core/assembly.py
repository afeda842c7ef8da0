"""One machine put together from its START packet: memory mapped, program placed, board built, harts made.

What START says is checked here; what cannot be is a ConfigError that names it. Everything that must live as long as
the machine is held by `Machine`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core import events
from core.board import boot, clock, virt
from core.board.bells import END, PLACES, Bells
from core.board.state import UART_TX_RING, Board
from core.cpu.engine import load_engine
from core.cpu.machine import HartSet
from core.link import Port, Region
from core.ports import Pages, VirtioPort, WindowPort
from core.virtio.transport import MAX_SLOTS
from native import Area
from proto.channel import Packet
from proto.doorbell import NO_BELL, POLLIN
from proto.errors import ConfigError, ProtocolError
from proto.pages import PAGE_SIZE, CoreState, CoreStats, LinkMode
from proto.trace import DATA_BYTES, NO_QUEUE, TRACE_SIZE, TracePoint, data_words

INFLIGHT_QUEUE_SIZE = 1024  # entries a queue of the in-flight tables that the keeper makes
PAUSE_PATIENCE = 0.02  # seconds to wait for harts to stop before time does; one that a device holds may take longer
PAUSE_LOOK = 0.0002
SEED_BYTES = 64  # for the guest's random number generator


class UartPort:
    """The UART's rings, as the console wants them (`core.console.SerialPort`)."""

    def __init__(self, engine: Any, board: Board) -> None:
        self._engine = engine
        self._board = board
        self._buffer = Area.allocate(UART_TX_RING)
        self._view = self._buffer.view()

    def take(self, limit: int) -> bytes:
        """Remove up to `limit` transmitted bytes."""
        count = self._engine.uart_take(self._board, self._buffer.address, min(limit, UART_TX_RING))
        if count:
            self._trace(TracePoint.CONSOLE_OUT, count)
        return bytes(self._view[:count])

    def send_break(self) -> bool:
        """A break condition on the line. False: the guest has not read the last one yet."""
        return bool(self._engine.uart_break(self._board))

    def give(self, data: bytes) -> int:
        """Offer received bytes; returns how many were accepted."""
        data = data[:UART_TX_RING]
        self._view[: len(data)] = data
        accepted: int = self._engine.uart_give(self._board, self._buffer.address, len(data))
        if accepted:
            self._trace(TracePoint.CONSOLE_IN, accepted)
        return accepted

    def _trace(self, point: TracePoint, count: int) -> None:
        words = data_words(self._view[: min(count, DATA_BYTES)])
        now = time.monotonic_ns()
        self._engine.trace(self._board.trace, now, point, NO_QUEUE, 0, 0, 0, count, 0, *words)


@dataclass
class Device:
    """One device of the machine, with its port."""

    name: str
    index: int  # slot or window
    virtio: bool
    epoch: int
    endpoint: str
    port: Port
    queue_size: int = INFLIGHT_QUEUE_SIZE


class Machine:
    """Everything of one running machine that is not a session."""

    def __init__(self, engine: Any, description: virt.Machine, start: Packet) -> None:
        self.engine = engine
        self.description = description
        self.ram = _take(start, "ram0", description.memory)
        self.dirty = _take(start, "dirty0", description.memory // virt.PAGE)
        self.stats_area = _take(start, "stats", PAGE_SIZE, live_peer=False)  # others only look
        self.stats = CoreStats(self.stats_area.address)
        self.queue_area, self.queue = events.create_queue()
        dirty = self.dirty.address
        self.harts = HartSet(engine, description, self.ram, dirty, self.stats)
        self.built = virt.build_board(description, self.ram.address, self.queue.address, self.harts.addresses, dirty)
        self.board = self.built.board
        self.trace_area = _take(start, "trace", TRACE_SIZE) if "trace" in start.fds else None
        self.board.trace = self.trace_area.address if self.trace_area is not None else 0
        self.serial_port = UartPort(engine, self.board)
        self.regions = [Region(0, virt.RAM_BASE, description.memory)]
        self.devices: list[Device] = []
        self.started = False
        self.paused = False
        self._threads: list[threading.Thread] = []
        self._bells_area = Area.allocate(Bells.size())
        self._bells = Bells(self._bells_area.address)
        self._bells.board = self.board.address
        for place in range(PLACES):
            self._bells.entries[place].fd = NO_BELL
        self._end = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.listen(END, self._end)

    def load(self, files: boot.BootFiles) -> boot.Boot:
        """Place the program and point the harts at it."""
        plan = boot.plan_boot(self.description, files, os.urandom(SEED_BYTES))
        boot.place(plan, self.ram.view())
        if plan.rom:
            self.built.rom.view()[: len(plan.rom)] = plan.rom
        self.harts.reset(self.built, plan)
        return plan

    def listen(self, place: int, bell: int) -> None:
        """Answer this doorbell; before the harts start."""
        self._bells.entries[place].fd, self._bells.entries[place].events = bell, POLLIN

    def start_harts(self) -> None:
        """Let the guest run: one thread a hart, in native code until the end."""
        if self.started:
            return
        self.started = True
        self.harts.mark_start()
        for address in self.harts.addresses:
            self._run(self.engine.run_hart, address)
        self._run(self.engine.answer_bells, self._bells.address)

    def _run(self, function: Callable[[int], None], address: int) -> None:
        """A thread in native code."""
        thread = threading.Thread(target=function, args=(address,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def stop_harts(self) -> None:
        """End the guest and wait for its threads; they leave at their next look at `attention`."""
        self.engine.board_stop(self.board)
        os.eventfd_write(self._end, 1)
        self.harts.ask_to_exit()
        for thread in self._threads:
            thread.join(5.0)

    def pause_harts(self) -> None:
        """Have the guest stand still: harts stop at their next look at `attention`, asleep or not, and then mtime does.

        A hart that a device holds stops when the device lets it go; devices go on. Harts that have not begun yet will
        not. Nothing new when the guest is paused already."""
        if self.paused:
            return
        self.paused = True
        self.harts.pause()
        deadline = time.monotonic() + PAUSE_PATIENCE
        while self.harts.running() and time.monotonic() < deadline:
            time.sleep(PAUSE_LOOK)
        clock.freeze_clock(self.board)

    def resume_harts(self) -> None:
        """The guest goes on; its time goes on from where it stood."""
        if self.paused:
            self.paused = False
            clock.thaw_clock(self.board)
            self.harts.resume()

    def state(self) -> CoreState:
        """What the statistics page says."""
        if not self.started:
            return CoreState.STARTING
        return CoreState.PAUSED if self.paused else CoreState.RUNNING

    def instret(self) -> int:
        """Instructions retired by all harts."""
        return self.harts.instret()

    def publish(self, state: CoreState) -> None:
        """Refresh the statistics page."""
        self.harts.publish(self.stats, state)


def assemble(start: Packet, report: Callable[[str], None]) -> Machine:
    """The machine that START describes. Raises ConfigError; `report` is told what takes long."""
    body = start.body
    engine = load_engine(lambda: report("compiling"))
    machine = Machine(engine, _describe(body), start)
    mode = LinkMode.MESSAGES if body["machine"].get("link") == "messages" else LinkMode.WORDS
    windows = 0
    for device in body["devices"]:
        pages = Pages(
            engine,
            _take(start, f"{device['id']}.core_to_device", PAGE_SIZE),
            _take(start, f"{device['id']}.device_to_core", PAGE_SIZE),
            mode,
            start.fds.pop(f"{device['id']}.kick", NO_BELL),
        )
        virtio = device["kind"] == "virtio"
        index = device["slot"] if virtio else windows
        windows += not virtio
        if (bell := start.fds.pop(f"{device['id']}.call", None)) is not None:
            machine.listen(index if virtio else MAX_SLOTS + index, bell)
        port = (VirtioPort if virtio else WindowPort)(engine, machine.board, index, pages)
        machine.devices.append(Device(device["id"], index, virtio, device["epoch"], device["endpoint"], port))
    machine.load(_files(body["machine"]))
    return machine


def _describe(body: dict[str, Any]) -> virt.Machine:
    machine = body["machine"]
    devices = body["devices"]
    return virt.Machine(
        memory=machine["memory"],
        harts=machine.get("harts", 1),
        slots=tuple(virt.Slot(device["slot"], device["id"]) for device in devices if device["kind"] == "virtio"),
        windows=tuple(
            virt.WindowRange(
                device["id"], device["address"], device["size"], device["irq"], device.get("compatible", "")
            )
            for device in devices
            if device["kind"] == "mmio"
        ),
        lockstep=machine.get("lockstep", False),
    )


def _files(machine: dict[str, Any]) -> boot.BootFiles:
    return boot.BootFiles(
        kernel=machine.get("kernel") or "",
        initrd=machine.get("initrd") or "",
        append=machine.get("append") or "",
        bios=machine.get("bios") or "default",
        boot_sector=machine.get("boot_sector"),
    )


def _take(start: Packet, name: str, size: int, *, live_peer: bool = True) -> Area:
    """Map the descriptor `name` of START and close it, so that nobody can resize the memory through us."""
    descriptor = start.fds.pop(name, None)
    if descriptor is None:
        raise ProtocolError(f"START brings no descriptor {name!r}", field="fds")
    try:
        actual = os.fstat(descriptor).st_size
        if actual < size:
            raise ConfigError(f"the shared segment {name!r} has {actual} bytes instead of {size}")
        return Area.map_fd(descriptor, size, writable=True, shared=True, live_peer=live_peer)
    finally:
        os.close(descriptor)
