"""A console behind a relay, and v86fs with its queue of notices: queues that are served on demand."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from console_card import ConsoleCard, memory, queue_of
from far import Far

from devproc.fs.v86fs.messages import Type, encode
from launcher.replay.frontend import GPA, FrontEnd

BUFFERS, ROOM = 0x800000, 0x4000
WRITE, NEXT = 2, 1
REQUESTS, NOTICES = 1, 2
ROOT = 1


class RelayConsole(ConsoleCard):
    """`front` is the relay, `far` the console."""

    def __init__(self, folder: Path, ports: str) -> None:
        super().__init__(ports)
        self.front.close()
        self.far = Far(folder, "console", ports, lent=self.lent)
        self._kept = memory()
        self.far.start()
        self.front = FrontEnd("relay", {"endpoint": self.far.endpoint}, lent={"relay": self._kept})

    def close(self) -> None:
        super().close()
        self.far.close()
        os.close(self._kept)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[RelayConsole]:
    made = RelayConsole(tmp_path, "stdio;pty,name=org.example")
    made.start()
    yield made
    made.close()


@pytest.mark.slow
def test_a_console_loses_and_doubles_nothing(console: RelayConsole) -> None:
    """Bytes both ways, through two ports, while either side is killed."""
    guest = console.ends[0]
    guest.settimeout(60)
    console.offer(queue_of(0), 16, times=10)
    said, heard = b"", b""
    for turn, victim in enumerate(("nobody", "console", "relay", "console", "nobody")):
        text = b"<%d from the guest>" % turn
        console.send(0, text, wait=False)
        guest.send(b"[%d from the host]" % turn)
        if victim == "console":
            console.far.kill()
            console.far.start()
        elif victim == "relay":
            console.front.kill()
            console.front.start()
            console.front.replay()
        console.front.wait_used(console.queues[queue_of(0) + 1])
        while len(said) < sum(len(b"<%d from the guest>" % n) for n in range(turn + 1)):
            said += guest.recv(4096)
        while len(heard) < sum(len(b"[%d from the host]" % n) for n in range(turn + 1)):
            heard += console.receive(0)
            console.offer(queue_of(0), 16)
    assert said == b"".join(b"<%d from the guest>" % n for n in range(5))
    assert heard == b"".join(b"[%d from the host]" % n for n in range(5))


class Share:
    """v86fs behind a relay, and the least of a driver."""

    def __init__(self, front: FrontEnd) -> None:
        self.front = front
        front.start()
        front.negotiate()
        self.queues = [front.add_queue(index, 64, index * 0x10000) for index in range(3)]
        front.driver_ok()
        self._turn = 0

    def put(self, queue: int, data: bytes) -> int:
        """Make a request available; where its answer will be."""
        ram, layout, slot = self.front.ram.view, self.queues[queue], self._turn % 16
        self._turn += 1
        at = BUFFERS + (queue * 16 + slot) * ROOM
        ram[at : at + len(data)] = data
        pieces = [(at, len(data), NEXT)] if data else []
        for number, (start, size, flags) in enumerate([*pieces, (at + ROOM // 2, 4096, WRITE)]):
            entry = (GPA + start, size, flags, slot * 4 + number + 1 if flags & NEXT else 0)
            struct.pack_into("<QIHH", ram, layout.desc + 16 * (slot * 4 + number), *entry)
        self.front.native.publish(layout.driver, slot * 4)
        self.front.notify(layout)
        return at + ROOM // 2

    def call(self, kind: Type, *fields: Any) -> bytes:
        at = self.put(REQUESTS, encode(kind, 1, fields))
        _, size = self.front.wait_used(self.queues[REQUESTS])
        return bytes(self.front.ram.view[at : at + size])


def test_v86fs_tells_of_changes_through_a_relay(
    far: Callable[..., Far], relay: Callable[..., FrontEnd], tmp_path: Path, kept: int
) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    (folder / "f").write_text("old")
    behind = far("v86fs", str(folder), {"tag": ""})
    share = Share(FrontEnd("relay", {"endpoint": behind.endpoint}, lent={"relay": kept}))
    try:
        share.call(Type.MOUNT, b"")
        share.call(Type.LOOKUP, ROOT, b"f")
        notice = share.put(NOTICES, b"")
        (folder / "f").write_text("new")
        _, size = share.front.wait_used(share.queues[NOTICES], 60)
        assert Type(share.front.ram.view[notice + 4]) in (Type.INVALIDATE, Type.INVALIDATE_DIR) and size
    finally:
        share.front.close()
