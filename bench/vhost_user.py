"""A small vhost-user front end: enough of the specification to drive `qemu-storage-daemon` and `virtiofsd` with the
driver of `launcher.replay.driver`."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from launcher.replay.driver import Driver, Transport
from launcher.replay.frontend import GPA, Segment
from native.memory import Area

__all__ = ["BackEnd", "StorageDaemon", "VirtioFsDaemon"]

USER = 0x7F00_0000_0000  # the front end's address of RAM, as the back end is told
SET_FEATURES, SET_OWNER, SET_MEM_TABLE = 2, 3, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL = 8, 9, 10, 12, 13
GET_FEATURES, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_VRING_ENABLE = 1, 15, 16, 18
F_PROTOCOL_FEATURES, F_EVENT_IDX, F_VERSION_1 = 1 << 30, 1 << 29, 1 << 32
PROTOCOL_F_CONFIG = 1 << 9
DEADLINE = 10.0


class BackEnd:
    """A vhost-user back end in a process of its own, and one queue of it being driven."""

    def __init__(self, command: Callable[[str], list[str]], ram_size: int = 32 << 20) -> None:
        """`command` makes the command line for the path of a socket."""
        self.folder = tempfile.TemporaryDirectory(prefix="bulkhead-")
        path = f"{self.folder.name}/vhost"
        self.process = subprocess.Popen(command(path), stderr=subprocess.DEVNULL)
        self.ram = Segment("ram", ram_size)
        self.kick, self.call = os.eventfd(0), os.eventfd(0, os.EFD_NONBLOCK)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(DEADLINE)
        self._connect(path)
        self._negotiate(ram_size)
        self._area = Area.allocate(Driver.size())

    def add_queue(self, num: int = 256, at: int = 0, index: int = 0) -> Driver:
        """Lay a queue out at offset `at` of RAM and start it."""
        driver = Driver(self._area.address, self._area)
        host = self.ram.area.address + at
        driver.num, driver.event_idx, driver.transport = num, 1, Transport.EVENTFD
        driver.desc, driver.avail, driver.used = host, host + 0x8000, host + 0xA000
        driver.kick_fd, driver.call_fd = self.kick, self.call
        self._send(SET_VRING_NUM, struct.pack("<II", index, num))
        self._send(SET_VRING_BASE, struct.pack("<II", index, 0))
        rings = struct.pack("<IIQQQQ", index, 0, USER + at, USER + at + 0xA000, USER + at + 0x8000, 0)
        self._send(SET_VRING_ADDR, rings)
        self._send(SET_VRING_CALL, struct.pack("<Q", index), [self.call])
        self._send(SET_VRING_KICK, struct.pack("<Q", index), [self.kick])
        self._send(SET_VRING_ENABLE, struct.pack("<II", index, 1))
        self._ask(GET_FEATURES)  # answered after everything before it was done
        return driver

    def close(self) -> None:
        self._socket.close()
        self.process.terminate()
        self.process.wait(DEADLINE)
        os.close(self.kick)
        os.close(self.call)
        self._area.close()
        self.ram.close()
        self.folder.cleanup()

    def _connect(self, path: str) -> None:
        end = time.monotonic() + DEADLINE
        while True:
            try:
                self._socket.connect(path)
                return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None or Path(path).is_file():
                    raise
                os.sched_yield()

    def _negotiate(self, ram_size: int) -> None:
        self._send(SET_OWNER)
        features = self._ask(GET_FEATURES)
        if features & F_PROTOCOL_FEATURES:
            self._send(SET_PROTOCOL_FEATURES, struct.pack("<Q", self._ask(GET_PROTOCOL_FEATURES) & PROTOCOL_F_CONFIG))
        wanted = features & (F_PROTOCOL_FEATURES | F_EVENT_IDX | F_VERSION_1)
        self._send(SET_FEATURES, struct.pack("<Q", wanted))
        table = struct.pack("<IIQQQQ", 1, 0, GPA, ram_size, USER, 0)
        self._send(SET_MEM_TABLE, table, [self.ram.fd])

    def _send(self, request: int, payload: bytes = b"", fds: list[int] | None = None) -> None:
        header = struct.pack("<III", request, 1, len(payload))
        socket.send_fds(self._socket, [header + payload], fds or [])

    def _ask(self, request: int) -> int:
        self._send(request)
        data = b""
        while len(data) < 20:
            part = self._socket.recv(20 - len(data))
            if not part:
                raise ConnectionError("the back end went away")
            data += part
        value: int = struct.unpack_from("<Q", data, 12)[0]
        return value


class StorageDaemon(BackEnd):
    """qemu-storage-daemon exporting one raw image as vhost-user-blk."""

    def __init__(self, image: str, *, aio: str = "io_uring", ram_size: int = 32 << 20) -> None:
        file = f"driver=file,node-name=disk,filename={image},aio={aio},cache.direct=off"
        export = "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,addr.path="
        super().__init__(lambda path: ["qemu-storage-daemon", "--blockdev", file, "--export", export + path], ram_size)


class VirtioFsDaemon(BackEnd):
    """QEMU's virtiofsd sharing one directory; `options` are its own (-o)."""

    def __init__(self, program: str, directory: str, *options: str, ram_size: int = 32 << 20) -> None:
        given = ",".join([f"source={directory}", *options])
        super().__init__(lambda path: [program, f"--socket-path={path}", "-f", "-o", given], ram_size)
