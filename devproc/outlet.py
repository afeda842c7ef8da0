"""A disk's way to the network: `python -m devproc.outlet`, started by the keeper beside a device, outside its sandbox.

START brings {id, targets} and the descriptor `requests`. A device, which has no sockets, sends CONNECT{host, port or
path, timeout} with the descriptor of a channel; the connection arrives there in CONNECTED, or FAILED{errno, text} says
why there is none. Encryption and protocol are the device's. The keeper holds both ends of the channel, so that either
process may be killed: what was asked of one outlet and not taken is answered by the next.

It connects only to what the targets, fixed at START, name: tcp:HOST:PORT, unix:PATH, and the host of an http or https
URL. Where a web server redirects, the outlet itself asks the URL of the target, and allows the hosts that this leads
to: a device's word is not enough.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable
from typing import Any

from devproc.needs import needs_of_outlet
from devproc.sandbox import Sandbox
from proto.channel import Channel, Packet
from proto.errors import BulkheadError, ChannelClosed, DeadlineMissed, ProtocolError
from proto.title import name_process

__all__ = ["Outlet"]

LONGEST = 600.0  # seconds that a connection may take at most
ATTEMPTS = 32  # that are under way at once; more wait in the channel
FRESH = 10.0  # seconds for which a redirection is not asked about again
EACCES, EIO, ETIMEDOUT = 13, 5, 110


class Outlet:
    """The process's one object."""

    def __init__(self, channel: Channel, requests: Channel, targets: Iterable[str]) -> None:
        self._channel = channel
        self._requests = requests
        self._urls = [target for target in targets if target.startswith(("http:", "https:"))]
        self._allowed = {place for target in targets if (place := _place(target)) is not None}
        self._asked = float("-inf")  # when the URLs were last followed
        self._asking = threading.Lock()
        self._free = threading.BoundedSemaphore(ATTEMPTS)
        self._done = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def run(self) -> None:
        """Serve until the keeper says STOP or is gone."""
        while True:
            full = not self._free.acquire(blocking=False)
            if not full:
                self._free.release()
            poll = select.poll()
            poll.register(self._channel, select.POLLIN)
            poll.register(self._done if full else self._requests, select.POLLIN)
            ready = dict(poll.poll())
            if self._channel.fileno() in ready and self._channel.told_to_stop():
                return
            if self._done in ready:
                os.eventfd_read(self._done)
            if self._requests.fileno() in ready:
                self._take()

    # -- requests --------------------------------------------------------------------------------------------------

    def _take(self) -> None:
        try:
            packet = self._requests.recv(0)
        except DeadlineMissed:
            return
        except ProtocolError as error:
            self._log(f"a request that means nothing: {error}")
            return
        answer = packet.fds.pop("answer", None)
        packet.close()
        if answer is None:
            return
        try:
            reply = Channel(socket.socket(fileno=answer))
        except OSError:
            os.close(answer)
            return
        os.set_blocking(reply.fileno(), False)
        self._free.acquire()
        threading.Thread(target=self._serve, args=(packet, reply), name="connect", daemon=True).start()

    def _serve(self, packet: Packet, reply: Channel) -> None:
        try:
            with reply:
                self._answer(packet.body, reply)
        finally:
            self._free.release()
            os.eventfd_write(self._done, 1)

    def _answer(self, body: dict[str, Any], reply: Channel) -> None:
        with contextlib.suppress(BulkheadError, OSError):  # who asked has gone
            try:
                sock = self._connect(body)
            except OSError as error:
                text = error.strerror or str(error)
                number = error.errno or (ETIMEDOUT if isinstance(error, TimeoutError) else EIO)
                reply.send("FAILED", {"errno": number, "text": text})
                return
            with sock:
                sock.setblocking(True)
                reply.send("CONNECTED", {}, {"socket": sock.fileno()})

    def _connect(self, body: dict[str, Any]) -> socket.socket:
        timeout = body.get("timeout")
        timeout = min(float(timeout), LONGEST) if isinstance(timeout, int | float) and timeout > 0 else LONGEST
        path, host, port = body.get("path"), body.get("host"), body.get("port")
        if isinstance(path, str) and ("", path) in self._allowed:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(timeout)
                sock.connect(path)
            except BaseException:
                sock.close()
                raise
            return sock
        if isinstance(host, str) and isinstance(port, int) and self._allows(host, port, timeout):
            return socket.create_connection((host, port), timeout)
        what = path if isinstance(path, str) else f"{host}:{port}"
        self._log(f"refused a connection to {str(what)[:200]!r}, which its disk does not name")
        raise OSError(EACCES, f"{str(what)[:200]} is not what this disk names, nor does its server lead there")

    # -- what is allowed -------------------------------------------------------------------------------------------

    def _allows(self, host: str, port: int, timeout: float) -> bool:
        place = (host.lower(), port)
        if place in self._allowed:
            return True
        with self._asking:
            if place not in self._allowed and self._urls and time.monotonic() - self._asked > FRESH:
                for url in self._urls:
                    self._follow(url, timeout)
                self._asked = time.monotonic()
        return place in self._allowed

    def _follow(self, url: str, timeout: float) -> None:
        """Ask the server, and allow where it sends us."""
        from devproc.blk.web import Web

        with contextlib.suppress(BulkheadError, OSError, ValueError):
            web = Web(url, min(timeout, FRESH), 0)
            try:
                for found in web.follow():
                    if (place := _place(found)) is not None:
                        self._allowed.add(place)
            finally:
                web.close()

    def _log(self, text: str) -> None:
        with contextlib.suppress(BulkheadError):
            self._channel.send("LOG", {"level": 30, "text": text})


def _place(target: str) -> tuple[str, int] | tuple[str, str] | None:
    """(host, port), or ("", path)."""
    scheme, _, rest = target.partition(":")
    if scheme == "unix":
        return "", rest
    if scheme == "tcp":
        host, _, port = rest.rpartition(":")
        return (host.lower(), int(port)) if port.isdigit() else None
    parts = urllib.parse.urlsplit(target)
    try:
        port_number = parts.port
    except ValueError:
        return None
    return ((parts.hostname or "").lower(), port_number or (443 if scheme == "https" else 80))


def main() -> int:
    """Be one outlet until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        channel = Channel.from_environment()
        start = channel.recv()
        if start.kind != "START":
            raise ProtocolError(f"{start.kind} instead of START", field="kind")
        name_process(start.body.get("machine", ""), start.body.get("id", ""))
        sandbox = Sandbox(start.body, needs_of_outlet())
        sandbox.begin()
        sandbox.seal()
        requests = Channel(socket.socket(fileno=start.fds.pop("requests")))
        outlet = Outlet(channel, requests, start.body.get("targets", []))
    except ChannelClosed:
        return 0
    except BulkheadError as error:
        channel.send("FAILED", {"error": error.message, "hint": error.hint})
        return 1
    channel.send("READY", {"pid": os.getpid(), "sandbox": sandbox.report()})
    outlet.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
