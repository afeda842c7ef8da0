"""A look into the guest for the monitor: registers of a hart, memory by virtual or physical address.

The harts stand still for the look, well under a millisecond; one that a device holds in the middle of an instruction is
read as it is.
"""

from __future__ import annotations

from typing import Any

from core.assembly import Machine
from core.cpu.csrs import CSRS
from core.gdb.registers import CSR_FIRST, F_NAMES, PC, PRIVILEGE, X_NAMES
from core.gdb.target import BadAccess, Target

__all__ = ["inspect", "make_target"]

MOST_BYTES = 4096  # of one look
SHOWN = ("mstatus", "satp", "stvec", "sepc", "scause", "stval", "sscratch", "mie", "mip", "mtvec", "mepc", "mcause")
ADDRESS = {csr.name: csr.address for csr in CSRS}


def make_target(machine: Machine) -> Target:
    """The machine as a debugger sees it."""
    harts, rom = machine.harts.harts, machine.built.rom
    return Target(machine.engine, harts, machine.ram.view(), rom.view(), machine.dirty.view())


def inspect(machine: Machine, body: dict[str, Any]) -> dict[str, Any]:
    """The answer to INSPECT {what: registers or memory, hart, address, size, physical}: values, or an error."""
    hart = int(body.get("hart", 0))
    if not 0 <= hart < len(machine.harts.harts):
        return {"error": f"there is no hart {hart}"}
    paused = machine.paused
    if not paused:
        machine.pause_harts()
    try:
        return _look(make_target(machine), hart, body)
    except BadAccess as error:
        return {"error": str(error)}
    finally:
        if not paused:
            machine.resume_harts()


def _look(target: Target, hart: int, body: dict[str, Any]) -> dict[str, Any]:
    if body.get("what") == "memory":
        size = min(int(body.get("size", 8)), MOST_BYTES)
        address = int(body.get("address", 0))
        read = target.read_physical if body.get("physical") else lambda at, n: target.read(hart, at, n)
        return {"data": read(address, size)}
    values = {"pc": target.read_register(hart, PC), "priv": target.read_register(hart, PRIVILEGE)}
    values |= {name: target.read_register(hart, number) for number, name in enumerate(X_NAMES)}
    values |= {name: target.read_register(hart, CSR_FIRST + ADDRESS[name]) for name in SHOWN}
    values |= {name: target.read_register(hart, 33 + number) for number, name in enumerate(F_NAMES)}
    return {"registers": values, "state": target.describe(hart)}
