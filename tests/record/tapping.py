"""Device processes whose traffic is recorded, as the keeper and `bulkhead record` would."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from launcher.replay.frontend import GPA, FrontEnd
from native.memory import Area
from proto.recording import RecordingWriter
from proto.tap import TAP_HEADER, Event, TapReader, format_tap, unpack_events

NEXT, WRITE = 1, 2


class Tapped:
    """A tap of this process, as the keeper makes it."""

    def __init__(self, size: int = 1 << 20, *, block: bool = False) -> None:
        self.fd = os.memfd_create("tap")
        os.truncate(self.fd, TAP_HEADER + size)
        self.area = Area.map_fd(self.fd, TAP_HEADER + size)
        self.view = self.area.view()
        format_tap(self.view, block=block)
        self.reader = TapReader(self.view)

    def events(self) -> list[Event]:
        return list(unpack_events(self.reader.read()))

    def save(self, path: Path, device: dict[str, Any]) -> Path:
        """What is in it as a recording."""
        with open(path, "wb") as file:
            writer = RecordingWriter(file, {"machine": "test", "wall": 0, "devices": [device]})
            writer.events(device["id"], self.reader.read())
            writer.end({"reason": "test"})
        return path

    def close(self) -> None:
        self.reader.close()
        self.view.release()
        self.area.close()
        os.close(self.fd)


def request(front: FrontEnd, kind: int, sector: int, data: bytes = b"", room: int = 0) -> bytes:
    """One disk request. Returns all that was written."""
    layout, ram, at = front.queues[0], front.ram.view, 0x100000
    head = kind.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")
    ram[at : at + 16 + len(data)] = head + data
    back = at + 0x100000
    pieces = [(at, 16 + len(data), 0), (back, room + 1, WRITE)]
    for number, (place, size, flags) in enumerate(pieces):
        entry = (GPA + place).to_bytes(8, "little") + size.to_bytes(4, "little")
        more = flags | (NEXT if number == 0 else 0)
        ram[layout.desc + 16 * number :][:16] = entry + more.to_bytes(2, "little") + (1 - number).to_bytes(2, "little")
    front.native.publish(layout.driver, 0)
    front.notify(layout)
    _, length = front.wait_used(layout)
    return bytes(ram[back : back + length])


def disk(tap: Tapped | None, path: Path, options: str = "") -> FrontEnd:
    path.write_bytes(bytes(1 << 20))
    front = FrontEnd("blk", backend=f"file:{path}{options}", lent={"tap": tap.fd} if tap else {})
    front.start()
    front.negotiate()
    front.add_queue(0, 16)
    front.driver_ok()
    return front
