"""What the keeper holds of a console: the host's ends of its ports, which outlive the device, and a reset of the guest.

Opened once a machine, when its description is known: pseudo-terminals, listening sockets, files, the stream of the
command that started the machine. The device is lent them with every START, and needs no right to open anything. Beside
each port there is a page for what the device notes of it (`devproc.console.note`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tty
from pathlib import Path

from devproc.console.spec import Port, parse_ports
from devproc.kept import KEPT_SIZE
from launcher.keeper.member import Member
from launcher.machine.description import Device
from proto.errors import ConfigError

__all__ = ["Console"]


class Console:
    """The ends of one device's ports."""

    def __init__(self, device: Device, stream: int | None, directory: Path) -> None:
        """`stream` is what a port that is stdio is connected to. Raises ConfigError for what cannot be opened."""
        self.locations: dict[str, str] = {}  # of pseudo-terminals, by port: its name or its number
        self._fds: dict[str, int] = {}
        self._others: list[int] = []  # held, and lent to nobody
        self._paths: list[Path] = []  # to be removed
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for number, port in enumerate(parse_ports(device.backend)):
                self._open(f"port{number}", port, stream)
                self._fds[f"port{number}.note"] = _page(f"{device.id}-{number}")
                if port.kind == "pty":
                    name = f"{device.id}.{port.name or number}"
                    self.locations[port.name or str(number)] = os.ttyname(self._others[-1])
                    self._link(directory / name, os.ttyname(self._others[-1]))
            undo.pop_all()

    def lend(self, member: Member) -> None:
        """For a new start of the guest: the ends as they are, and nothing settled with a driver."""
        member.lent = {name: os.dup(fd) for name, fd in self._fds.items()}
        member.lent["kept"] = _page(member.id)

    def close(self) -> None:
        """The machine has ended."""
        for fd in (*self._fds.values(), *self._others):
            os.close(fd)
        self._fds.clear()
        self._others.clear()
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths.clear()

    def _open(self, name: str, port: Port, stream: int | None) -> None:
        try:
            if port.kind == "pty":
                self._fds[name], slave = os.openpty()
                self._others.append(slave)  # held open, so that the master never hangs up
                tty.setraw(slave)
            elif port.kind == "socket":
                self._fds[name] = self._listen(Path(port.path))
            elif port.kind == "file":
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
                self._fds[name] = os.open(port.path, flags, 0o666)
                if port.input:
                    self._fds[f"{name}.input"] = os.open(port.input, os.O_RDONLY | os.O_CLOEXEC)
            elif stream is None:
                raise ConfigError("a console port is stdio, and the command that started the machine has none to give")
            else:
                self._fds[name] = os.dup(stream)
        except OSError as error:
            raise ConfigError(f"--console {port}: {(error.strerror or str(error)).lower()}") from error

    def _listen(self, path: Path) -> int:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.stat().st_mode) and not _answers(path):
                path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listener.bind(str(path))
            self._paths.append(path)
            path.chmod(0o600)
            listener.listen()
        except OSError:
            listener.close()
            raise
        return listener.detach()

    def _link(self, path: Path, target: str) -> None:
        path.symlink_to(target)
        self._paths.append(path)


def _page(name: str) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.truncate(fd, KEPT_SIZE)
    return fd


def _answers(path: Path) -> bool:
    """Does somebody listen there?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
