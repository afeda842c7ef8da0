"""The network from inside Debian: iperf3 both ways, libslirp behind Bulkhead's card, and behind QEMU's.

The other end is an iperf3 server of the host's, on its loopback, which the guest sees at 10.0.2.2. Both machines stay
up and take turns, with the same kernel, initramfs and commands; a speed is bytes by iperf3's own seconds.

What the path costs, apart from what the CPU costs: first iperf3 runs within each guest, over its own loopback. That is
the same program, system calls and TCP, without any device, and so the ratio there is the CPU's own for this work. The
goal of the other lines is that ratio: then the path to the outside adds no more than QEMU's does.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.boot import ARGUMENTS, DEADLINE, SHELL
from bench.guests import Console, bulkhead, debian, qemu, scratch
from bench.iperf import initramfs, report
from bench.measure import Figure, Goal, Missing, Run, alternate, compare
from launcher.images import GuestCard, ImagesError

PEER = "qemu-system-riscv64"
MAC = "52:54:00:12:34:56"
MIB = 1 << 20
ROUNDS = 5
SIZE, QUICK_SIZE = 96, 16  # MiB of one test
WAYS = {  # what, and the client's words
    "send": "-c 10.0.2.2",
    "receive": "-R -c 10.0.2.2",
    "send, 4 connections": "-P 4 -c 10.0.2.2",
    "receive, 4 connections": "-P 4 -R -c 10.0.2.2",
}


@contextlib.contextmanager
def server() -> Iterator[int]:
    """An iperf3 server on the host's loopback; its port. Raises Missing."""
    if not shutil.which("iperf3"):
        raise Missing("iperf3 is missing: apt-get install iperf3")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    words = ["iperf3", "-s", "-B", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def measure(run: Run) -> Iterator[Figure]:
    """The guest's own loopback, then sending and receiving."""
    images = debian(run.progress)
    with scratch() as name, server() as port:
        initrd = Path(name) / "initrd"
        try:
            card = GuestCard(MAC, "dhcp")
            initrd.write_bytes(initramfs(images, [card], lambda what, fraction: run.progress(what)))
        except ImagesError as error:
            raise Missing(f"no iperf3 for the guest: {error}") from error
        kernel = ("--kernel", str(images.kernel), "--initrd", str(initrd), "--append", ARGUMENTS)
        theirs_card = ("-netdev", "user,id=n0", "-device", f"virtio-net-device,netdev=n0,mac={MAC}")
        with (
            Console(bulkhead("run", *kernel, "--net", f"user,mac={MAC}")) as ours,
            Console(qemu(*(word.replace("--", "-") for word in kernel), *theirs_card)) as theirs,
        ):
            run.progress("boot Debian on both")
            for console in (ours, theirs):
                console.until(SHELL, DEADLINE)
                console.ask("iperf3 -s -D >/dev/null; echo =$?=", b"=0=", DEADLINE)
            cpu = _figure(run, "on its own loopback", "-c 127.0.0.1", ours, theirs)
            yield cpu
            assert cpu.ratio is not None
            for what, words in WAYS.items():
                yield _figure(run, what, f"{words} -p {port}", ours, theirs, Goal(">=", round(cpu.ratio.median, 3)))


def _figure(run: Run, what: str, words: str, ours: Console, theirs: Console, goal: Goal | None = None) -> Figure:
    words = f"{words} -n {QUICK_SIZE if run.quick else SIZE}M"
    sides = _speed(ours, words), _speed(theirs, words)
    for side in sides:
        side()  # warm up
    values = alternate(*sides, rounds=run.rounds(ROUNDS), progress=lambda text: run.progress(f"{what}: {text}"))
    return Figure.compared(f"Debian: iperf3, {what}", "MiB/s", compare(*values), goal)


def _speed(console: Console, words: str) -> Callable[[], float]:
    # a server that is not done with the test before this one refuses: asked again
    test = f"iperf3 {words} --json >/tmp/report"
    line = f"until {test}; do sleep 0.1; done; cat /tmp/report; echo =$?="

    def once() -> float:
        text = console.ask(line, b"=0=", DEADLINE).decode()
        found = report(text[text.index("{") : text.rindex("}") + 1])
        return found.received / MIB / found.seconds

    return once
