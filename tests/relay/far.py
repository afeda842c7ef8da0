"""The process of a device behind a relay, as a keeper holds it, for tests: started, killed, started again."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from launcher.keeper.child import module_command, module_environment
from proto.channel import ENVIRONMENT, Channel

DEADLINE = 60.0


class Far:
    """One device; its listening socket and what it stored outlive its processes."""

    def __init__(
        self,
        folder: Path,
        device: str,
        backend: str = "",
        properties: dict[str, Any] | None = None,
        *,
        address: tuple[str, int] | None = None,
        keys: int = -1,
        lent: dict[str, int] | None = None,
    ) -> None:
        """`lent` are descriptors that the device is given by name, in every process; they stay the caller's."""
        if address is None:
            self.endpoint = f"ipc://{folder}/far"
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(f"{folder}/far")
        else:
            self.listener = socket.create_server(address)
            self.endpoint = "tcp://{}:{}".format(*self.listener.getsockname())
        self.listener.listen(16)
        self.stored: dict[str, int] = {}
        self.logs: list[str] = []
        self._keys = keys
        self._lent = lent or {}
        self.describe(device, backend, properties or {})
        self.process: subprocess.Popen[bytes] | None = None

    def describe(self, device: str, backend: str, properties: dict[str, Any]) -> None:
        """What is served from the next start on."""
        self._body = {
            "id": "far0",
            "device": device,
            "backend": backend,
            "properties": properties,
            "endpoint": self.endpoint,
            "log_level": 10,
            "sandbox": {"mode": "on"},
        }

    def start(self) -> dict[str, Any]:
        """The next process; READY's body."""
        self.channel, theirs = Channel.pair()
        with theirs:
            self.process = subprocess.Popen(
                module_command("devproc.relay.main"),
                env=module_environment() | {ENVIRONMENT: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
            )
        if self.stored:
            self.channel.send("STORED", {"names": list(self.stored)}, self.stored)
        fds = {"listen": self.listener.fileno()} | ({"keys": self._keys} if self._keys >= 0 else {}) | self._lent
        self.channel.send("START", self._body, fds)
        while True:
            packet = self.channel.recv(DEADLINE)
            if packet.kind == "STORE":
                self.stored.update(packet.fds)
                packet.fds.clear()
            elif packet.kind == "LOG":
                self.logs.append(packet.body["text"])
            elif packet.kind == "FAILED":
                raise RuntimeError(packet.body["error"])
            elif packet.kind == "READY":
                return packet.body

    def kill(self) -> None:
        """kill -9, and wait until the process is dead."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.channel.close()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.listener.close()
        for fd in self.stored.values():
            os.close(fd)
