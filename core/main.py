"""Entry of the core process: `python -m core.main`, started by the keeper with a channel.

The main thread only handles signals, so that Ctrl-C and SIGTERM always work; the link thread does everything that
touches a socket, and each hart has a thread of its own in native code.
"""

from __future__ import annotations

import signal
import sys
import traceback

from core.process import CoreProcess
from proto.channel import Channel
from proto.errors import BulkheadError, ChannelClosed
from proto.logs import lose_what_does_not_fit
from proto.title import name_process

START_DEADLINE = 30.0  # seconds the keeper has for the first packet


def main() -> int:
    """Run one machine to its end. Returns the process's exit status: 0 after an orderly end, 1 otherwise."""
    lose_what_does_not_fit()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the client
    try:
        channel = Channel.from_environment()
        start = channel.recv(START_DEADLINE)
        name_process(start.body.get("machine", {}).get("name", ""), "core")
    except ChannelClosed:
        return 1
    except BulkheadError as error:
        print(f"core: {error.describe()}", file=sys.stderr)
        return 1
    try:
        process = CoreProcess(channel, start)
    except BulkheadError as error:
        channel.send("FAILED", {"error": error.message, "hint": error.hint})
        return 1
    except Exception as error:
        traceback.print_exc()
        channel.send(
            "FAILED", {"error": f"{type(error).__name__}: {error}", "hint": "The core's log has the traceback."}
        )
        return 1
    signal.signal(signal.SIGTERM, lambda *_: process.stop())
    return process.run()


if __name__ == "__main__":
    sys.exit(main())
