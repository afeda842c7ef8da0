"""What a relay costs: the same disk at the ring, direct and behind a window, alternately. `python -m bench.relay`."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.blk_ring import Case, prepare
from launcher.keeper.child import module_command, module_environment
from launcher.replay.frontend import FrontEnd
from proto.channel import ENVIRONMENT, Channel

ROUNDS = 5
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


def start_device(folder: str, image: str) -> tuple[subprocess.Popen[bytes], Channel, str]:
    """A device behind a window."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/window")
    listener.listen()
    ours, theirs = Channel.pair()
    with theirs, listener:
        process = subprocess.Popen(
            module_command("devproc.relay.main"),
            env=module_environment() | {ENVIRONMENT: str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
        )
        body = {"id": "far0", "device": "blk", "backend": f"file:{image}", "endpoint": f"ipc://{folder}/window"}
        ours.send("START", body, {"listen": listener.fileno()})
        while ours.recv(60).kind != "READY":
            pass
    return process, ours, body["endpoint"]


def main() -> int:
    """Print the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        images = [f"{folder}/{name}.img" for name in ("direct", "behind")]
        for image in images:
            Path(image).write_bytes(os.urandom(16 << 20))
        process, channel, endpoint = start_device(folder, images[1])
        with (
            begin(FrontEnd("blk", backend=f"file:{images[0]}")) as direct,
            begin(FrontEnd("relay", {"endpoint": endpoint})) as behind,
        ):
            for case in CASES:
                pairs = [(measure(direct, case), measure(behind, case)) for _ in range(ROUNDS)]
                first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
                print(f"{case.name}: direct {first:.0f}/s, behind a window {second:.0f}/s, ratio {second / first:.3f}")
        process.kill()
        process.wait()
        channel.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
