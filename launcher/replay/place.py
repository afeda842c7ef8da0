"""What a replayed device is and what stands behind it.

Without a word from the user nothing of his is touched: a disk gets an image of its own, which has at the beginning what
the recording shows was there (all that was read before it was written), and a network card gets a cable whose other end
is the replay. A device of one's own is the recorded one. A shared folder must be given: a recording does not know the
files of a directory.
"""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devproc.fs.share import open_tree
from devproc.kept import KEPT_SIZE
from devproc.properties import properties_of
from devproc.registry import load_class
from launcher.machine.options import Given
from launcher.machine.values import parse_device, parse_disk, parse_share
from launcher.replay.source import Script
from launcher.replay.tables import lent_tables
from proto.errors import ConfigError
from proto.virtio import BLK_SECTOR_SIZE, BlkStatus, BlkType

__all__ = ["Place", "place", "scratch_pieces"]

SHARES = ("9p", "virtiofs", "v86fs")
BLK_HEADER = struct.Struct("<IIQ")
WRITING = (BlkType.OUT, BlkType.DISCARD, BlkType.WRITE_ZEROES)
ROOM = 1 << 22  # bytes that a cable holds


@dataclass
class Place:
    """A device, and what is lent to it. `close` lets everything go."""

    device: str
    properties: dict[str, Any]
    backend: str = ""
    lent: dict[str, int] = field(default_factory=dict)
    wire: socket.socket | None = None  # the far end of a network card's cable
    undo: ExitStack = field(default_factory=ExitStack)

    def describe(self) -> str:
        """One line for people."""
        return f"{self.device} {self.backend}".strip()

    def close(self) -> None:
        self.undo.close()


def place(script: Script, spec: str = "") -> Place:
    """What the recording, or `spec` in its stead, says. Raises ConfigError."""
    recorded = script.device
    kind, properties = recorded["device"], dict(recorded.get("properties", {}))
    if spec and ".py:" in spec.partition(",")[0]:
        device, _, given = parse_device(_given(spec))
        found = Place(device, {**properties, **given} if device == kind else given)
        if kind == "net":
            return _with_cable(found, recorded)
        if kind == "blk":
            disk = _scratch(script, {})
            return Place(device, {**found.properties, **_named(script, device)}, disk.backend, undo=disk.undo)
        return found
    if kind == "blk":
        properties = {**_named(script, kind), **properties}
        if not spec:
            return _scratch(script, properties)
        uri, _, given = parse_disk(_given(spec))
        return Place(kind, {**properties, **given}, uri)
    if kind == "net":
        if spec:
            raise ConfigError(
                "a recorded network card needs no network", hint="The replay is at its cable's other end."
            )
        return _with_cable(Place(kind, properties), recorded)
    if kind in SHARES:
        return _share(kind, properties, script, spec)
    if spec:
        device, _, given = parse_device(_given(spec))
        return Place(device, given)
    return Place(kind, properties, recorded.get("backend", ""))


def _given(spec: str) -> Given:
    return Given(spec, "the device", Path.cwd())


def _share(kind: str, properties: dict[str, Any], script: Script, spec: str) -> Place:
    if not spec:
        raise ConfigError(
            f"a recorded {kind} share needs a directory",
            hint=f"It was {script.device.get('backend', '')}; give a copy of it as it was, or memory:",
        )
    head, _, rest = spec.partition(",")
    share = parse_share(_given(f"{head},tag={properties.get('tag', 'replay')}{',' + rest if rest else ''}"))
    found = Place(kind, {**properties, **share.properties}, share.directory)
    if script.tables:
        tree = open_tree(share.directory, True)
        try:
            found.lent = lent_tables(script.tables, tree)
        finally:
            tree.close()
        for fd in found.lent.values():
            found.undo.callback(os.close, fd)
    return found


# -- a disk ------------------------------------------------------------------------------------------------------------


def _scratch(script: Script, properties: dict[str, Any]) -> Place:
    """An image that has what the recording shows was there."""
    sectors = int.from_bytes(script.config[:8], "little")
    pieces = list(scratch_pieces(script))
    if not script.config:  # a crash bundle: as large as what is asked for
        sectors = max([1 << 21, *(_end_of(request.readable) for request in script.requests)])
    undo = ExitStack()
    folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="bulkhead-replay-")))
    path = folder / "disk.img"
    with open(path, "wb") as image:
        image.truncate(sectors * BLK_SECTOR_SIZE)
        for sector, data in pieces:
            image.seek(sector * BLK_SECTOR_SIZE)
            image.write(data)
    return Place("blk", properties, f"file:{path}", undo=undo)


def _named(script: Script, device: str) -> dict[str, Any]:
    """The property that has the disk called as it was: by default that is made of its image's path."""
    serial = _serial(script)
    return {"serial": serial} if serial and "serial" in properties_of(load_class(device)) else {}


def _serial(script: Script) -> str:
    for request in script.requests:
        if request.readable[:4] == BlkType.GET_ID.to_bytes(4, "little") and request.written[-1:] == b"\0":
            return request.written[:-1].rstrip(b"\0").decode("ascii", "ignore")
    return ""


def _end_of(readable: bytes) -> int:
    return BLK_HEADER.unpack_from(readable)[2] + (1 << 16) if len(readable) >= BLK_HEADER.size else 0


def scratch_pieces(script: Script) -> Iterator[tuple[int, bytes]]:
    """Sectors that were read before they were written: (sector, its bytes)."""
    known: set[int] = set()
    limit = int.from_bytes(script.config[:8], "little")
    for step in script.steps:
        request = step.request
        if request is None or len(request.readable) < BLK_HEADER.size:
            continue
        number, _, sector = BLK_HEADER.unpack_from(request.readable)
        if step.kind == "pop" and number in WRITING:
            known.update(_touched(number, sector, request.readable[BLK_HEADER.size :], limit))
        elif step.kind == "done" and number == BlkType.IN and request.written[-1:] == bytes([BlkStatus.OK]):
            for count in range((len(request.written) - 1) // BLK_SECTOR_SIZE):
                if sector + count not in known:
                    known.add(sector + count)
                    at = count * BLK_SECTOR_SIZE
                    yield sector + count, request.written[at : at + BLK_SECTOR_SIZE]


def _touched(number: int, sector: int, data: bytes, limit: int) -> range | set[int]:
    """The sectors that a request may change."""
    if number == BlkType.OUT:
        return range(sector, min(sector + len(data) // BLK_SECTOR_SIZE, limit))
    touched: set[int] = set()
    for at in range(0, len(data) - 15, 16):
        first, count, _ = struct.unpack_from("<QII", data, at)
        touched.update(range(first, min(first + count, limit)))
    return touched


# -- a network card ----------------------------------------------------------------------------------------------------


def _with_cable(found: Place, recorded: Mapping[str, Any]) -> Place:
    """The card as it was, at a cable of the replay's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        found.undo.callback(end.close)
    kept = os.memfd_create("kept")
    found.undo.callback(os.close, kept)
    os.truncate(kept, KEPT_SIZE)
    found.lent = {"frames": theirs.fileno(), "kept": kept}
    found.wire = ours
    found.backend = recorded.get("backend", "") or "user"
    return found
