"""The process that serves QMP for one machine: `python -m launcher.qmp.server`, started by the keeper when the first
client connects, and gone a while after the last has left.

START brings listening sockets and the machine's name. Each client has a thread and a control connection of its own; one
more thread hears the keeper's events. A client that does not read is dropped after a while, and holds up nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import threading
from typing import Any

from launcher.control import connect, request
from launcher.qmp.actions import Actions
from launcher.qmp.session import Session, Values, event_of
from launcher.service import begin
from proto.channel import Channel
from proto.errors import BulkheadError, ChannelClosed

__all__ = ["Client", "main", "serve_stream"]

IDLE = 30.0  # seconds without a client until the process ends; the keeper starts another for the next
PATIENCE = 5.0  # seconds for a client to read
CHUNK = 65536


class Client:
    """One client's connection: its session, and a lock, since events come between answers."""

    def __init__(self, machine: str, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(None)
        self._machine = machine
        self._lock = threading.Lock()
        self._session: Session | None = None

    def serve(self) -> None:
        """Until it leaves, or the machine has ended."""
        with contextlib.suppress(OSError, BulkheadError), connect(self._machine) as control:
            self._session = Session(Actions(control).act)
            self.send(self._session.greeting())
            values = Values()
            while data := self.connection.recv(CHUNK):
                for text in values.feed(data):
                    self.send(self._session.answer(text))
        self.close()

    def tell(self, event: dict[str, Any]) -> None:
        """An event, once the session has begun."""
        if self._session is not None and self._session.ready:
            with contextlib.suppress(OSError):
                self.send(event)

    def send(self, line: dict[str, Any]) -> None:
        """One line. Raises OSError when the client does not read, or is gone."""
        data = json.dumps(line).encode() + b"\r\n"
        with self._lock:
            while data:
                if not select.select([], [self.connection], [], PATIENCE)[1]:
                    self.close()
                    raise TimeoutError
                data = data[self.connection.send(data, socket.MSG_DONTWAIT) :]

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


class Server:
    """The clients of one machine."""

    def __init__(self, machine: str) -> None:
        self._machine = machine
        self._clients: set[Client] = set()
        self._lock = threading.Lock()

    def hear_events(self) -> None:
        """Until the machine has ended: then every client hears so by its end-of-file."""
        with contextlib.suppress(BulkheadError), connect(self._machine) as control:
            request(control, "WATCH")
            with contextlib.suppress(ChannelClosed):
                while True:
                    packet = control.recv()
                    packet.close()
                    event = event_of(packet.body) if packet.kind == "EVENT" else None
                    if event is not None:
                        for client in self._all():
                            client.tell(event)
        for client in self._all():
            client.close()

    def serve(self, client: Client) -> None:
        """One client, until it or the machine has gone."""
        with self._lock:
            self._clients.add(client)
        try:
            client.serve()
        finally:
            with self._lock:
                self._clients.discard(client)

    def accept(self, listeners: list[socket.socket], keeper: Channel) -> None:
        """Take clients until there have been none for a while, or the keeper says STOP or is gone."""
        while True:
            by_number = {listener.fileno(): listener for listener in listeners}
            ready = select.select([*by_number, keeper.fileno()], [], [], IDLE)[0]
            if keeper.fileno() in ready or (not ready and not self._all()):
                return
            for listener in (by_number[number] for number in ready):
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            self.serve(Client(self._machine, connection))

    def _all(self) -> list[Client]:
        with self._lock:
            return list(self._clients)


def serve_stream(machine: str) -> int:
    """One conversation on standard input and output. Returns the exit status."""
    ours, theirs = socket.socketpair()
    server, client = Server(machine), Client(machine, theirs)
    threading.Thread(target=server.serve, args=(client,), daemon=True).start()
    threading.Thread(target=server.hear_events, daemon=True).start()
    from_user, poll = sys.stdin.fileno(), select.poll()
    for source in (from_user, ours.fileno()):
        poll.register(source, select.POLLIN | select.POLLHUP)
    while True:
        for source, _ in poll.poll():
            data = os.read(source, CHUNK) if source == from_user else ours.recv(CHUNK)
            if source == ours.fileno():
                if not data:
                    return 0
                os.write(1, data)
            elif data:
                ours.sendall(data)
            else:
                poll.unregister(from_user)
                ours.shutdown(socket.SHUT_WR)


def _until_the_end(server: Server) -> None:
    """Of the machine: nobody is left to be served."""
    server.hear_events()
    os._exit(0)


def main() -> int:
    """Entry of the process."""
    begun = begin()
    if begun is None:
        return 1
    keeper, machine, listeners = begun
    for listener in listeners:
        listener.setblocking(False)
    server = Server(machine)
    threading.Thread(target=_until_the_end, args=(server,), daemon=True).start()
    server.accept(listeners, keeper)
    return 0


if __name__ == "__main__":
    sys.exit(main())
