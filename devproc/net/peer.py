"""A backend's own process: `python -m devproc.net.peer`, started by the keeper with a channel, as devices are.

START brings {id, backend, log_level} and the descriptor `frames`, the peer's end of the socket pair. READY answers it,
or FAILED with a sentence and a hint. Sockets, connections and address translation live here, and so they survive the
death of the device process; the device's end of the pair is held by the keeper meanwhile. When the device is slow, its
socket is full; whether a frame then waits or is lost, as on any network, is the peer's to decide.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

from devproc.needs import needs_of_peer
from devproc.net.backend import Peer, Word, parse_uri
from devproc.net.offload import ETHERNET, FRAME_MAX, HEADER
from devproc.sandbox import Sandbox
from proto.channel import Channel
from proto.errors import BulkheadError, ChannelClosed, DeadlineMissed, ProtocolError
from proto.title import name_process

__all__ = ["PeerProcess"]

MESSAGE_MAX = HEADER + FRAME_MAX
BATCH = 64  # messages of the device before others are heard
NO_HEADER = bytes(HEADER)


class PeerProcess:
    """The loop around one Peer; the `Wire` it is given."""

    def __init__(self, channel: Channel, frames: int, peer: Peer, id: str) -> None:
        self._channel = channel
        self._socket = socket.socket(fileno=frames)
        self._socket.setblocking(False)
        self._peer = peer
        self._id = id
        self._up: bool | None = None
        self._full = False
        self._poll = select.poll()
        self._polled: dict[int, int] = {}  # what it is told to look at
        self._buffer = memoryview(bytearray(MESSAGE_MAX))

    def run(self) -> None:
        """Serve until the keeper says STOP or is gone."""
        peer = self._peer
        ours, channel = self._socket.fileno(), self._channel.fileno()
        while True:
            watched, timeout = peer.poll()
            wanted = {ours: select.POLLIN | (select.POLLOUT if self._full else 0), channel: select.POLLIN}
            wanted.update(watched)
            if wanted != self._polled:
                self._look_at(wanted)
            ready = dict(self._poll.poll(None if timeout is None else timeout * 1000))
            if ready.pop(channel, 0) and self._from_keeper():
                return
            seen = ready.pop(ours, 0)
            self._full = self._full and not seen & select.POLLOUT
            if seen & ~select.POLLOUT:
                self._from_device()
            peer.ready(ready)

    def _look_at(self, wanted: dict[int, int]) -> None:
        """From now on, the waits are for these descriptors and events."""
        for fd in self._polled.keys() - wanted.keys():
            self._poll.unregister(fd)
        for fd, events in wanted.items():
            self._poll.register(fd, events)
        self._polled = wanted

    # -- the wire --------------------------------------------------------------------------------------------------

    def send(self, frame: bytes | memoryview, header: bytes = NO_HEADER) -> bool:
        try:
            self._socket.sendmsg((header, frame))
        except OSError:
            self._full = True
        return not self._full

    def link(self, up: bool) -> None:
        if self._up is not up:
            self._up = up
            self._say_link()

    def log(self, text: str) -> None:
        self._channel.send("LOG", {"level": 20, "text": f"{self._id}: {text}"})

    def _say_link(self) -> None:
        word = Word.UP if self._up else Word.DOWN
        try:
            self._socket.send(int(word).to_bytes(4, "little"))
        except OSError:
            self._up = None  # said again when it is asked for

    def _from_keeper(self) -> bool:
        """True when it says STOP. ASK is answered: the loop lives."""
        try:
            packet = self._channel.recv(0)
        except DeadlineMissed:
            return False
        packet.close()
        if packet.kind == "ASK":
            self._channel.send("ALIVE")
        return packet.kind == "STOP"

    def _from_device(self) -> None:
        for _ in range(BATCH):
            try:
                size = self._socket.recv_into(self._buffer)
            except (BlockingIOError, ConnectionError):
                return
            if size >= HEADER + ETHERNET:
                self._peer.transmit(self._buffer[:size])
            elif size == 4 and self._buffer[0] == Word.ASK and self._up is not None:
                self._say_link()


def main() -> int:
    """Be one backend until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        channel = Channel.from_environment()
        start = channel.recv()
        if start.kind != "START":
            raise ProtocolError(f"{start.kind} instead of START", field="kind")
        name_process(start.body.get("machine", ""), start.body.get("id", ""))
        sandbox = Sandbox(start.body, needs_of_peer(start.body["backend"]))
        sandbox.begin()
        sandbox.seal()
        peer: Peer = parse_uri(start.body["backend"]).open()
        process = PeerProcess(channel, start.fds.pop("frames"), peer, start.body["id"])
        peer.start(process)
    except ChannelClosed:
        return 0
    except BulkheadError as error:
        channel.send("FAILED", {"error": error.message, "hint": error.hint})
        return 1
    channel.send("READY", {"pid": os.getpid(), "sandbox": sandbox.report()})
    try:
        process.run()
    except ChannelClosed:
        return 0
    finally:
        peer.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
