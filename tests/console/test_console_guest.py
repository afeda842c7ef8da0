"""An unmodified Linux and its virtio console: a shell on hvc0, a named port, and the device killed between lines."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.images import ImagesError, ensure

COMMAND = [sys.executable, "-P", "-m", "launcher"]
DEADLINE = 240.0
NAME = "org.bulkhead.test"
SCRIPT = f"""
setsid sh -i </dev/hvc0 >/dev/hvc0 2>&1 &
for place in /sys/class/virtio-ports/*; do
    [ "$(cat $place/name 2>/dev/null)" = {NAME} ] && port=/dev/${{place##*/}}
done
exec 3<>$port
while read -r line <&3; do
    echo "you said $line" >&3
    [ "$line" = enough ] && break
done
echo done with $port
"""


class Client:
    """Of one of the sockets."""

    def __init__(self, path: Path, machine: subprocess.Popen[str]) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + DEADLINE
        while True:
            with contextlib.suppress(OSError):
                self.socket.connect(str(path))
                break
            assert machine.poll() is None and time.monotonic() < deadline, machine.stderr and machine.stderr.read()
            time.sleep(0.05)
        self.socket.settimeout(DEADLINE)
        self._heard = b""

    def say(self, text: str) -> None:
        self.socket.sendall(text.encode())

    def expect(self, text: bytes) -> None:
        while text not in self._heard:
            data = self.socket.recv(4096)
            assert data, self._heard
            self._heard += data
        self._heard = self._heard[self._heard.index(text) + len(text) :]


def device_of(machine: str) -> dict[str, object]:
    words = [*COMMAND, "ps", "--json", "--machine", machine]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    row: dict[str, object] = next(row for row in json.loads(answer.stdout)["processes"] if row["id"] == "console0")
    return row


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_shell_on_hvc0_and_a_named_port_outlive_their_device(tmp_path: Path) -> None:
    try:
        ensure()
    except ImagesError as error:
        pytest.skip(f"needs the Debian images: {error}")
    options = ["--console", f"socket:{tmp_path}/hvc", "--console", f"socket:{tmp_path}/port,name={NAME}"]
    words = [*COMMAND, "run", "--guest", "debian", "--name", "cons", *options, "--", "sh", "-c", SCRIPT]
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as machine:
        try:
            shell, port = Client(tmp_path / "hvc", machine), Client(tmp_path / "port", machine)
            for turn in range(3):
                port.say(f"line {turn}\n")
                port.expect(b"you said line %d\n" % turn)
                shell.say(f"echo $(({turn} + 40))\n")
                shell.expect(b"\n%d\r\n" % (turn + 40))
                row = device_of("cons")
                assert row["restarts"] == turn
                os.kill(
                    int(str(row["pid"])), signal.SIGKILL
                )  # the clients stay connected, and say the next line at once
            port.say("enough\n")
            port.expect(b"you said enough\n")
            printed, errors = machine.communicate(timeout=DEADLINE)
        finally:
            machine.terminate()
    assert machine.returncode == 0, (printed, errors)
    assert "done with /dev/vport" in printed
