"""A bare machine whose console the test plays: it waits for what the guest says, types, and sees how it ends."""

from __future__ import annotations

import os
import select
import time

from core.bare import CONSOLE_BYTES, BareMachine
from core.board import boot, virt
from core.cpu.engine import load_engine
from core.events import EventKind, PowerReason


class Rig(BareMachine):
    """One machine with a program. Entering it starts the harts; leaving it gives all memory back."""

    def __init__(self, machine: virt.Machine, files: boot.BootFiles) -> None:
        super().__init__(load_engine(), machine)
        self.load(files)
        self.output = bytearray()
        self.power: tuple[PowerReason, int] | None = None
        self.last_instret = 0  # instructions retired, once the machine has ended

    def __enter__(self) -> Rig:
        self.start()
        return self

    def close(self) -> None:
        self.stop()
        self.last_instret = self.set.instret()
        super().close()

    def pump(self, timeout: float) -> None:
        """Wait for events, at most `timeout` seconds, and handle them; collect what the guest has sent."""
        if self.engine.may_sleep(self.queue) and select.select([self.queue.wakeup], [], [], timeout)[0]:
            os.eventfd_read(self.queue.wakeup)
        for kind, _, a, b in self.take_events():
            if kind == EventKind.POWER:
                self.power = (PowerReason(a), b)
        self.output += self.console()

    def send(self, data: bytes) -> None:
        """Type at the console; returns when the line has taken everything."""
        while data:
            data = data[self.type_in(data[:CONSOLE_BYTES]) :]
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
