"""The host's ends of long TCP transfers: data whose checksum is known goes out, and what comes in is summed up."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading

__all__ = ["Transfers"]

PIECE = 1 << 16
PATIENCE = 120.0  # seconds that a connection may stand still


class Transfers:
    """Two listening ports of the loopback: `down` sends, `up` receives. Sums are hex sha256."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.received: list[str] = []
        self.size = 1 << 20
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.down, self.up = (listener.getsockname()[1] for listener in self._listeners)
        for listener, serve in zip(self._listeners, (self._send, self._receive), strict=True):
            threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()

    def close(self) -> None:
        """No more connections."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket, serve: object) -> None:
        assert callable(serve)
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(PATIENCE)
                    serve(connection)

    def _send(self, connection: socket.socket) -> None:
        random_, sum_, left = random.Random(len(self.sent)), hashlib.sha256(), self.size
        while left:
            data = random_.randbytes(min(PIECE, left))
            connection.sendall(data)
            sum_.update(data)
            left -= len(data)
        self.sent.append(sum_.hexdigest())  # perhaps of one that broke off later, on its way
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(PIECE):  # what the other end says now and then; unread, it would cut the rest off
            pass

    def _receive(self, connection: socket.socket) -> None:
        sum_ = hashlib.sha256()
        while data := connection.recv(PIECE):
            sum_.update(data)
        self.received.append(sum_.hexdigest())  # perhaps of one that broke off: only the other end knows
        connection.sendall(f"{sum_.hexdigest()}\n".encode())
