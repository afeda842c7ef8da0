"""What is known of a death, taken before the successor changes it, and the bundle that is made of it.

`gather` runs before the successor is started, so it is short: the in-flight table and the marks. `look` reads the
requests from the guest's memory, while the successor comes up and before it gets its START. `write` comes when nobody
waits.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher import __version__
from launcher.inspect.bundles import crash_base, saved_request, write_bundle
from launcher.keeper.flights import Guest, decode, save
from launcher.keeper.member import QUEUE_SIZE, Member
from launcher.keeper.poison import Flight, Suspects, in_flight
from launcher.keeper.segments import Segment
from launcher.machine.description import RAM_BASE, Machine
from proto.errors import ConfigError
from proto.pages import MAX_QUEUES, queue_statistics
from proto.trace import TracePoint, last_records

__all__ = ["Death", "Evidence", "gather", "look_at", "write"]

LOG_TAIL = 32 << 10
RECORDS = 256
TRACE_POINTS = {int(point): point.name for point in TracePoint}


@dataclass(frozen=True)
class Death:
    """How a process ended: `status` as subprocess has it; `outside` says that somebody else sent a SIGKILL."""

    pid: int
    status: int
    what: str
    lived: float
    outside: bool
    served: bool


@dataclass
class Evidence:
    """What a bundle is made of."""

    name: str
    death: Death
    member: dict[str, Any]
    flights: list[Any] = field(default_factory=list)
    count: int = 0  # of requests in flight: not all are decoded
    carried_out: list[Any] = field(default_factory=list)  # the one that was alone, if any was
    condemned: list[Flight] = field(default_factory=list)  # at this death
    saved: bytes = b""
    look: Callable[[], None] | None = None
    written: bool = False

    @property
    def path(self) -> Path:
        """Where the bundle will be."""
        return crash_base() / str(self.member["machine"]) / self.name


def gather(
    machine: Machine,
    member: Member,
    death: Death,
    shared: Mapping[str, Segment],
    suspects: Suspects,
    rings: Mapping[int, Mapping[str, int]],
    kind: int,
) -> Evidence:
    """Read what the dead process had under way, and judge it. `kind` is its virtio device id."""
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now)) + f".{int(now * 1000) % 1000:03}"
    assert member.device is not None
    about = {
        "machine": machine.name,
        "id": member.id,
        "role": member.role,
        "epoch": member.epoch,
        "reason": member.reason,
        "device": dataclasses.asdict(member.device),
        "log": str(member.log),
        "time": now,
    }
    evidence = Evidence(f"{stamp}-{member.id}", death, about)
    if "inflight" not in member.segments or not rings:
        return evidence
    flights = in_flight(member.segments["inflight"].view(), MAX_QUEUES, QUEUE_SIZE)
    page = member.segments["device_to_core"].view()
    marks = {queue: queue_statistics(page, queue).marked for queue in range(MAX_QUEUES)}
    marked = {queue: mark - 1 for queue, mark in marks.items() if mark}
    if death.served:
        evidence.condemned = suspects.died(flights, marked, crash=not death.outside)
    evidence.count = len(flights)
    guest = Guest(shared["ram0"].fd, RAM_BASE, machine.memory)

    def look() -> None:
        evidence.flights = decode(flights, rings, guest, kind)
        alone = [flight for flight in flights if marked.get(flight.queue) == flight.counter]
        evidence.carried_out = decode(alone, rings, guest, kind)
        for guilty in evidence.condemned:
            request = {**save(guilty, rings, guest), "device": about["device"], "device_id": kind}
            evidence.saved = saved_request({**request, "epoch": about["epoch"]})

    evidence.look = look
    return evidence


def look_at(evidence: Evidence) -> None:
    """Read the requests, unless that was done."""
    look, evidence.look = evidence.look, None
    if look is not None:
        look()


def write(evidence: Evidence, outcome: str, trace: Segment | None) -> Path:
    """Make the bundle. Raises OSError and ConfigError."""
    look_at(evidence)
    death = evidence.death
    member = dict(evidence.member)
    log = Path(member.pop("log"))
    crash = {
        "format": "bulkhead-crash",
        "version": 1,
        **member,
        **dataclasses.asdict(death),
        "signal": signal.Signals(-death.status).name if death.status < 0 else None,
        "outcome": outcome,
        "in_flight": evidence.flights,
        "in_flight_count": evidence.count,
        "carried_out_alone": evidence.carried_out,
        "condemned": [flight._asdict() for flight in evidence.condemned],
        "versions": {"bulkhead": __version__, "python": platform.python_version(), "kernel": os.uname().release},
    }
    files = {"crash.json": json.dumps(crash, indent=2).encode() + b"\n", "log.txt": _tail(log)}
    if trace is not None:
        files["trace.json"] = _records(trace)
    if evidence.saved:
        files["request.msgpack"] = evidence.saved
    return write_bundle(member["machine"], evidence.name, files)


def _records(trace: Segment) -> bytes:
    """The last records of a ring, as it is now."""
    try:
        records = last_records(trace.view(), RECORDS)
    except (ValueError, ConfigError):
        return b"[]\n"
    rows = [{**record._asdict(), "point": TRACE_POINTS.get(record.point, record.point)} for record in records]
    return json.dumps(rows, default=bytes.hex).encode() + b"\n"


def _tail(log: Path) -> bytes:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL))
            return file.read()
    except OSError:
        return b""
