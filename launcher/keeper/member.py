"""One process of a machine through all its lives, the shared memory that outlives it, and the START packets.

`Member` is state only: what the keeper knows of the core or of one device. The functions beside it make what a process
is given, from the machine's description: segments and control pages, START for the core, START for a device.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.keeper.child import Child
from launcher.keeper.heard import log_throttle
from launcher.keeper.segments import Segment
from launcher.machine.description import RAM_BASE, Device, Machine
from proto.channel import MAX_DESCRIPTORS
from proto.doorbell import make_doorbell
from proto.errors import ConfigError
from proto.inflight import region_size
from proto.pages import (
    MAX_QUEUES,
    PAGE_SIZE,
    CoreStats,
    DeviceToCore,
    LinkMode,
    format_core_page,
    format_device_page,
    format_stats_page,
    queue_statistics,
    read_word,
    reset_device_page,
)
from proto.trace import TRACE_SIZE, format_trace

__all__ = [
    "Endpoint",
    "Member",
    "core_start",
    "core_word",
    "device_start",
    "make_device_memory",
    "make_machine_memory",
    "peer_start",
    "row_of",
]

QUEUE_SIZE = 1024  # the largest ring an in-flight table has room for
MAX_STORED = 512  # descriptors that one device may leave with the keeper
SECTOR = 512
LISTENS, RINGS = 0, 1  # the ends of a doorbell

Endpoint = str


class Member:
    """The core, one device, or the process behind a device: the process, if there is one now, and what is kept for the
    next."""

    def __init__(self, id: str, role: str, device: Device | None, log: Path) -> None:
        self.id = id
        self.role = role
        self.device = device
        self.log = log
        self.child: Child | None = None
        self.state = "starting"
        self.epoch = 0
        self._claimed = 0  # the last epoch given to any process
        self.candidate = False  # it is to replace another in a swap
        self.late = False  # and needs what that one has open
        self.config = b""  # its configuration space, as it said HELLO
        self.restarts = 0
        self.young_deaths = 0  # in a row
        self.reason = ""  # why it is in a state that is not "running"
        self.ready = False  # the core has bound this epoch's endpoint
        self.started = False  # START was sent in this epoch
        self.wanted = False  # its death is an order, not a failure
        self.away = False  # it says that it waits for somebody, it may be for ever
        self.waits = 0.0  # seconds for which it has been waiting for its backend
        self._calls = 0  # `call_sequence` of its page when its process was started
        self.answers = 0  # ALIVE packets, of a process that has no heartbeat
        self.segments: dict[str, Segment] = {}
        self.bells: dict[str, tuple[int, int]] = {}  # doorbells: the ends that listen and ring, of `kick` and `call`
        self.lines = log_throttle()  # what it may write into logs
        self.sandbox: dict[str, Any] | None = None  # what its process says that it has given up
        self.lent: dict[str, int] = {}  # descriptors that we hold and give with every START
        self.tap: Segment | None = None  # through which it is recorded (`launcher.keeper.recordings`)
        self.store: dict[str, int] = {}  # descriptors that it left with us, for its successor

    def claim_epoch(self) -> int:
        """A number that no process of this device has had: the next epoch's, if its process becomes the device."""
        self._claimed = max(self._claimed, self.epoch) + 1
        return self._claimed

    def next_epoch(self) -> None:
        """A process is about to start; its predecessor is dead, its pidfd has said so."""
        self.epoch = self.claim_epoch()
        self.ready = self.started = self.wanted = False
        self.state, self.reason, self.waits, self.away = "starting", "", 0.0, False
        if "device_to_core" in self.segments:
            reset_device_page(self.segments["device_to_core"].view(), self.epoch)
            self._calls = self._call_sequence()

    def has_served(self) -> bool:
        """Has the process of this epoch begun to serve a queue? It does so with a call, before the core has said that
        it is there."""
        return "device_to_core" in self.segments and self._call_sequence() != self._calls

    def _call_sequence(self) -> int:
        return read_word(self.segments["device_to_core"].view(), DeviceToCore, "call_sequence", 4)

    def give(self) -> None:
        """Send what the store holds, before START: STORED packets of named descriptors."""
        names = list(self.store)
        for first in range(0, len(names), MAX_DESCRIPTORS):
            batch = {name: self.store[name] for name in names[first : first + MAX_DESCRIPTORS]}
            if self.child is not None:
                self.child.send("STORED", {"names": list(batch)}, batch)

    def keep(self, fds: dict[str, int]) -> list[str]:
        """Take descriptors into the store, out of `fds`; a name that is there already is replaced. Returns the names
        taken: not all of them when the store is full."""
        taken = []
        for name in list(fds):
            if name not in self.store and len(self.store) >= MAX_STORED:
                break
            self.drop([name])
            self.store[name] = fds.pop(name)
            taken.append(name)
        return taken

    def drop(self, names: list[str]) -> None:
        """Close descriptors of the store."""
        for name in names:
            if name in self.store:
                os.close(self.store.pop(name))

    def close(self) -> None:
        """Let segments and descriptors go."""
        while self.segments:
            self.segments.popitem()[1].close()
        while self.bells:
            for end in self.bells.popitem()[1]:
                os.close(end)
        while self.lent:
            os.close(self.lent.popitem()[1])
        self.drop(list(self.store))


# -- shared memory -----------------------------------------------------------------------------------------------------


def make_machine_memory(machine: Machine) -> dict[str, Segment]:
    """Guest RAM, its dirty map, the page on which the core says how it is doing, its trace ring. Raises ConfigError."""
    with contextlib.ExitStack() as undo:
        shared: dict[str, Segment] = {}
        for name, size, what in (
            ("ram0", machine.memory, "guest memory"),
            ("dirty0", -(-machine.memory // PAGE_SIZE), "the dirty map"),
            ("stats", PAGE_SIZE, "the statistics page"),
            ("trace", TRACE_SIZE, "a trace ring"),
        ):
            shared[name] = Segment(size, what)
            undo.callback(shared[name].close)
        format_stats_page(shared["stats"].view())
        format_trace(shared["trace"].view())
        undo.pop_all()
    return shared


def make_device_memory(member: Member, machine: Machine) -> None:
    """A device's control pages, in-flight table, trace ring and doorbells. Raises ConfigError."""
    for name, size, what in (
        ("core_to_device", PAGE_SIZE, "a control page"),
        ("device_to_core", PAGE_SIZE, "a control page"),
        ("inflight", region_size(MAX_QUEUES, QUEUE_SIZE), "an in-flight table"),
        ("trace", TRACE_SIZE, "a trace ring"),
    ):
        member.segments[name] = Segment(size, what)
    mode = LinkMode.MESSAGES if machine.link == "messages" else LinkMode.WORDS
    if mode == LinkMode.WORDS:
        try:
            member.bells |= {"kick": make_doorbell(), "call": make_doorbell()}
        except OSError as error:
            raise ConfigError(f"cannot make a doorbell for {member.id}: {error.strerror}") from error
    format_core_page(member.segments["core_to_device"].view(), mode)
    format_device_page(member.segments["device_to_core"].view())
    format_trace(member.segments["trace"].view())


# -- START -------------------------------------------------------------------------------------------------------------


def core_start(
    machine: Machine, members: list[Member], endpoints: Mapping[str, Endpoint]
) -> tuple[dict[str, Any], dict[str, int]]:
    """Body and descriptors of the core's START, but for the machine's own memory. Raises ConfigError."""
    places = machine.places()
    devices = []
    fds = {}
    for member in members:
        assert member.device is not None
        devices.append(
            {
                "id": member.id,
                "kind": member.device.kind,
                **places[member.id],
                "epoch": member.epoch,
                "endpoint": endpoints[member.id],
                "queue_size": QUEUE_SIZE,
            }
        )
        for name in ("core_to_device", "device_to_core"):
            fds[f"{member.id}.{name}"] = member.segments[name].fd
        if member.bells:
            fds[f"{member.id}.kick"] = member.bells["kick"][RINGS]
            fds[f"{member.id}.call"] = member.bells["call"][LISTENS]
    body: dict[str, Any] = {
        "id": "core",
        "machine": {
            key: value for key, value in machine.as_dict().items() if key not in ("devices", "serial", "faults")
        },
        "devices": devices,
        "serial": {"kind": machine.serial.kind, "path": machine.serial.path},
        "sandbox": {"mode": machine.sandbox},
    }
    if machine.boot == "disk":
        body["machine"]["boot_sector"] = _boot_sector(machine)
    return body, fds


def _boot_sector(machine: Machine) -> bytes:
    """Sector 0 of the first disk, as it is now. Raises ConfigError."""
    disk = next((device for device in machine.devices if device.backend), None)
    if disk is None:
        raise ConfigError("--boot disk without a disk", hint="Add one: --disk FILE")
    scheme, _, path = disk.backend.partition(":")
    if scheme != "file":
        raise ConfigError(f"--boot disk cannot start from {disk.backend}", hint="The first disk must be a raw file.")
    try:
        with open(path, "rb") as image:
            return image.read(SECTOR)
    except OSError as error:
        raise ConfigError(f"cannot open {path}: {(error.strerror or '').lower()}") from error


@contextlib.contextmanager
def device_start(
    machine: Machine, member: Member, shared: Mapping[str, Segment], endpoint: Endpoint
) -> Iterator[tuple[dict[str, Any], dict[str, int]]]:
    """Body and descriptors of a device's START; the core's page is given for reading only."""
    assert member.device is not None
    body = {
        "id": member.id,
        "role": member.role,
        "epoch": member.epoch,
        "machine": machine.name,
        "device": member.device.device,
        "properties": dict(member.device.properties),
        "backend": member.device.backend,
        "endpoint": endpoint,
        "regions": [{"id": 0, "gpa": RAM_BASE, "size": machine.memory}],
        "queues_max": MAX_QUEUES,
        "queue_size": QUEUE_SIZE,
        "log_level": logging.DEBUG if machine.verbose else logging.INFO,
        "candidate": member.candidate,
        "late": member.late,
    }
    segments, bells = member.segments, member.bells
    with segments["core_to_device"].read_only() as core_page:
        yield (
            body,
            {
                "region0": shared["ram0"].fd,
                "dirty0": shared["dirty0"].fd,
                "core_to_device": core_page,
                "device_to_core": segments["device_to_core"].fd,
                "inflight": segments["inflight"].fd,
                "trace": segments["trace"].fd,
                **({"kick": bells["kick"][LISTENS], "call": bells["call"][RINGS]} if bells else {}),
                **({"tap": member.tap.fd} if member.tap is not None else {}),
                **member.lent,
            },
        )


def peer_start(machine: Machine, member: Member, backend: str) -> dict[str, Any]:
    """Body of the START of a process behind a device."""
    level = logging.DEBUG if machine.verbose else logging.INFO
    sandbox = {"mode": machine.sandbox}
    return {"id": member.id, "machine": machine.name, "backend": backend, "log_level": level, "sandbox": sandbox}


# -- what people see ---------------------------------------------------------------------------------------------------


def row_of(member: Member, shared: Mapping[str, Segment]) -> dict[str, Any]:
    """A process as `ps` shows it; counters since the machine started."""
    row: dict[str, Any] = {
        "id": member.id,
        "role": member.role,
        "pid": member.child.pid if member.child else None,
        "state": _state(member),
        "epoch": member.epoch or None,
        "restarts": member.restarts if member.role != "core" else None,
        "reason": f"for its backend, {member.waits:.0f} s" if member.waits else member.reason,
        "log": str(member.log),
        "sandbox": member.sandbox if member.child else None,
    }
    if member.role != "core" and member.device is None:
        return row
    if member.device is None:
        return row | {"instructions": core_word(shared, "instret")}
    row |= {"device": member.device.device, "backend": member.device.describe(), **_counters(member)}
    if member.device.device == "blk" and member.config:
        row["size"] = int.from_bytes(member.config[:8], "little") * SECTOR
    return row


def _state(member: Member) -> str:
    """As people are told it."""
    if member.child is not None and member.child.debugged and member.state in ("starting", "running"):
        return "debugged"
    return "waiting" if (member.waits or member.away) and member.state == "running" else member.state


def _counters(member: Member) -> dict[str, int]:
    counters = {"requests": 0, "bytes": 0, "errors": 0, "queue": 0}
    if member.segments:
        page = member.segments["device_to_core"].view()
        for queue in range(MAX_QUEUES):
            seen = queue_statistics(page, queue)
            counters["requests"] += seen.requests
            counters["bytes"] += seen.bytes_read + seen.bytes_written
            counters["errors"] += seen.errors
            counters["queue"] += seen.in_flight
    return counters


def core_word(shared: Mapping[str, Segment], field: str) -> int:
    """A counter of the core's statistics page; 0 while there is none."""
    return read_word(shared["stats"].view(), CoreStats, field) if "stats" in shared else 0
