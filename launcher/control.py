"""The control socket: how commands in other terminals talk to the keeper of a running machine.

`control` in the run directory is a SEQPACKET Unix socket that speaks `proto.channel`: a client sends a packet {kind,
body} and gets one back, OK with the answer, or ERROR{error, hint}. The directory's mode (0700) is the access control.

    PS {}            → machine, phase, guest, uptime, kips, serial, processes (the rows of `bulkhead ps`)
    STOP {}          → nothing; end-of-file when the machine has ended and everything of it is removed
    RESTART {id}     → epoch: of the process to come
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.loop import Loop
from launcher.rundir import machines, run_base
from launcher.suggest import did_you_mean
from proto.channel import Channel
from proto.errors import BulkheadError, ChannelClosed, ConfigError, DeadlineMissed

__all__ = ["ControlServer", "choose_machine", "connect", "request"]

BACKLOG = 16
ANSWER_DEADLINE = 5.0  # seconds


class ControlServer:
    """The keeper's end: a listening socket and its connections, served by the keeper's loop."""

    def __init__(
        self,
        path: Path,
        loop: Loop,
        answer: Callable[[str, dict[str, Any]], dict[str, Any]],
    ) -> None:
        self._loop = loop
        self._answer = answer
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
            try:
                kind, body = "OK", self._answer(packet.kind, packet.body)
            except BulkheadError as error:
                kind, body = "ERROR", {"error": error.message, "hint": error.hint}
            if channel in self._connections:
                channel.send(kind, body)
        except DeadlineMissed:
            return
        except (BulkheadError, OSError):  # it went away, does not read, or sends what is no packet
            self._drop(channel)

    def _drop(self, channel: Channel) -> None:
        if channel in self._connections:
            self._connections.remove(channel)
            self._loop.unwatch(channel)
            channel.close()

    def close(self) -> None:
        """Stop listening and hang up: that is how clients learn that the machine has ended."""
        self._loop.unwatch(self._listener)
        self._listener.close()
        for channel in list(self._connections):
            self._drop(channel)


def choose_machine(name: str | None) -> str:
    """The machine meant: `name`, or the only one that runs. Raises ConfigError."""
    running = machines()
    if name is not None:
        if name not in running:
            raise ConfigError(
                f"no machine named {name} is running{did_you_mean(name, running)}",
                hint=f"Running: {', '.join(running)}." if running else "Start one with: bulkhead run",
            )
        return name
    if not running:
        raise ConfigError("no machine is running", hint="Start one with: bulkhead run")
    if len(running) > 1:
        raise ConfigError(
            f"{len(running)} machines are running: {', '.join(running)}", hint=f"Say which: --machine {running[0]}"
        )
    return running[0]


def connect(name: str) -> Channel:
    """A connection to the keeper of a machine. Raises ConfigError when it has just ended."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(str(run_base() / name / "control"))
    except OSError as error:
        connection.close()
        raise ConfigError(f"the machine {name} does not answer: {error.strerror}", hint="Has it just ended?") from error
    return Channel(connection)


def request(channel: Channel, kind: str, **body: Any) -> dict[str, Any]:
    """Ask the keeper. Raises ConfigError with its refusal, or when the machine has ended meanwhile."""
    try:
        channel.send(kind, body)
        answer = channel.recv(ANSWER_DEADLINE)
    except ChannelClosed as error:
        raise ConfigError("the machine has just ended") from error
    except DeadlineMissed as error:
        raise ConfigError(f"the keeper did not answer within {ANSWER_DEADLINE:.0f} s") from error
    if answer.kind == "ERROR":
        raise ConfigError(answer.body.get("error", "refused"), hint=answer.body.get("hint", ""))
    return answer.body
