"""A wire between two network namespaces that loses, delays and reorders packets: a tun device in each, and a thread.

What `tc netem` does, for hosts whose kernel has no netem.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time

__all__ = ["Wire", "ip"]

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI, _CLONE_NEWNET = 0x400454CA, 1, 0x1000, 0x40000000
PACKET = 65536
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _tun_in(namespace: str) -> int:
    """A tun device called `end` in a namespace: its descriptor."""
    found: list[int] = []

    def make() -> None:
        with open(f"/run/netns/{namespace}") as other:
            if _libc.setns(other.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"end", _IFF_TUN | _IFF_NO_PI))
        found.append(fd)

    thread = threading.Thread(target=make)  # a namespace is a thread's
    thread.start()
    thread.join()
    (fd,) = found
    return fd


class Wire:
    """Two namespaces, `here` and `there`, and what lies between them."""

    def __init__(self, prefix: str, addresses: tuple[str, str], seed: int = 1) -> None:
        self.here, self.there = f"{prefix}-c", f"{prefix}-d"
        self.loss, self.delay, self.jitter = 0.0, 0.0, 0.0
        self.severed = False
        self.lost = self.late = 0  # packets that were lost, and that others overtook
        self._random = random.Random(seed)
        self._fds: list[int] = []
        with contextlib.ExitStack() as undo:
            for name, address in zip((self.here, self.there), addresses, strict=True):
                ip("netns", "add", name)
                undo.callback(ip, "netns", "del", name)
                self._fds.append(_tun_in(name))
                undo.callback(os.close, self._fds[-1])
                ip("-n", name, "addr", "add", f"{address}/24", "dev", "end")
                ip("-n", name, "link", "set", "end", "up")
            self._undo = undo.pop_all()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._carry)
        self._thread.start()

    def close(self) -> None:
        os.eventfd_write(self._end, 1)
        self._thread.join()
        os.close(self._end)
        self._undo.close()

    def _carry(self) -> None:
        due: list[tuple[float, int, int, bytes]] = []  # when, number, to, packet
        number, newest = 0, 0
        poll = select.poll()
        for fd in (*self._fds, self._end):
            poll.register(fd, select.POLLIN)
        while True:
            wait = max(0.0, due[0][0] - time.monotonic()) * 1000 if due else None
            for fd, _ in poll.poll(wait):
                if fd == self._end:
                    return
                packet = os.read(fd, PACKET)
                if self.severed or self._random.random() < self.loss:
                    self.lost += 1
                    continue
                number += 1
                when = time.monotonic() + self.delay + self.jitter * self._random.random()
                to = self._fds[1] if fd == self._fds[0] else self._fds[0]
                heapq.heappush(due, (when, number, to, packet))
            while due and due[0][0] <= time.monotonic():
                _, which, to, packet = heapq.heappop(due)
                self.late += which < newest
                newest = max(newest, which)
                with contextlib.suppress(OSError):  # a full queue loses it, as any wire
                    os.write(to, packet)
