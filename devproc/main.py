"""Entry of a device process: `python -m devproc.main`, started by the keeper with a channel.

START says everything. Before it, in STORED packets, come descriptors that a predecessor left with the keeper; a spare
gets PREPARE first, imports what it will need (`devproc.spare`), answers PREPARED, and waits. READY answers START once
the device has opened what it needs and said HELLO to the core, FAILED when that cannot be, with a sentence and a hint
for the user. The exit status is 0 after STOP or when the keeper has gone, 1 otherwise. Whatever
else the device's code raises is a crash: FAILED says it in a sentence, and the traceback is on standard error, the
device's log.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any

from proto.channel import DEBUGGED, Channel, Packet
from proto.errors import BulkheadError, ChannelClosed, ProtocolError
from proto.logs import lose_what_does_not_fit
from proto.title import name_process

ORPHAN_STATUS = 0


def main() -> int:
    """Be one device until told to stop."""
    lose_what_does_not_fit()
    if DEBUGGED not in os.environ:
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
        name_process(start.body.get("machine", ""), start.body.get("id", ""))
        runtime = _begin(channel, start)
    except BulkheadError as error:
        channel.send("FAILED", {"error": error.message, "hint": error.hint})
        return 1
    except Exception as error:
        _say_why(channel, start, error)
        raise
    signal.signal(signal.SIGTERM, lambda *_: setattr(runtime, "stopping", True))
    channel.send("READY", {"passive": runtime.passive(), "pid": os.getpid(), "sandbox": runtime.sandbox.report()})
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
    """The first packet that is neither STORED nor PREPARE, with the descriptors of those that were stored."""
    stored: dict[str, int] = {}
    while (packet := channel.recv()).kind in ("STORED", "PREPARE"):
        if packet.kind == "PREPARE":
            _prepare(channel, packet.body)
        stored.update(packet.fds)
    packet.fds.update(stored)
    if "log" in packet.fds:
        _log_to(packet.fds.pop("log"))
    return packet


def _prepare(channel: Channel, body: dict[str, Any]) -> None:
    from devproc.sandbox import prepare as prepare_sandbox
    from devproc.spare import prepare, sources

    name_process("", "spare")
    prepare(body["devices"], body["backends"])
    prepare_sandbox(body.get("sandbox", "off"))
    channel.send("PREPARED", {"sources": sources()})


def _log_to(descriptor: int) -> None:
    """What a spare printed is nobody's; from now on it is the device's."""
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _say_why(channel: Channel, start: Packet, error: Exception) -> None:
    from devproc.registry import explain

    with contextlib.suppress(ChannelClosed):
        channel.send("FAILED", {"error": explain(start.body["device"], error), "hint": "", "crash": True})


def _begin(channel: Channel, start):  # type: ignore[no-untyped-def]
    from devproc.registry import make_device  # after the channel: a spare process waits with little in memory
    from devproc.runtime import Runtime

    return Runtime(channel, start, make_device)


if __name__ == "__main__":
    sys.exit(main())
