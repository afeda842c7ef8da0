"""The keeper's end of the control socket (`launcher.control`): a listening socket and its connections, in the keeper's
loop."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.keeper.events import Events
from launcher.keeper.loop import Loop
from proto.channel import Channel
from proto.errors import BulkheadError, DeadlineMissed

__all__ = ["ControlServer"]

BACKLOG = 16


class ControlServer:
    """The keeper's end: a listening socket and its connections, served by the keeper's loop."""

    def __init__(
        self,
        path: Path,
        loop: Loop,
        answer: Callable[[str, dict[str, Any]], dict[str, Any]],
        events: Events,
    ) -> None:
        self._loop = loop
        self._answer = answer
        self._events = events
        self._connections: set[Channel] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(BACKLOG)
        self._listener.setblocking(False)
        loop.watch(self._listener, self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            connection, _ = self._listener.accept()
            channel = Channel(connection)
            os.set_blocking(connection.fileno(), False)
            self._connections.add(channel)
            self._loop.watch(channel, lambda: self._serve(channel))

    def _serve(self, channel: Channel) -> None:
        try:
            packet = channel.recv(0)
            packet.close()
            fds: dict[str, int] = {}
            try:
                kind, body = "OK", self._answer(packet.kind, packet.body)
                fds = body.pop("fds", fds)  # of an answer's own: closed once they are sent
            except BulkheadError as error:
                kind, body = "ERROR", {"error": error.message, "hint": error.hint}
            try:
                if channel in self._connections:
                    channel.send(kind, body, fds)
                    if packet.kind == "WATCH":
                        self._events.watch(channel)
            finally:
                for fd in fds.values():
                    os.close(fd)
        except DeadlineMissed:
            return
        except (BulkheadError, OSError):  # it went away, does not read, or sends what is no packet
            self._drop(channel)

    def _drop(self, channel: Channel) -> None:
        if channel in self._connections:
            self._connections.remove(channel)
            self._events.forget(channel)
            self._loop.unwatch(channel)
            channel.close()

    def close(self) -> None:
        """Stop listening and hang up: that is how clients learn that the machine has ended."""
        self._loop.unwatch(self._listener)
        self._listener.close()
        for channel in list(self._connections):
            self._drop(channel)
