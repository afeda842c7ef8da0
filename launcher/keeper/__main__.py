"""The keeper: one single-threaded process a machine, which starts, watches and ends every other process of it.

    python -m launcher.keeper NAME RUN_DIRECTORY SCRATCH_DIRECTORY CLIENT_FD LOCK_FD…

It is started with an inherited channel, over which it gets one packet, MACHINE (the description, the descriptor of the
serial line, and the client's terminal with its settings), and says STATE, RUNNING, RESET, and at the end EXIT{reason,
code, error, hint}. It holds guest RAM, control pages and in-flight tables, so that no other process's death takes them
along. What it does is in `launcher.keeper.supervisor`.

It lets a process that will be the core begin to import at once, while the description is still on its way and the rest
of the keeper itself is imported. When the keeper is killed, the kernel kills its children, and the next `bulkhead`
command sweeps.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import traceback
from pathlib import Path

from launcher.keeper.child import Child
from launcher.run.rundir import RunDirectory
from proto.channel import Channel
from proto.errors import BulkheadError, ChannelClosed
from proto.logs import lose_what_does_not_fit
from proto.title import name_process

__all__ = ["main"]

START_DEADLINE = 30.0  # seconds for the client's description


def main(arguments: list[str]) -> int:
    """Entry of the keeper's process. Returns its exit status: 1 when no machine came to be, or by a mistake of ours."""
    lose_what_does_not_fit()
    name, path, scratch, client_fd, *locks = arguments
    name_process(name, "keeper")
    directory = RunDirectory(name, Path(path), Path(scratch), [int(lock) for lock in locks])
    for descriptor in (int(client_fd), *directory.locks):
        os.set_inheritable(descriptor, False)
    client = Channel(socket.socket(fileno=int(client_fd)))
    try:
        _keep(directory, client)
    except ChannelClosed:  # the client ended before it had said anything
        directory.remove()
        return 1
    except Exception as error:
        traceback.print_exc()
        hint = traceback.format_exc()
        with contextlib.suppress(BulkheadError, OSError):
            client.send("EXIT", {"reason": "error", "error": f"the keeper failed: {error}", "hint": hint})
        directory.remove()
        return 1
    return 0


def _keep(directory: RunDirectory, client: Channel) -> None:
    early = {"core.main": Child("core.main", directory.log("core"))}
    from launcher.keeper.supervisor import Supervisor
    from launcher.machine.description import Machine  # only now: the spare begins meanwhile

    packet = client.recv(START_DEADLINE)
    saved = packet.body.pop("terminal", None)
    supervisor = Supervisor(Machine.from_dict(packet.body), directory, client, packet.fds, early)
    if saved is not None:
        supervisor.restore_terminal_of_client(packet.fds["terminal"], saved)
    supervisor.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
