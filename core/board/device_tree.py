"""The device tree of a `virt` machine, with the nodes and names that QEMU gives them.

Only what the machine has is listed: slots with a device, windows with a `compatible`. Linux wants `riscv,isa` in
canonical order and, from 6.6 on, `riscv,isa-base` with `riscv,isa-extensions`; both are there.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.board import clint, plic, power, uart, virt
from core.board.fdt import Node, cells64, encode
from core.board.state import PLIC_SOURCES
from core.board.virt import Machine
from core.virtio import mmio

# Interrupt numbers at a hart's own controller (privileged ISA, table "mcause").
IRQ_M_SOFT, IRQ_M_TIMER, IRQ_S_EXT, IRQ_M_EXT = 3, 7, 9, 11

# Phandles: one a hart's interrupt controller, then these.
PHANDLE_PLIC = 0x100
PHANDLE_TEST = 0x101

UART_CLOCK = 3_686_400  # Hz, as QEMU says; nothing here depends on it
RTC_SIZE = 0x1000  # what the node covers; the registers end before


@dataclass(frozen=True)
class Chosen:
    """What the boot adds to the tree."""

    bootargs: str = ""
    initrd: tuple[int, int] | None = None  # [start, end)
    rng_seed: bytes = b""


def device_tree(machine: Machine, chosen: Chosen) -> bytes:
    """The flattened tree."""
    root = Node(
        "",
        {
            "#address-cells": 2,
            "#size-cells": 2,
            "compatible": "riscv-virtio",
            "model": "bulkhead,virt",
        },
    )
    _add_chosen(root, chosen)
    root.add(
        f"memory@{virt.RAM_BASE:x}",
        {"device_type": "memory", "reg": cells64(virt.RAM_BASE, machine.memory)},
    )
    _add_cpus(root, machine)
    _add_soc(root, machine)
    for name, value in (("poweroff", power.FINISHER_PASS), ("reboot", power.FINISHER_RESET)):
        root.add(name, {"compatible": f"syscon-{name}", "regmap": PHANDLE_TEST, "offset": 0, "value": value})
    return encode(root)


def _add_chosen(root: Node, chosen: Chosen) -> None:
    node = root.add("chosen", {"stdout-path": f"/soc/serial@{virt.UART_BASE:x}"})
    if chosen.bootargs:
        node.properties["bootargs"] = chosen.bootargs
    if chosen.initrd is not None:
        node.properties["linux,initrd-start"] = cells64(chosen.initrd[0])
        node.properties["linux,initrd-end"] = cells64(chosen.initrd[1])
    if chosen.rng_seed:
        node.properties["rng-seed"] = chosen.rng_seed


def _hart_phandle(hart: int) -> int:
    """Phandle of a hart's interrupt controller; the cpu's own is 0x40 more."""
    return 1 + hart


def _add_cpus(root: Node, machine: Machine) -> None:
    cpus = root.add("cpus", {"#address-cells": 1, "#size-cells": 0, "timebase-frequency": virt.TIMEBASE})
    for hart in range(machine.harts):
        cpu = cpus.add(
            f"cpu@{hart:x}",
            {
                "device_type": "cpu",
                "reg": hart,
                "status": "okay",
                "compatible": "riscv",
                "riscv,isa": machine.isa,
                "riscv,isa-base": f"rv{machine.xlen}i",
                "riscv,isa-extensions": machine.isa_extensions,
                "mmu-type": "riscv,sv39" if machine.xlen == 64 else "riscv,sv32",
                "phandle": 0x40 + _hart_phandle(hart),
            },
        )
        cpu.add(
            "interrupt-controller",
            {
                "#interrupt-cells": 1,
                "#address-cells": 0,
                "interrupt-controller": True,
                "compatible": "riscv,cpu-intc",
                "phandle": _hart_phandle(hart),
            },
        )
    cluster = cpus.add("cpu-map").add("cluster0")
    for hart in range(machine.harts):
        cluster.add(f"core{hart}", {"cpu": 0x40 + _hart_phandle(hart)})


def _wires(machine: Machine, *irqs: int) -> list[int]:
    """`interrupts-extended`: every hart's controller with each of `irqs`."""
    return [cell for hart in range(machine.harts) for irq in irqs for cell in (_hart_phandle(hart), irq)]


def _add_soc(root: Node, machine: Machine) -> None:
    soc = root.add("soc", {"#address-cells": 2, "#size-cells": 2, "compatible": "simple-bus", "ranges": True})
    soc.add(
        f"test@{virt.FINISHER_BASE:x}",
        {
            "compatible": ["sifive,test1", "sifive,test0", "syscon"],
            "reg": cells64(virt.FINISHER_BASE, power.FINISHER_SIZE),
            "phandle": PHANDLE_TEST,
        },
    )
    _add_device(soc, "rtc", virt.RTC_BASE, RTC_SIZE, virt.RTC_IRQ, "google,goldfish-rtc")
    soc.add(
        f"clint@{virt.CLINT_BASE:x}",
        {
            "compatible": ["sifive,clint0", "riscv,clint0"],
            "reg": cells64(virt.CLINT_BASE, clint.SIZE),
            "interrupts-extended": _wires(machine, IRQ_M_SOFT, IRQ_M_TIMER),
        },
    )
    soc.add(
        f"plic@{virt.PLIC_BASE:x}",
        {
            "compatible": ["sifive,plic-1.0.0", "riscv,plic0"],
            "reg": cells64(virt.PLIC_BASE, plic.SIZE),
            "interrupt-controller": True,
            "#interrupt-cells": 1,
            "#address-cells": 0,
            "riscv,ndev": PLIC_SOURCES - 1,
            "interrupts-extended": _wires(machine, IRQ_M_EXT, IRQ_S_EXT),
            "phandle": PHANDLE_PLIC,
        },
    )
    serial = _add_device(soc, "serial", virt.UART_BASE, uart.SIZE, virt.UART_IRQ, "ns16550a")
    serial.properties["clock-frequency"] = UART_CLOCK
    for slot in sorted(machine.slots, key=lambda slot: slot.number):
        _add_device(soc, "virtio_mmio", slot.base, mmio.SIZE, slot.irq, "virtio,mmio")
    for window in machine.windows:
        if window.compatible:
            _add_device(soc, window.device, window.base, window.size, window.irq, window.compatible)


def _add_device(soc: Node, name: str, base: int, size: int, irq: int, compatible: str) -> Node:
    node = soc.add(f"{name}@{base:x}", {"compatible": compatible, "reg": cells64(base, size)})
    if irq:
        node.properties["interrupt-parent"] = PHANDLE_PLIC
        node.properties["interrupts"] = irq
    return node
