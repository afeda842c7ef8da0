"""One process that the keeper started: its pid, its pidfd, its channel, its log.

A child finds its end of the channel in the environment, has no input, and writes what it prints to its log. It is
killed by the kernel when the keeper dies (PR_SET_PDEATHSIG fires when the forking *thread* ends: the keeper has one),
and sees end-of-file on its channel besides. Its pidfd says when it is dead, and nothing else does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from proto.channel import ENVIRONMENT, Channel
from proto.errors import ChannelClosed

__all__ = ["Child", "die_with_parent", "is_traced", "module_command", "module_environment"]

PR_SET_PDEATHSIG = 1
ROOT = Path(__file__).resolve().parent.parent.parent

_libc = ctypes.CDLL(None, use_errno=True)


def module_command(module: str) -> list[str]:
    """How to run a module of this project, whatever lies in the current directory."""
    return [sys.executable, "-P", "-m", module]


def module_environment() -> dict[str, str]:
    """The environment in which `module_command` finds the project, installed or not."""
    environment = dict(os.environ)
    if ROOT.name not in ("site-packages", "dist-packages"):
        paths = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def die_with_parent() -> Callable[[], None]:
    """For Popen's `preexec_fn`: the kernel kills the child when the thread that starts it ends."""
    parent = os.getpid()

    def prepare() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call above
            os._exit(1)

    return prepare


class Child:
    """A started process. Owned by the keeper, which alone waits for it."""

    debugged = False  # it stands still when somebody wants it to (`launcher.keeper.debug`)

    def __init__(self, module: str, log: Path) -> None:
        """Start `python -m module`. Raises OSError when the host cannot start another process."""
        ours, theirs = Channel.pair()
        with theirs, open(log, "ab") as output:
            self.process = subprocess.Popen(
                module_command(module),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env={**module_environment(), ENVIRONMENT: str(theirs.fileno()), "PYTHONUNBUFFERED": "1"},
                preexec_fn=die_with_parent(),
            )
        os.set_blocking(ours.fileno(), False)  # the keeper never waits for a child that does not read
        self.pid = self.process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self.channel = ours
        self.log = log
        self.started = time.monotonic()
        self.killed = False  # by us
        self._new_log = False  # it was started with another log than it has now

    def become(self, log: Path) -> None:
        """Started as nothing in particular, it is somebody from now on."""
        self._new_log = True
        self.log = log
        self.started = time.monotonic()

    @contextlib.contextmanager
    def log_descriptor(self) -> Iterator[dict[str, int]]:
        """For START: what it prints goes there from now on. Nothing when it does already."""
        if not self._new_log:
            yield {}
            return
        with open(self.log, "ab") as output:
            yield {"log": output.fileno()}

    def send(self, kind: str, body: Mapping[str, Any] | None = None, fds: Mapping[str, int] | None = None) -> bool:
        """Send a packet. False when the process is gone or has stopped reading."""
        try:
            self.channel.send(kind, body, fds)
        except (ChannelClosed, BlockingIOError):
            return False
        return True

    def kill(self) -> None:
        """SIGKILL; its death shows at the pidfd."""
        self.killed = True
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended, or was reaped, takes no notice."""
        if self.pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def is_stopped(self) -> bool:
        """After SIGSTOP: does every thread stand? None of them is inside a system call then."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return False

    def reap(self) -> int:
        """Collect the exit status (negative: a signal) of a process whose pidfd says that it is dead, and let it go."""
        status = self.process.wait()
        self.channel.close()
        os.close(self.pidfd)
        self.pidfd = -1
        return status


def is_traced(pid: int) -> bool:
    """True while a debugger holds the process."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as lines:
        return any(line.startswith("TracerPid:") and int(line.split()[1]) for line in lines)
    return False
