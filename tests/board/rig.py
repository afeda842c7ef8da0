"""A machine inside the test's own process: harts run natively, the test plays link thread, console and keeper.

No devices and no sessions: for what the engine and the board promise together. `python -m tests.board.rig --kernel …`
runs one with its console on the terminal.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import threading
import time

from core import events
from core.board import boot, virt
from core.board.state import UART_TX_RING
from core.cpu.engine import load_engine
from core.cpu.machine import HartSet
from core.events import EventKind, PowerReason
from native import Area


class Rig:
    """One machine. Use it as a context manager: it stops the harts and gives all memory back."""

    def __init__(self, machine: virt.Machine, files: boot.BootFiles) -> None:
        self.engine = load_engine()
        self.areas = [Area.allocate(machine.memory), Area.allocate(UART_TX_RING), Area.allocate(events.Event.size())]
        self.ram, self._buffer, event_area = self.areas
        self._event = events.Event(event_area.address)
        self._queue_area, self.queue = events.create_queue()
        self.harts = HartSet(self.engine, machine, self.ram, 0)
        self.built = virt.build_board(machine, self.ram.address, self.queue.address, self.harts.addresses)
        plan = boot.plan_boot(machine, files)
        boot.place(plan, self.ram.view())
        self.built.rom.view()[: len(plan.rom)] = plan.rom
        self.harts.reset(self.built, plan)
        self.plan = plan
        self.output = bytearray()
        self.power: tuple[PowerReason, int] | None = None
        self.last_instret = 0  # instructions retired, once the machine has ended
        self._threads = [
            threading.Thread(target=self.engine.run_hart, args=(address,), daemon=True)
            for address in self.harts.addresses
        ]

    def __enter__(self) -> Rig:
        self.harts.mark_start()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.board_stop(self.built.board)
        self.harts.ask_to_exit()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a hart did not leave native code"
        self.last_instret = self.harts.instret()
        os.close(self.queue.wakeup)
        self.harts.close()
        self.built.close()
        for area in (*self.areas, self._queue_area):
            area.close()

    def pump(self, timeout: float) -> bytes:
        """Wait for events, at most `timeout` seconds, and handle them; what the guest has sent meanwhile."""
        if self.engine.may_sleep(self.queue) and select.select([self.queue.wakeup], [], [], timeout)[0]:
            os.eventfd_read(self.queue.wakeup)
        while self.engine.take_event(self.queue, self._event):
            if self._event.kind == EventKind.POWER:
                self.power = (PowerReason(self._event.a), self._event.b)
        new = bytearray()
        while count := self.engine.uart_take(self.built.board, self._buffer.address, UART_TX_RING):
            new += self._buffer.view()[:count]
        self.output += new
        return bytes(new)

    def send(self, data: bytes) -> None:
        """Type at the console; returns when the line has taken everything."""
        while data:
            chunk = data[:UART_TX_RING]
            self._buffer.view()[: len(chunk)] = chunk
            taken = self.engine.uart_give(self.built.board, self._buffer.address, len(chunk))
            data = data[taken:]
            if data:
                self.pump(0.05)

    def expect(self, text: bytes, deadline: float = 60.0) -> bytes:
        """Wait until the guest has sent `text`; everything before it, which is then forgotten."""
        end = time.monotonic() + deadline
        while text not in self.output:
            if self.power is not None or time.monotonic() > end:
                raise AssertionError(f"{text!r} did not come ({self.power}); the console says:\n{self._tail()}")
            self.pump(0.2)
        before, self.output = self.output.split(text, 1)
        return bytes(before)

    def run(self, deadline: float = 60.0) -> tuple[PowerReason, int]:
        """Wait until the guest ends the machine: (reason, code)."""
        end = time.monotonic() + deadline
        while self.power is None:
            if time.monotonic() > end:
                raise AssertionError(f"the guest goes on and on; the console says:\n{self._tail()}")
            self.pump(0.2)
        self.pump(0)
        return self.power

    def _tail(self) -> str:
        return self.output[-2000:].decode(errors="replace")


def main() -> int:
    """Run a machine on this terminal; Ctrl-C ends it."""
    parser = argparse.ArgumentParser(prog="python -m tests.board.rig")
    parser.add_argument("--kernel", default="")
    parser.add_argument("--initrd", default="")
    parser.add_argument("--append", default="")
    parser.add_argument("--bios", default="default")
    parser.add_argument("-m", "--memory", type=int, default=256, help="MiB")
    parser.add_argument("--harts", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9)
    options = parser.parse_args()
    files = boot.BootFiles(options.kernel, options.initrd, options.append, options.bios)
    machine = virt.Machine(memory=options.memory << 20, harts=options.harts)
    end = time.monotonic() + options.seconds
    began = time.monotonic()
    with Rig(machine, files) as rig:
        print(rig.plan.describe(), file=sys.stderr)
        try:
            while rig.power is None and time.monotonic() < end:
                sys.stdout.buffer.write(rig.pump(0.1))
                sys.stdout.flush()
                if select.select([0], [], [], 0)[0] and (data := os.read(0, 4096)):
                    rig.send(data)
        except KeyboardInterrupt:
            pass
        instret = rig.harts.instret()
        hart = rig.harts.harts[0]
        print(
            f"\n{rig.power}; {instret} instructions, {instret / 1e6 / (time.monotonic() - began):.1f} MIPS;"
            f" pc {hart.pc:#x} privilege {hart.privilege} scause {hart.scause:#x} sepc {hart.sepc:#x}"
            f" stval {hart.stval:#x} mcause {hart.mcause:#x} mepc {hart.mepc:#x}",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
