"""Entry of a device process: `python -m devproc.main`, started by the keeper with a channel.

START says everything; before it, in STORED packets, come descriptors that a predecessor left with the keeper. READY
answers it once the device has opened what it needs and said HELLO to the core, FAILED when that cannot be, with a
sentence and a hint for the user. The exit status is 0 after STOP or when the keeper has gone, 1 otherwise. Whatever
else the device's code raises is a crash: FAILED says it in a sentence, and the traceback is on standard error, the
device's log.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from proto.channel import Channel, Packet
from proto.errors import BulkheadError, ChannelClosed, ProtocolError

START_DEADLINE = 60.0  # seconds; a spare waits longer, and is told so by then
ORPHAN_STATUS = 0


def main() -> int:
    """Be one device until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the client
    try:
        channel = Channel.from_environment()
        start = _receive_start(channel)
    except ChannelClosed:
        return ORPHAN_STATUS
    except BulkheadError as error:
        print(f"device: {error.describe()}", file=sys.stderr)
        return 1
    try:
        if start.kind != "START":
            raise ProtocolError(f"{start.kind} instead of START", field="kind")
        runtime = _begin(channel, start)
    except BulkheadError as error:
        channel.send("FAILED", {"error": error.message, "hint": error.hint})
        return 1
    except Exception as error:
        _say_why(channel, start, error)
        raise
    signal.signal(signal.SIGTERM, lambda *_: setattr(runtime, "stopping", True))
    channel.send("READY", {"pid": os.getpid()})
    try:
        runtime.run()
    except BulkheadError as error:
        channel.send("FAILED", {"error": error.message, "hint": error.hint})
        return 1
    except Exception as error:
        _say_why(channel, start, error)
        raise
    runtime.close()
    return 0


def _receive_start(channel: Channel) -> Packet:
    """The first packet that is not STORED, with the descriptors of those that were."""
    stored: dict[str, int] = {}
    while (packet := channel.recv()).kind == "STORED":
        stored.update(packet.fds)
    packet.fds.update(stored)
    return packet


def _say_why(channel: Channel, start: Packet, error: Exception) -> None:
    from devproc.registry import explain

    with contextlib.suppress(ChannelClosed):
        channel.send("FAILED", {"error": explain(start.body["device"], error), "hint": ""})


def _begin(channel: Channel, start):  # type: ignore[no-untyped-def]
    from devproc.registry import make_device  # after the channel: a spare process waits with little in memory
    from devproc.runtime import Runtime

    return Runtime(channel, start, make_device)


if __name__ == "__main__":
    sys.exit(main())
