"""The network from inside Debian, both ways: libslirp behind Bulkhead's card, and behind QEMU's.

The host serves and swallows bytes on its loopback; the guest sees it at 10.0.2.2. Both machines stay up and take turns,
with the same kernel, initramfs and commands. The time is the host's, from the command to its end.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.boot import ARGUMENTS, DEADLINE, SHELL
from bench.guests import Console, bulkhead, debian, qemu, scratch
from bench.measure import Figure, Run, alternate, compare

PEER = "qemu-system-riscv64"
MAC = "52:54:00:12:34:56"
MIB = 1 << 20
RECEIVED, SENT = 64, 8  # MiB; busybox's nc sends a KiB at a time, and is slow


class Host:
    """Two ports of the loopback: one gives RECEIVED MiB to whoever connects, one takes all it gets."""

    def __init__(self) -> None:
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.source, self.sink = (listener.getsockname()[1] for listener in self._listeners)
        self._threads = [
            threading.Thread(target=self._serve, args=(listener, serve), daemon=True)
            for listener, serve in zip(self._listeners, (_give, _take), strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End both."""
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for listener in self._listeners:
            listener.close()

    @staticmethod
    def _serve(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(ConnectionError):
                    serve(connection)


def _give(connection: socket.socket) -> None:
    for _ in range(RECEIVED):
        connection.sendall(bytes(MIB))


def _take(connection: socket.socket) -> None:
    while connection.recv(MIB):
        pass


def measure(run: Run) -> Iterator[Figure]:
    """Receiving and sending."""
    from launcher.images import GuestCard, network_archive

    images = debian(run.progress)
    with scratch() as name, contextlib.closing(Host()) as host:
        initrd = Path(name) / "initrd"
        initrd.write_bytes(images.initrd.read_bytes() + network_archive(images, [GuestCard(MAC, "dhcp")]))
        kernel = ("--kernel", str(images.kernel), "--initrd", str(initrd), "--append", ARGUMENTS)
        card = ("-netdev", "user,id=n0", "-device", f"virtio-net-device,netdev=n0,mac={MAC}")
        with (
            Console(bulkhead("run", *kernel, "--net", f"user,mac={MAC}")) as ours,
            Console(qemu(*(word.replace("--", "-") for word in kernel), *card)) as theirs,
        ):
            run.progress("boot Debian on both")
            for console in (ours, theirs):
                console.until(SHELL, DEADLINE)
            lines = {
                "receive": (RECEIVED, f"nc 10.0.2.2 {host.source} </dev/null >/dev/null"),
                "send": (SENT, f"dd if=/dev/zero bs=64k count={SENT * 16} 2>/dev/null | nc 10.0.2.2 {host.sink}"),
            }
            for what, (size, line) in lines.items():
                sides = _speed(ours, size, line), _speed(theirs, size, line)
                for side in sides:
                    side()  # warm up
                values = alternate(*sides, rounds=run.rounds(5), progress=run.progress)
                yield Figure.compared(f"Debian: {what}, TCP over libslirp", "MiB/s", compare(*values))


def _speed(console: Console, size: int, line: str) -> Callable[[], float]:
    def once() -> float:
        begun = time.perf_counter()
        console.ask(f"{line}; echo =$?=", b"=0=", DEADLINE)
        return size / (time.perf_counter() - begun)

    return once
