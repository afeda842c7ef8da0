"""The description of one machine: what the command line, a TOML file, `--dry-run`, the keeper and START packets share.

Plain data. `as_dict` and `from_dict` carry it to the keeper; paths in it are absolute. What it does not say (sizes of
control pages, endpoints, epochs) is the keeper's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CONSOLE", "MAX_HARTS", "NETWORK", "RAM_BASE", "VIRTIO_SLOTS", "WINDOW", "Device", "Machine", "Serial"]

RAM_BASE = 0x80000000
WINDOW = "window"  # a device of this host without the guest's memory
NETWORK = "net"  # what a network card is called among the devices
CONSOLE = "console"  # and a virtio console
VIRTIO_SLOTS = 8
MAX_HARTS = 8
PAGE = 4096
WINDOW_BASE = 0x10010000  # after the virtio-mmio slots
WINDOW_IRQ = 12


@dataclass(frozen=True)
class Serial:
    """The far end of the serial line: kind is fd, pty, socket, file or none."""

    kind: str = "fd"
    path: str = ""


@dataclass(frozen=True)
class Device:
    """One device process."""

    id: str
    role: str  # what `ps` shows: blk, rng, …
    device: str  # what the device process loads: a built-in name, or PATH.py:Class
    kind: str = "virtio"  # or mmio
    properties: dict[str, Any] = field(default_factory=dict)
    backend: str = ""  # URI
    mmio_size: int = 0  # bytes of registers, of a device that is not virtio
    compatible: str = ""  # the device tree's word for it
    capture: str = ""  # of a network: the pcap file
    on_crash: str = "restart"  # or quarantine, pause, stop
    crashes: int = 5  # so many of them, 0: any number, …
    relay: str = ""  # WINDOW, or tcp://HOST:PORT: the device is behind a relay, here or there
    keys: str = ""  # the directory with the keys for there
    seconds: float = 10.0  # … within so many seconds are too many: quarantine

    def describe(self) -> str:
        """One line for people."""
        words = [self.backend] if self.backend else []
        words += [f"{name}={value}" for name, value in self.properties.items()]
        words += ["window=on"] if self.relay == WINDOW else []
        return ", ".join(words)


@dataclass(frozen=True)
class Machine:
    """One machine. Empty strings mean "none"; `bios` is "default" (the built-in SBI), "none" or a file."""

    name: str
    memory: int  # bytes
    harts: int = 1
    kernel: str = ""
    initrd: str = ""
    append: str = ""
    bios: str = "default"
    boot: str = ""  # "disk": sector 0 of the first disk
    serial: Serial = field(default_factory=Serial)
    devices: tuple[Device, ...] = ()
    link: str = "words"  # or messages
    reboot: bool = True  # a reset starts the machine again; otherwise it ends it
    detach: bool = False  # live on without the client that started it
    guest: str = ""  # what people call what runs in it
    verbose: bool = False
    sandbox: str = "on"  # or off, or require: refuse to start without all of it
    gdb: str = ""  # where the core serves gdb: PORT, HOST:PORT or a path
    qmp: str = ""  # where QMP is served besides the run directory, likewise
    metrics: str = ""  # where figures are served to Prometheus, likewise
    faults: tuple[dict[str, Any], ...] = ()  # rules that stop or change requests, as `proto.faults.Rule` has them
    gdb_wait: bool = False  # every hart is held until gdb lets it go

    @property
    def console_on_stdio(self) -> bool:
        """Is a port of a console the terminal of the command that starts the machine?"""
        ports = [port for device in self.devices if device.device == CONSOLE for port in device.backend.split(";")]
        return any(port.partition(",")[0] == "stdio" for port in ports)

    def as_dict(self) -> dict[str, Any]:
        """Plain values only, for a packet."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Machine:
        """The inverse of `as_dict`."""
        serial = Serial(**values["serial"])
        devices = tuple(Device(**device) for device in values["devices"])
        return cls(**{**values, "serial": serial, "devices": devices, "faults": tuple(values.get("faults", ()))})

    def places(self) -> dict[str, dict[str, Any]]:
        """Where the guest finds each device, by id: what START tells the core besides id and kind.

        Virtio devices fill the slots in the order given, so that the first disk is vda; what is not virtio gets whole
        pages from WINDOW_BASE on and the interrupts after the RTC's.
        """
        places: dict[str, dict[str, Any]] = {}
        slot, address, irq = 0, WINDOW_BASE, WINDOW_IRQ
        for device in self.devices:
            if device.kind == "virtio":
                places[device.id] = {"slot": slot, "irq": 1 + slot}
                slot += 1
            else:
                size = -(-device.mmio_size // PAGE) * PAGE
                place = {"slot": None, "irq": irq, "address": address, "size": size}
                places[device.id] = {**place, "compatible": device.compatible}
                address, irq = address + size, irq + 1
        return places
