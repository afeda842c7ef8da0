"""`bulkhead serve`: one device, for a machine on another host whose relay calls (docs/relay.md).

The listening socket and what the device's process stores are held here, so that its successor finds them when it dies;
it is started again after the same back-off as in a machine. Its guest's requests come again from the relay.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.keeper.child import Child
from launcher.keeper.recovery import YOUNG, backoff
from launcher.keeper.windows import PROCESS, memory_of
from launcher.machine.options import Given
from launcher.machine.values import parse_device, parse_disk, parse_share
from launcher.trace.keys import server_keys
from proto.errors import BulkheadError, ConfigError, DeadlineMissed

__all__ = ["add_arguments", "run"]

PORT = 5757
STOP_DEADLINE = 5.0  # seconds that the device has to store what was written
WAITING = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("disk", nargs="?", metavar="URI[,KEY=VALUE]", help="a disk, as --disk of `run` takes it")
    parser.add_argument("--share", metavar="DIR,tag=TAG", help="a shared folder, as --share of `run` takes it")
    parser.add_argument("--device", metavar="X[,KEY=VALUE]", help="any other device, as --device of `run` takes it")
    parser.add_argument(
        "--listen", metavar="tcp://HOST:PORT", default=f"tcp://*:{PORT}", help="where (default: %(default)s)"
    )
    parser.add_argument("--keys", metavar="DIR", type=Path, required=True, help="of `bulkhead keys create`")
    parser.add_argument("--sandbox", choices=("on", "off", "require"), default="on", help="as for `run`")


def run(arguments: argparse.Namespace) -> int:
    """The verb."""
    body = _describe(arguments) | {"sandbox": {"mode": arguments.sandbox}, "log_level": 20}
    public, secret, roles = server_keys(arguments.keys)
    known = [key for key, role in roles.items() if role == "control"]
    if not known:
        raise ConfigError(f"{arguments.keys} has no control.public", hint="Who has control.secret may use the device.")
    keys = memory_of("keys", [public, secret, *known])
    with _listen(arguments.listen) as listener, tempfile.TemporaryDirectory(prefix="bulkhead-serve-") as scratch:
        host, port = listener.getsockname()[:2]
        body["endpoint"] = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        if body["device"] == "blk":
            from devproc.blk.uri import name_overlays

            body["backend"] = name_overlays(body["backend"], f"{scratch}/disk")
        server = _Server(body, {"listen": listener.fileno(), "keys": keys}, Path(scratch) / "log")
        return server.run()


def _describe(arguments: argparse.Namespace) -> dict[str, Any]:
    """What START says of the device. Raises ConfigError."""
    if sum(given is not None for given in (arguments.disk, arguments.share, arguments.device)) != 1:
        raise ConfigError("serve one thing: a disk's URI, --share or --device", hint="For example: serve disk.img")
    if arguments.share is not None:
        share = parse_share(Given(arguments.share, "--share", Path.cwd()))
        id, device, backend, properties = share.id, share.device, share.directory, share.properties
    elif arguments.device is not None:
        device, id, properties = parse_device(Given(arguments.device, "--device", Path.cwd()))
        backend = str(properties.pop("backend", ""))
    else:
        backend, id, properties = parse_disk(Given(arguments.disk, "URI", Path.cwd()))
        device = "blk"
    return {"id": id or "device", "device": device, "backend": backend, "properties": properties}


def _listen(where: str) -> socket.socket:
    """The socket at tcp://HOST:PORT, where HOST may be *. Raises ConfigError."""
    scheme, _, place = where.partition("://")
    host, _, port = place.rpartition(":")
    if scheme != "tcp" or not host or not port.isdigit():
        raise ConfigError(f"--listen {where}: not tcp://HOST:PORT", hint=f"For example: tcp://*:{PORT}")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(("" if host == "*" else host, int(port)), family=family, backlog=WAITING)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen at {where}: {getattr(error, 'strerror', None) or error}") from error


class _Server:
    """One device through all its processes."""

    def __init__(self, body: dict[str, Any], fds: dict[str, int], log: Path) -> None:
        self._body, self._fds, self._log = body, fds, log
        self._store: dict[str, int] = {}
        self._child: Child
        self._served = False  # a process of it was ready at some time
        self._error: tuple[str, str] | None = None
        self._wake, self._woken = os.pipe()
        self._stopping = False

    def run(self) -> int:
        """Serve until a signal says to stop. Raises ConfigError when the device never starts."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stop())
        young = 0
        while True:
            self._start()
            began = time.monotonic()
            status = self._until_dead()
            if self._stopping:
                return ExitCode.OK
            if not self._served:
                message, hint = self._error or (f"the device ended with status {status}", self._tail())
                raise ConfigError(message, hint=hint)
            young = young + 1 if time.monotonic() - began < YOUNG else 1
            why = self._error[0] if self._error else f"ended with status {status}; {self._tail()}"
            self._say(f"{self._body['id']} ({self._child.pid}): {why}; starting it again")
            self._sleep(backoff(young))
            if self._stopping:
                return ExitCode.OK

    def _start(self) -> None:
        self._error = None
        self._child = child = Child(PROCESS, self._log)
        if self._store:
            child.send("STORED", {"names": list(self._store)}, self._store)
        child.send("START", self._body, self._fds)

    def _until_dead(self) -> int:
        child, told = self._child, 0.0
        poll = select.poll()
        for source in (child.channel.fileno(), child.pidfd, self._wake):
            poll.register(source, select.POLLIN)
        while True:
            for fd, _ in poll.poll(200):
                if fd == self._wake:
                    poll.unregister(self._wake)
                elif fd == child.channel.fileno() and not self._hear():
                    poll.unregister(fd)
                elif fd == child.pidfd:
                    while self._hear():
                        pass
                    return child.reap()
            if self._stopping and not told:
                told = time.monotonic()
                child.send("STOP")
            if told and time.monotonic() - told > STOP_DEADLINE:
                child.kill()

    def _hear(self) -> bool:
        try:
            packet = self._child.channel.recv(0)
        except (DeadlineMissed, BulkheadError):
            return False
        body = packet.body
        if packet.kind == "STORE":
            for name in list(packet.fds):
                self._drop(name)
                self._store[name] = packet.fds.pop(name)
        elif packet.kind == "UNSTORE":
            for name in body.get("names", []):
                self._drop(name)
        elif packet.kind == "LOG":
            self._say(str(body.get("text", "")))
        elif packet.kind == "FAILED":
            self._error = str(body.get("error", "")), str(body.get("hint", ""))
        elif packet.kind == "READY" and not self._served:
            self._served = True
            self._say(f"{self._body['id']} is served at {body['endpoint']}")
        packet.close()
        return True

    def _drop(self, name: str) -> None:
        if name in self._store:
            os.close(self._store.pop(name))

    def _stop(self) -> None:
        self._stopping = True
        os.write(self._woken, b"x")

    def _sleep(self, seconds: float) -> None:
        select.select([self._wake], [], [], seconds)

    def _say(self, text: str) -> None:
        show.line(sys.stderr, text)

    def _tail(self) -> str:
        with contextlib.suppress(OSError):
            return self._log.read_text(errors="replace").strip()[-2000:]
        return ""
