"""The network from inside Debian: iperf3 both ways, libslirp behind Bulkhead's card, and behind QEMU's; and between two
machines.

Outside, the other end is an iperf3 server on the host's loopback, which the guest sees at 10.0.2.2. Between two
machines of each kind, Bulkhead's meet at a hub and then over a stream, QEMU's over a stream, which is what QEMU has for
two machines alone. All stay up and take turns, with the same kernel, initramfs and commands; a speed is bytes by
iperf3's own seconds.

What the path costs, apart from what the CPU costs: first iperf3 runs within each guest, over its own loopback. That is
the same program, system calls and TCP, without any device, and so the ratio there is the CPU's own for this work. The
goal of the other lines is that ratio: then the path to the outside adds no more than QEMU's does. Beside each line is
the CPU time of the machines' processes by the MiB, which moves less than speeds do on a host that is not quiet.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import psutil

from bench.boot import ARGUMENTS, DEADLINE, SHELL
from bench.guests import Console, bulkhead, debian, qemu, scratch
from bench.iperf import initramfs, report
from bench.measure import Figure, Goal, Missing, Run, alternate, compare
from launcher.images import GuestCard, ImagesError

PEER = "qemu-system-riscv64"
MAC = "52:54:00:12:34:56"
PAIR = (("52:54:00:12:34:01", "10.9.0.1"), ("52:54:00:12:34:02", "10.9.0.2"))  # addresses of two machines alone
MIB = 1 << 20
ROUNDS = 5
# Of one test. By time, not by size: iperf3 looks only now and then whether it has sent enough.
SECONDS, QUICK_SECONDS = 3, 1
PROCESSES = {"core.main": "core", "devproc.main": "card", "devproc.net.peer": "peer"}
LISTENS = "00010000"  # the flags of a listening socket in /proc/net/unix
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
    """The guest's own loopback, then sending and receiving, then two machines."""
    images = debian(run.progress)
    with scratch() as name:
        initrd = Path(name) / "initrd"
        cards = [GuestCard(MAC, "dhcp"), *(GuestCard(mac, f"{address}/24") for mac, address in PAIR)]
        try:
            initrd.write_bytes(initramfs(images, cards, lambda what, fraction: run.progress(what)))
        except ImagesError as error:
            raise Missing(f"no iperf3 for the guest: {error}") from error
        kernel = ("--kernel", str(images.kernel), "--initrd", str(initrd), "--append", ARGUMENTS)
        cpu = yield from outside(run, kernel)
        yield from between(run, kernel, Path(name), cpu)


def outside(run: Run, kernel: Sequence[str]) -> Generator[Figure, None, Goal]:
    """One machine of each kind, to and from the host. Returns the goal: the CPU's own ratio."""
    with (
        server() as port,
        _ours(kernel, "user", MAC) as ours,
        _theirs(kernel, "user", MAC) as theirs,
    ):
        _ready(run, "boot Debian on both", ours, theirs)
        cpu = _figure(run, "on its own loopback", "-c 127.0.0.1", [ours], [theirs])
        yield cpu
        assert cpu.ratio is not None
        goal = Goal(">=", float(f"{cpu.ratio.median:.3g}"))
        for what, words in WAYS.items():
            yield _figure(run, what, f"{words} -p {port}", [ours], [theirs], goal)
    return goal


def between(run: Run, kernel: Sequence[str], folder: Path, goal: Goal) -> Iterator[Figure]:
    """Two machines of each kind."""
    hub, stream, wire = folder / "hub", folder / "stream", folder / "wire"
    (one, _), (two, address) = PAIR
    with contextlib.ExitStack() as machines:
        over_hub = [machines.enter_context(_ours(kernel, f"hub:{hub}", mac)) for mac in (one, two)]
        over_stream = [
            machines.enter_context(_ours(kernel, f"stream:unix:{stream}{end}", mac))
            for mac, end in ((one, ",server"), (two, ""))
        ]
        listening = f"stream,server=on,addr.type=unix,addr.path={wire}"
        theirs = [machines.enter_context(_theirs(kernel, listening, one))]
        wait_for(wire)
        theirs.append(machines.enter_context(_theirs(kernel, listening.replace("=on", "=off"), two)))
        _ready(run, "boot Debian on six machines", *over_hub, *over_stream, *theirs)
        for what, ours in (("a hub", over_hub), ("a stream", over_stream)):
            yield _figure(run, f"two machines, {what}", f"-c {address}", ours, theirs, goal)


def _ours(kernel: Sequence[str], net: str, mac: str) -> Console:
    return Console(bulkhead("run", *kernel, "--net", f"{net},mac={mac}"))


def _theirs(kernel: Sequence[str], net: str, mac: str) -> Console:
    card = ("-netdev", f"{net},id=n0", "-device", f"virtio-net-device,netdev=n0,mac={mac}")
    return Console(qemu(*(word.replace("--", "-") for word in kernel), *card))


def _ready(run: Run, what: str, *consoles: Console) -> None:
    """Every guest has booted, and listens."""
    run.progress(what)
    for console in consoles:
        console.until(SHELL, DEADLINE)
        console.ask("iperf3 -s -D >/dev/null; echo =$?=", b"=0=", DEADLINE)


def wait_for(path: Path) -> None:
    """Until somebody listens at a Unix socket; to try would take the one connection that there is."""
    end = time.monotonic() + DEADLINE
    while not any(
        line.split()[3] == LISTENS and line.endswith(f" {path}")
        for line in Path("/proc/net/unix").read_text().split("\n")[1:-1]
    ):
        if time.monotonic() > end:
            raise RuntimeError(f"nobody listens at {path}")
        time.sleep(0.01)


def _figure(
    run: Run, what: str, words: str, ours: Sequence[Console], theirs: Sequence[Console], goal: Goal | None = None
) -> Figure:
    seconds = QUICK_SECONDS if run.quick else SECONDS
    sides = [_Side(consoles, f"{words} -t {seconds}") for consoles in (ours, theirs)]
    for side in sides:
        side.speed()  # warm up
        side.begin()
    values = alternate(
        *(side.speed for side in sides),
        rounds=run.rounds(ROUNDS),
        progress=lambda text: run.progress(f"{what}: {text}"),
    )
    mine, peers = (side.ms_a_mib() for side in sides)
    parts = " + ".join(f"{value:.1f} {part}" for part, value in mine.items() if value >= 0.05)
    note = f"CPU {parts} ms/MiB; QEMU {sum(peers.values()):.1f}"
    return Figure.compared(f"Debian: iperf3, {what}", "MiB/s", compare(*values), goal, note)


class _Side:
    """Machines, of which the first asks, and what it asks."""

    def __init__(self, consoles: Sequence[Console], words: str) -> None:
        # a server that is not done with the test before this one refuses: asked again
        test = f"iperf3 {words} --json >/tmp/report"
        self._line = f"until {test}; do sleep 0.1; done; cat /tmp/report; echo =$?="
        self._consoles = consoles
        self._moved = 0.0
        self._before: dict[str, float] = {}

    def speed(self) -> float:
        """One test: MiB/s."""
        text = self._consoles[0].ask(self._line, b"=0=", DEADLINE).decode()
        found = report(text[text.index("{") : text.rindex("}") + 1])
        self._moved += found.received / MIB
        return found.received / MIB / found.seconds

    def begin(self) -> None:
        """What is used from now on counts."""
        self._moved, self._before = 0.0, self._cpu_seconds()

    def ms_a_mib(self) -> dict[str, float]:
        """CPU time of the machines' processes for each MiB since `begin`, by what they are."""
        now = self._cpu_seconds()
        return {what: 1000 * (now[what] - self._before.get(what, 0.0)) / self._moved for what in now}

    def _cpu_seconds(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for process in (process for console in self._consoles for process in console.processes()):
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline())
                what = next((name for word, name in PROCESSES.items() if word in words), "others")
                times = process.cpu_times()
                found[what] = found.get(what, 0.0) + times.user + times.system
        return found
