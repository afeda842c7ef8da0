"""The other side of a tap: the rings of a machine elsewhere, and what begins and ends a tap here.

Times of another host are moved to this one's: the tap is asked what its clocks say, and half the way there and back is
how wrong the answer may be at most. The quickest of the last EXCHANGES answers counts, so that the error is half of
the shortest round trip: some 50 µs in one network, and `error` says it. Several machines in one view are thus aligned
to this host's clock, whatever theirs are.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgpack
import zmq

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.control import choose_machine, connect, request
from launcher.trace.keys import client_keys, server_keys
from launcher.trace.tap import HIGH_WATER, VERSION
from proto.errors import ConfigError
from proto.trace import TraceRecord, unpack_records

__all__ = ["RemoteRings", "connect_to_tap", "listen", "silence"]

GREETING = 5.0  # seconds until a tap must have answered
EXCHANGES = 16  # of clocks, of which the best counts
EXCHANGE_PERIOD = 0.5
GONE = 5.0  # seconds without a word after which a tap has gone
START_DEADLINE = 10.0


class RemoteRings:
    """A machine elsewhere. Raises ConfigError when its tap does not answer, or does not know the key."""

    def __init__(self, uri: str, keys: Path | None, *, payload: bool = True, from_start: bool = False) -> None:
        self.uri = uri
        self.machine = uri
        self.rings: list[dict[str, Any]] = []
        self.missed: dict[str, int] = {}
        self.ended = False
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = connect_to_tap(self._context, uri, keys, "viewer.secret")
        self._clocks: deque[tuple[int, int]] = deque(maxlen=EXCHANGES)  # (ns of the round trip, ns to add)
        self._records: list[tuple[str, list[TraceRecord]]] = []
        self._last: dict[str, int] = {}  # number of the last record, by ring
        self._from_start = from_start
        self._asked = 0.0
        self._heard = time.monotonic()
        try:
            self._greet(payload)
        except BaseException:
            self.close()
            raise

    @property
    def error(self) -> float:
        """Seconds by which its times may be wrong here."""
        return min(self._clocks)[0] / 2e9 if self._clocks else 0.0

    def now(self) -> int:
        """The machine's CLOCK_MONOTONIC."""
        return time.monotonic_ns() - self._offset()

    def wall(self, monotonic: int) -> float:
        """This host's wall clock at some time of the machine's CLOCK_MONOTONIC."""
        return (monotonic + self._offset() - time.monotonic_ns() + time.time_ns()) / 1e9

    def poll(self) -> list[tuple[str, list[TraceRecord]]]:
        """What is new."""
        now = time.monotonic()
        if now - self._asked > EXCHANGE_PERIOD:
            self._ask_clock()
        while self._receive(0):
            pass
        if now - self._heard > GONE:
            self.ended = True
        found, self._records = self._records, []
        return found

    def close(self) -> None:
        """Look no longer."""
        self._socket.close(0)
        self._context.term()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _offset(self) -> int:
        """What is to be added to its CLOCK_MONOTONIC for ours."""
        return min(self._clocks)[1] if self._clocks else 0

    def _greet(self, payload: bool) -> None:
        self._say({"op": "view", "version": VERSION, "payload": payload, "from_start": self._from_start})
        end = time.monotonic() + GREETING
        while not self.rings or not self._clocks:
            if time.monotonic() > end:
                raise ConfigError(
                    f"{self.uri} does not answer",
                    hint="Is a tap listening there (bulkhead trace --listen), and are these its keys?",
                )
            if not self._receive(100):
                self._ask_clock()
        for _ in range(EXCHANGES // 2):
            self._ask_clock()
            self._receive(100)

    def _ask_clock(self) -> None:
        self._asked = time.monotonic()
        self._say({"op": "clock", "sent": time.monotonic_ns()})

    def _say(self, message: dict[str, Any]) -> None:
        try:
            self._socket.send(msgpack.packb(message), zmq.NOBLOCK)
        except zmq.Again:
            return

    def _receive(self, timeout: int) -> bool:
        if not self._socket.poll(timeout):
            return False
        received = time.monotonic_ns()
        message = msgpack.unpackb(self._socket.recv())
        self._heard = time.monotonic()
        op = message["op"]
        if op == "records":
            self._take(message["ring"], unpack_records(message["records"]))
        elif op == "clock":
            trip = received - message["sent"]
            self._clocks.append((trip, received - trip // 2 - message["monotonic"]))
        elif op == "machine":
            if message["version"] != VERSION:
                raise ConfigError(f"{self.uri} speaks version {message['version']}, this side {VERSION}")
            self.machine, self.rings = message["machine"], message["rings"]
            self._last.clear()
        return True

    def _take(self, ring: str, records: list[TraceRecord]) -> None:
        """What is missing between two numbers was missed; what comes twice (history, and then the rest) counts once."""
        last = self._last.get(ring)
        if last is not None:
            records = [record for record in records if record.sequence > last]
        if not records:
            return
        if last is not None and records[0].sequence > last + 1:
            self.missed[ring] = self.missed.get(ring, 0) + records[0].sequence - last - 1
        self._last[ring] = records[-1].sequence
        self._records.append((ring, records))


def connect_to_tap(context: zmq.Context[Any], uri: str, keys: Path | None, secret: str) -> zmq.Socket[bytes]:
    """A socket that talks to the tap at `uri`. `secret` is the key that is needed, for the hint. Raises ConfigError."""
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.rcvhwm = HIGH_WATER
    try:
        if not uri.startswith("ipc://"):
            if keys is None:
                raise ConfigError(f"{uri} needs keys", hint=f"--keys DIR, with {secret} and server.public")
            socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = client_keys(keys)
        socket.ipv6 = True
        socket.connect(uri)
    except zmq.ZMQError as error:
        socket.close(0)
        raise ConfigError(f"cannot connect to {uri}: {(error.strerror or '').lower()}") from error
    except BaseException:
        socket.close(0)
        raise
    return socket


def listen(arguments: argparse.Namespace) -> int:
    """`bulkhead trace --listen`: have the keeper start a tap, and say when it listens."""
    uri, keys = arguments.listen, arguments.keys
    if not uri.startswith("ipc://"):
        if keys is None:
            raise ConfigError(f"{uri} needs keys", hint="Make some: bulkhead keys create DIR. Then: --keys DIR")
        server_keys(keys)
    body = {"endpoint": uri, "keys": str(keys.resolve()) if keys else None, "payload": not arguments.no_payload}
    names = arguments.machine or [None]
    with connect(choose_machine(names[0])) as channel:
        end = time.monotonic() + START_DEADLINE
        while request(channel, "TRACE_LISTEN", **body)["state"] != "running":
            if time.monotonic() > end:
                raise ConfigError(f"the tap at {uri} did not start within {START_DEADLINE:.0f} s")
            time.sleep(0.05)
    show.line(sys.stderr, f"traces can be seen at {uri} until the machine ends, or: bulkhead trace --silence {uri}")
    return ExitCode.OK


def silence(arguments: argparse.Namespace) -> int:
    """`bulkhead trace --silence`."""
    names = arguments.machine or [None]
    with connect(choose_machine(names[0])) as channel:
        request(channel, "TRACE_SILENCE", endpoint=arguments.silence)
    return ExitCode.OK
