"""What a relay costs: a disk at the ring, direct, behind a window (ZeroMQ over ipc) and as from another host (TCP with
CURVE, on loopback), alternately. `python -m bench.relay`: a minute.
"""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.blk_ring import Case, prepare
from launcher.keeper.child import module_command, module_environment
from launcher.keeper.windows import memory_of
from launcher.replay.frontend import FrontEnd
from launcher.trace.keys import client_keys, create, server_keys
from proto.channel import ENVIRONMENT, Channel

ROUNDS = 5
SIZE = 16 << 20
KINDS = ("behind a window", "TCP with CURVE")
CASES = (Case(4096, 1, 1500), Case(4096, 32, 6000), Case(131072, 8, 800), Case(131072, 8, 800, write=True))


def measure(front: FrontEnd, case: Case) -> float:
    """Requests a second."""
    layout = front.queues[0]
    prepare(front.ram.view, front.ram.area.address, layout.driver, case)
    return case.requests / front.run(layout)


def begin(front: FrontEnd) -> FrontEnd:
    front.start()
    front.negotiate()
    front.add_queue(0, 256)
    front.driver_ok()
    return front


class Behind:
    """A disk behind a relay: over ipc as a window is, or over TCP with CURVE as one elsewhere, here on loopback."""

    def __init__(self, folder: Path, curve: bool) -> None:
        folder.mkdir()
        image = folder / "disk.img"
        image.write_bytes(os.urandom(SIZE))
        fds, lent = {}, {}
        if curve:
            create(folder / "keys")
            public, secret, roles = server_keys(folder / "keys")
            fds = {"keys": memory_of("keys", [public, secret, *roles])}
            lent = {"curve": memory_of("curve", list(client_keys(folder / "keys")))}
            listener = socket.create_server(("127.0.0.1", 0))
            endpoint = "tcp://{}:{}".format(*listener.getsockname())
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"{folder}/window")
            listener.listen()
            endpoint = f"ipc://{folder}/window"
        self._channel, theirs = Channel.pair()
        with theirs, listener:
            self._process = subprocess.Popen(
                module_command("devproc.relay.main"),
                env=module_environment() | {ENVIRONMENT: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
            )
            body = {"id": "far0", "device": "blk", "backend": f"file:{image}", "endpoint": endpoint}
            self._channel.send("START", body, {"listen": listener.fileno(), **fds})
            while (packet := self._channel.recv(60)).kind != "READY":
                packet.close()
        self.front = begin(FrontEnd("relay", {"endpoint": endpoint}, lent=lent))

    def close(self) -> None:
        self.front.close()
        self._process.kill()
        self._process.wait()
        self._channel.close()


def main() -> int:
    """Print the ratios."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as undo:
        folder = Path(name)
        (folder / "direct.img").write_bytes(os.urandom(SIZE))
        direct = undo.enter_context(begin(FrontEnd("blk", backend=f"file:{folder}/direct.img")))
        fronts = [direct]
        for place, curve in (("window", False), ("elsewhere", True)):
            behind = Behind(folder / place, curve)
            undo.callback(behind.close)
            fronts.append(behind.front)
        for case in CASES:
            rows = [[measure(front, case) for front in fronts] for _ in range(ROUNDS)]
            first, *others = (statistics.median(column) for column in zip(*rows, strict=True))
            words = [f"{kind} {rate:.0f}/s, ratio {rate / first:.3f}" for kind, rate in zip(KINDS, others, strict=True)]
            print(f"{case.name}: direct {first:.0f}/s; {'; '.join(words)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
