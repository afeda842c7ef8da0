"""What `top` and `ps -e` call a process of a machine: `vm1.blk0`, and not python."""

from __future__ import annotations

import contextlib

__all__ = ["name_process"]

LONGEST = 15  # bytes, TASK_COMM_LEN less the zero


def name_process(machine: str, id: str) -> None:
    """Name this process; of a long name, the end counts. For people only: nothing looks a process up by it."""
    name = f"{machine}.{id}" if machine else id
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:  # /proc may be missing in a container
        comm.write(name[-LONGEST:])
