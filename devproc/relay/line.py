"""A relay's connection to the device behind it, for ever: made, watched, lost, made again.

    asking ── ABOUT, then READY ──▶ up ── no word for SILENCE, a broken connection, nonsense ──▶ lost ──▶ asking

LOOK comes first each time: another device may be served there now. One ZeroMQ socket a session; ZeroMQ itself tries to
connect, with a back-off up to BACKOFF_LIMIT. LOOK is said as soon as there is a connection; while the other side has
not answered, LOOK and HELLO are said again every AGAIN seconds. What is received in another session than this one is
dropped. Nothing here waits: `tick` is called some times a second, `ready` when a descriptor is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from proto.errors import ProtocolError
from proto.relay import MAX_LOAD, Said, decode, encode

__all__ = ["Curve", "Line", "address_of", "load_of", "read_curve"]

BACKOFF_FIRST, BACKOFF_LIMIT = 100, 5000  # ms
AGAIN = 1.0  # seconds until an unanswered LOOK or HELLO is repeated
PING = 2.0  # seconds of quiet until the other side is asked for a sign of life
SILENCE = 10.0  # seconds without a word after which the other side has gone
NONSENSE_PAUSE = 1.0  # seconds until one that sent nonsense is asked again
SHORT = 0.5  # seconds that a session must last for the next one to be begun at once
HIGH_WATER = 4096
_EVENTS, _POLLIN, _NOBLOCK, _SNDMORE = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.SNDMORE)
_BROKEN, _MADE = zmq.EVENT_DISCONNECTED, zmq.EVENT_HANDSHAKE_SUCCEEDED
_UNKNOWN = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH

Curve = tuple[bytes, bytes, bytes]  # our public key, our secret one, the server's public one


def load_of(frame: zmq.Frame) -> bytes | memoryview:
    """The bytes of a frame, where they are."""
    view: memoryview = frame.buffer
    return view if view and not view.readonly else frame.bytes


def address_of(load: bytes | memoryview) -> int:
    """Where they are, for as long as somebody has them."""
    if isinstance(load, bytes):
        return ctypes.cast(ctypes.c_char_p(load), ctypes.c_void_p).value or 0
    return ctypes.addressof(ctypes.c_char.from_buffer(load))


def read_curve(fd: int) -> list[bytes]:
    """Keys, a line each, from the memory behind a descriptor, which is closed."""
    try:
        return os.pread(fd, 1 << 16, 0).split()
    finally:
        os.close(fd)


class Line:
    """One. `hello` gives the body of a HELLO; `heard` gets what the other side says, but for PONG."""

    def __init__(
        self,
        endpoint: str,
        curve: Curve | None,
        watch: Callable[..., None],
        unwatch: Callable[[int], None],
        hello: Callable[[], Mapping[str, Any]],
        heard: Callable[[Said], None],
        lost: Callable[[str], None],
        log: Callable[..., None],
    ) -> None:
        self.known = False  # it has said what it is, on this socket
        self.up = False
        self._endpoint, self._curve = endpoint, curve
        self._watch, self._unwatch = watch, unwatch
        self._hello, self._heard_one, self._lost, self._log = hello, heard, lost, log
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._watch(self._bell, self.ready)
        self._session = 0
        self._heard = self._said = self._opened = 0.0
        self._not_before = 0.0
        self._complained = False

    def tick(self) -> None:
        """Do what is due by the clock."""
        now = time.monotonic()
        if self._socket is None:
            if now >= self._not_before:
                self._open(now)
        elif self.up:
            if now - self._heard > SILENCE:
                self.lose(f"no word for {SILENCE:.0f} s")
            elif now - max(self._heard, self._said) > PING:
                self._say("PING")
        elif now - self._opened > SILENCE:
            self._close()  # a connection of which nothing has come; another may do
            self._open(now)
        elif now - self._said >= AGAIN:
            self._greet()
        self.ready()

    def ready(self) -> None:
        """Take everything that has come."""
        if self._bell >= 0:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)
        if self._socket is None and time.monotonic() >= self._not_before:
            self._open(time.monotonic())
        socket = self._socket
        while socket is not None and socket is self._socket and int(socket.get(_EVENTS)) & _POLLIN:
            try:
                frames = socket.recv_multipart(_NOBLOCK, copy=False)
            except zmq.Again:
                break
            self._take(frames[0].bytes, load_of(frames[1]) if len(frames) == 2 else None)
        if socket is not None and socket is self._socket:
            self._look_at_monitor()

    def post(self, name: str, body: Mapping[str, Any], load: memoryview | None = None) -> bool:
        """Say something in the present session. False: there is none, or ZeroMQ is full."""
        return self.up and self._say(name, body, load)

    def lose(self, why: str, pause: float = 0.0) -> None:
        """The session is over; the next is tried for at once, or after a pause."""
        was_up, now = self.up, time.monotonic()
        if now - self._opened < SHORT:
            pause = max(pause, SHORT)
        self._close()
        self._not_before = now + pause
        os.eventfd_write(self._bell, 1)
        if was_up:
            self._lost(why)

    def close(self) -> None:
        """The end."""
        self._close()
        self._unwatch(self._bell)
        os.close(self._bell)
        self._bell = -1
        self._context.destroy(0)

    # -- what comes ------------------------------------------------------------------------------------------------

    def _take(self, data: bytes, load: bytes | memoryview | None = None) -> None:
        try:
            said = decode(data, "device", load)
            if said.session not in (0, self._session):
                return
            self._heard = time.monotonic()
            if said.name == "ABOUT":
                self._heard_one(said)
                if not self.known and self._socket is not None:
                    self.known = True
                    self._greet()
            elif said.session == 0:
                raise ProtocolError(f"{said.name} in no session", field="session")
            elif said.name == "READY":
                if not self.up:
                    self.up, self._complained = True, False
                    self._heard_one(said)
            elif said.name == "REFUSED":
                self._complain(said.body["text"])
                self.lose(said.body["text"], NONSENSE_PAUSE)
            elif self.up and said.name != "PONG":
                self._heard_one(said)
        except ProtocolError as error:
            self._complain(f"it sends nonsense: {error}")
            self.lose("it sends nonsense", NONSENSE_PAUSE)

    def _look_at_monitor(self) -> None:
        monitor = self._monitor
        while monitor is not None and monitor is self._monitor and int(monitor.get(_EVENTS)) & _POLLIN:
            event = int.from_bytes(monitor.recv_multipart(_NOBLOCK)[0][:2], "little")
            if event & _UNKNOWN:
                self._complain("it does not know our key, or we not its")
            elif event & _MADE and not self.up and self._socket is not None:
                self._socket.get(_EVENTS)  # only then does it take what is sent
                self.known = False  # it may be another one than on the connection before
                self._greet()
            elif event & _BROKEN and self.up:
                self.lose("the connection is broken")

    def _complain(self, text: str) -> None:
        """Once for each time without a session."""
        if not self._complained:
            self._complained = True
            self._log(f"{self._endpoint}: {text}", 30)

    # -- what goes -------------------------------------------------------------------------------------------------

    def _greet(self) -> None:
        if self.known:
            self._say("HELLO", self._hello())
        else:
            self._say("LOOK")

    def _say(self, name: str, body: Mapping[str, Any] | None = None, load: memoryview | None = None) -> bool:
        assert self._socket is not None
        session = 0 if name == "LOOK" else self._session
        self._said = time.monotonic()
        try:
            if load is None:
                self._socket.send(encode(name, body, session=session), _NOBLOCK)
            else:
                self._socket.send(encode(name, body, session=session), _NOBLOCK | _SNDMORE)
                self._socket.send(load, _NOBLOCK)
        except zmq.Again:
            return False
        if int(self._socket.get(_EVENTS)) & _POLLIN:
            os.eventfd_write(self._bell, 1)  # sending may have swallowed the edge that would have told of it
        return True

    # -- sockets ---------------------------------------------------------------------------------------------------

    def _open(self, now: float) -> None:
        self._socket = socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = HIGH_WATER
        socket.maxmsgsize = MAX_LOAD
        socket.immediate = True
        socket.ipv6 = True
        socket.reconnect_ivl, socket.reconnect_ivl_max = BACKOFF_FIRST, BACKOFF_LIMIT
        socket.connect_timeout = int(SILENCE * 1000)
        socket.tcp_keepalive = 1
        if self._curve is not None:
            socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = self._curve
        self._monitor = socket.get_monitor_socket(_BROKEN | _MADE | _UNKNOWN)
        self._session = secrets.randbits(63) + 1
        self._heard = self._opened = now
        self.known = False
        self._watch(int(socket.fd), self.ready)
        self._watch(int(self._monitor.fd), self.ready)
        socket.connect(self._endpoint)
        self._greet()

    def _close(self) -> None:
        self.up = False
        if self._socket is not None:
            self._unwatch(int(self._socket.fd))
            if self._monitor is not None:
                self._unwatch(int(self._monitor.fd))
                self._monitor.close(0)
            self._socket.disable_monitor()
            self._socket.close(0)
            self._socket = self._monitor = None
