"""A device's process under a debugger, in somebody's terminal (`launcher.orders.debug`).

    DEBUG {id}           → a descriptor, `channel`: the end of it that the next process of the device gets
    DEBUGGED {id, pid}   → epoch: a process with that end has been started; it is to be the device

The present process is ended (it may finish what it does), and the started one, which waits for START as a spare
does, becomes the next epoch. It is supervised as any other, with these exceptions: it may take as long as it likes, to
start and to answer; silence is no hang; it has no sandbox, which would keep a debugger from its files; its end is an
order and no crash, whatever its status. The process is the command that was started; where that is a wrapper (gdb,
strace) the device is its child, which READY names, and both must be dead before there is a successor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.keeper.child import Child
from launcher.keeper.member import Member
from proto.channel import Channel
from proto.errors import ConfigError

if TYPE_CHECKING:
    from launcher.keeper.supervisor import Supervisor

__all__ = ["Adopted", "Debugs"]

STOP_DEADLINE = 0.7  # seconds that the present process has between STOP and SIGKILL
GENERATIONS = 8  # between a command and the device's process


class Adopted(Child):
    """A process that somebody else has started with our channel. Its exit status is not ours to know."""

    debugged = True

    def __init__(self, pid: int, channel: Channel, log: Path) -> None:
        """Raises OSError when there is no such process."""
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.channel = channel
        self.log = log
        self.started = time.monotonic()
        self.killed = False
        self.inner = -1  # pidfd of the device's process, where that is another
        self._new_log = False

    def found(self, pid: int) -> None:
        """READY came from this process."""
        if self.inner < 0 and pid != self.pid and _descends(pid, self.pid):
            with contextlib.suppress(OSError):
                self.inner = os.pidfd_open(pid)

    def kill(self) -> None:
        self.killed = True
        if self.inner >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.inner, signal.SIGKILL)
        self.signal(signal.SIGKILL)

    def is_stopped(self) -> bool:
        return False

    def reap(self) -> int:
        self.channel.close()
        os.close(self.pidfd)
        if self.inner >= 0:
            os.close(self.inner)
        self.pidfd = self.inner = -1
        return 0


class Debugs:
    """The debuggers of a machine, at most one a device."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._offered: dict[str, Channel] = {}  # our ends of channels that were given away
        self._waiting: dict[str, Adopted] = {}  # to become the next process

    def offer(self, member: Member) -> dict[str, Any]:
        """DEBUG. Raises ConfigError."""
        self._check(member)
        ours, theirs = Channel.pair()
        os.set_blocking(ours.fileno(), False)
        old = self._offered.pop(member.id, None)
        if old is not None:
            old.close()
        self._offered[member.id] = ours
        return {"fds": {"channel": theirs.detach()}}

    def adopt(self, member: Member, pid: int) -> dict[str, Any]:
        """DEBUGGED. Raises ConfigError."""
        self._check(member)
        channel = self._offered.pop(member.id, None)
        if channel is None:
            raise ConfigError(f"{member.id} has no channel to a debugger")
        try:
            self._waiting[member.id] = Adopted(pid, channel, member.log)
        except OSError as error:
            channel.close()
            raise ConfigError(f"process {pid} is not there: {error.strerror}") from error
        self._supervisor.log(f"{member.id}: process {pid}, under a debugger, is to take over")
        self._begin(member)
        return {"epoch": member.epoch + 1}

    def take(self, member: Member) -> Child | None:
        """The process that is to be the next one of a device."""
        return self._waiting.pop(member.id, None)

    def outlives(self, member: Member, child: Child) -> bool:
        """The command is dead: does the device's process live on? Then it is killed, and its death is waited for."""
        if not isinstance(child, Adopted) or child.inner < 0 or _dead(child.inner):
            return False
        child.kill()
        self._supervisor.await_inner(member, child, child.inner)
        return True

    def close(self) -> None:
        """The machine has ended."""
        for channel in self._offered.values():
            channel.close()
        self._offered.clear()

    def _begin(self, member: Member) -> None:
        """End the present process, if there is one."""
        supervisor = self._supervisor
        if supervisor.quarantine.release(member):
            return
        child = member.child
        if child is None:
            supervisor.recovery.succeed(member)
            return
        member.wanted = True
        fence = supervisor.recovery.fence
        if not (member.started and child.send("STOP")):
            fence(member)
        supervisor.loop.after(STOP_DEADLINE, lambda: fence(member) if member.child is child else None)

    def _check(self, member: Member) -> None:
        supervisor = self._supervisor
        if supervisor.phase != "running":
            raise ConfigError(f"{member.id} cannot be debugged now", hint=f"The machine is {supervisor.phase}.")
        if supervisor.swaps.active(member.id) is not None:
            raise ConfigError(f"{member.id} is just being swapped", hint="Try again when that is done.")
        if member.child is not None and member.child.debugged:
            raise ConfigError(
                f"{member.id} is under a debugger already", hint=f"bulkhead restart {member.id} takes it back."
            )


def _dead(pidfd: int) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _descends(pid: int, ancestor: int) -> bool:
    for _ in range(GENERATIONS):
        if pid in (0, ancestor):
            return pid == ancestor
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
    return False
