"""A machine elsewhere, behind its tap (`launcher.trace.tap`): the few calls of a control connection that orders need.

`launcher.control.reach` gives one in the place of a connection to the keeper, so that a verb works from another host as
it does on the machine's own. Which orders are passed on is the tap's to say, and only to who has the control key.

Promises: whoever waits learns within GONE seconds that the tap, and with it perhaps the machine, has gone. Does not:
pass on descriptors, or events.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import zmq

from launcher.trace.remote import connect_to_tap
from proto.channel import Packet
from proto.errors import ChannelClosed, ConfigError, DeadlineMissed

__all__ = ["Elsewhere"]

GREETING = 5.0  # seconds until a tap must have answered
ALIVE = 0.5  # seconds between two questions whether it is there
GONE = 3.0  # seconds without a word after which it is not


class Elsewhere:
    """A machine behind the tap at `uri`. Raises ConfigError when nobody answers there, or not to these keys."""

    def __init__(self, uri: str, keys: Path | None) -> None:
        self.uri = uri
        self._context: zmq.Context[Any] = zmq.Context()
        self._answers: deque[Packet] = deque()
        self._number = 0
        self._waiting: set[int] = set()
        self._heard = self._asked = 0.0
        try:
            self._socket = connect_to_tap(self._context, uri, keys, "control.secret")
            self._greet()
        except BaseException:
            self._context.destroy(0)
            raise

    def send(self, kind: str, body: Mapping[str, Any] | None = None) -> None:
        """An order."""
        self._number += 1
        self._waiting.add(self._number)
        self._say({"op": "order", "number": self._number, "kind": kind, "body": dict(body or {})})

    def recv(self, timeout: float | None = None) -> Packet:
        """The next answer. Raises DeadlineMissed when there is none in time, ChannelClosed when the tap has gone."""
        end = None if timeout is None else time.monotonic() + timeout
        while not self._answers:
            now = time.monotonic()
            if end is not None and now > end:
                raise DeadlineMissed(f"{self.uri} did not answer within {timeout} s")
            if not self._waiting and now - self._heard > GONE:  # while it carries out an order it says nothing
                raise ChannelClosed(f"{self.uri} has gone")
            if now - self._asked > ALIVE:
                self._ask()
            self._receive()
        return self._answers.popleft()

    def close(self) -> None:
        """Look no longer."""
        self._context.destroy(0)

    def __enter__(self) -> Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _greet(self) -> None:
        end = time.monotonic() + GREETING
        while not self._heard:
            if time.monotonic() > end:
                raise ConfigError(
                    f"{self.uri} does not answer",
                    hint="Is a tap listening there (bulkhead trace --listen), and are these its keys?",
                )
            if time.monotonic() - self._asked > ALIVE:
                self._ask()
            self._receive()

    def _ask(self) -> None:
        """Any answer will do."""
        self._asked = time.monotonic()
        self._say({"op": "clock", "sent": 0})

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._socket.send(msgpack.packb(message), zmq.NOBLOCK)
        except zmq.Again:
            return

    def _receive(self) -> None:
        if not self._socket.poll(100):
            return
        message = msgpack.unpackb(self._socket.recv())
        self._heard = time.monotonic()
        if message["op"] == "order" and message["number"] in self._waiting:
            self._waiting.discard(message["number"])
            self._answers.append(Packet(message["kind"], message["body"]))
