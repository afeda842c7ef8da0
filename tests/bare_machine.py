"""A hart, RAM and a board without devices, for tests that run code on bare metal.

    with BareMachine() as machine:
        machine.load(0x80000000, code)
        machine.run(pc=0x80000000, instructions=1000)
        assert machine.hart.x[10] == 42

Code runs in M-mode with memory protection off unless it changes that. `run` returns after exactly so many instructions
if none of them traps, at the first look at `attention` after the finisher was written, or never.
"""

from __future__ import annotations

import os
from typing import Any

from core.board import virt
from core.board.boot import Boot, Mode
from core.cpu.engine import load_engine
from core.cpu.machine import HartSet
from core.events import create_queue
from native import Area

RAM_BASE = virt.RAM_BASE


class BareMachine:
    """Owns everything that one hart needs."""

    def __init__(self, memory: int = 16 << 20, engine: Any = None):
        self.engine = engine or load_engine()
        self.description = virt.Machine(memory=memory)
        self.ram = Area.allocate(memory)
        self.queue_area, self.queue = create_queue()
        self.harts = HartSet(self.engine, self.description, self.ram, 0)
        self.hart = self.harts.harts[0]
        self.built = virt.build_board(self.description, self.ram.address, self.queue.address, self.harts.addresses)
        self.memory = self.ram.view()
        self.reset(RAM_BASE)

    def reset(self, pc: int) -> None:
        """As after power-on, but RAM keeps its contents."""
        self.harts.reset(self.built, Boot((), b"", Mode.MACHINE, pc, 0))

    def load(self, address: int, data: bytes) -> None:
        """Put bytes into RAM. Code that ran there before must be reloaded with `fence.i`, as on real hardware."""
        self.memory[address - RAM_BASE : address - RAM_BASE + len(data)] = data

    def run(self, pc: int, instructions: int) -> None:
        """Execute so many instructions from `pc` on."""
        raise NotImplementedError

    def close(self) -> None:
        self.memory.release()
        self.built.close()
        self.harts.close()
        os.close(self.queue.wakeup)
        self.queue_area.close()
        self.ram.close()

    def __enter__(self) -> BareMachine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
