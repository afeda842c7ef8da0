"""How the process of a service begins (launcher/keeper/services.py): what START brings it."""

from __future__ import annotations

import signal
import socket

from proto.channel import Channel
from proto.errors import BulkheadError

__all__ = ["begin"]


def begin() -> tuple[Channel, str, list[socket.socket]] | None:
    """The keeper's channel, the machine's name and the listening sockets; None when the keeper has gone already."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the client
    try:
        keeper = Channel.from_environment()
        start = keeper.recv()
    except BulkheadError:
        return None
    return keeper, start.body["machine"], [socket.socket(fileno=start.fds[name]) for name in sorted(start.fds)]
