"""A machine in this process, without keeper, devices or console: for tests and benchmarks.

The board is the real one; there is nobody to serve its events but the caller, who looks at `events()`, reads what the
UART sent, and decides when to stop.
"""

from __future__ import annotations

import os
import threading
import time
from types import TracebackType
from typing import Any

from core import events
from core.board import boot, virt
from core.board.state import Board
from core.cpu.machine import HartSet
from core.cpu.state import CONTROL_EXIT, Hart
from native import Area

CONSOLE_BYTES = 4096
SEED_BYTES = 64  # for the guest's random numbers: without them Linux takes a lock for each, for seconds


class BareMachine:
    """RAM, board, harts and an engine. It is a context manager; leaving stops the harts."""

    def __init__(self, engine: Any, machine: virt.Machine | None = None) -> None:
        self.engine = engine
        self.machine = machine or virt.Machine()
        self.ram = Area.allocate(self.machine.memory)
        self.queue_area, self.queue = events.create_queue()
        self._scratch = Area.allocate(CONSOLE_BYTES)
        self.set = HartSet(engine, self.machine, self.ram, 0)
        self.built = virt.build_board(self.machine, self.ram.address, self.queue.address, self.set.addresses)
        self.board: Board = self.built.board
        self.harts: list[Hart] = self.set.harts
        self._threads: list[threading.Thread] = []
        self.set.reset(self.built, boot.Boot((), b"", boot.Mode.MACHINE, virt.RAM_BASE, 0))

    def load(self, files: boot.BootFiles) -> boot.Boot:
        """Place a program, and point the harts at it."""
        plan = boot.plan_boot(self.machine, files, os.urandom(SEED_BYTES))
        boot.place(plan, self.ram.view())
        self.built.rom.view()[: len(plan.rom)] = plan.rom
        self.set.reset(self.built, plan)
        return plan

    def write(self, address: int, data: bytes) -> None:
        """Put bytes into RAM."""
        start = address - virt.RAM_BASE
        self.ram.view()[start : start + len(data)] = data

    def read(self, address: int, size: int) -> bytes:
        """Bytes of RAM."""
        start = address - virt.RAM_BASE
        return bytes(self.ram.view()[start : start + size])

    def start(self) -> None:
        """Let the harts run, a thread each."""
        for hart in self.harts:
            self.engine.release_hart(hart, CONTROL_EXIT)
            thread = threading.Thread(target=self.engine.run_hart, args=(hart,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Make the harts leave guest code, and wait for their threads. They can be started again."""
        for hart in self.harts:
            self.engine.control_hart(hart, CONTROL_EXIT)
        self.join(5.0)

    def join(self, timeout: float) -> bool:
        """Wait until the harts have ended by themselves. False: they still run."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        return not self._threads

    def take_events(self) -> list[tuple[int, int, int, int]]:
        """Everything that the board has posted: (kind, slot, a, b)."""
        event = events.Event(self._scratch.address)
        taken = []
        while self.engine.take_event(self.queue, event):
            taken.append((event.kind, event.slot, event.a, event.b))
        return taken

    def console(self) -> bytes:
        """What the guest has sent through the UART since the last call."""
        sent = b""
        while count := self.engine.uart_take(self.board, self._scratch.address, CONSOLE_BYTES):
            sent += bytes(self._scratch.view()[:count])
        return sent

    def type_in(self, data: bytes) -> int:
        """Type on the UART; how many bytes it took."""
        self._scratch.view()[: len(data)] = data
        return int(self.engine.uart_give(self.board, self._scratch.address, len(data)))

    def close(self) -> None:
        """Stop the harts and give the memory back."""
        self.stop()
        os.close(self.queue.wakeup)
        self.set.close()
        self.built.close()
        for area in (self._scratch, self.queue_area, self.ram):
            area.close()

    def __enter__(self) -> BareMachine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
