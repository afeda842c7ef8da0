"""A server that says what it was told to say, and then nothing more."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

DEADLINE = 60


@contextlib.contextmanager
def saying(words: bytes, path: Path) -> Iterator[None]:
    """It listens on a Unix socket at `path`, for one client, and is at its end when the client has gone."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def talk() -> None:
            client, _ = listener.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(words)
                client.shutdown(socket.SHUT_WR)
                while client.recv(4096):
                    pass

        talker = threading.Thread(target=talk, daemon=True)
        talker.start()
        yield
        talker.join(DEADLINE)
