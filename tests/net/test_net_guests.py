"""Debian guests on a network: what each backend is for, with an unmodified driver."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from available import missing

from bench.iperf import report
from launcher.images import KERNEL_COMMAND_LINE, Command, GuestCard, Images, network_archive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Start = Callable[..., Any]
MIB = 1 << 20
WINDOW = 12 * MIB  # of iperf3's bytes may be under way when its sender has sent all: the receiver stops to count


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_user_leases_an_address_and_100_megabytes_arrive_whole(guest: Start, serve: Start) -> None:
    server = serve(100_000_000)
    fetch = f"wget -q -O - http://10.0.2.2:{server.port}/big | sha256sum"
    printed = guest("--net", "user", script=f"ip addr show eth0; ping -c 2 10.0.2.2; {fetch}").finish()
    assert "inet 10.0.2.15/24" in printed
    assert " 0% packet loss" in printed
    assert server.hash in printed


def test_the_host_reaches_a_server_in_the_guest(guest: Start, wait_until: Start) -> None:
    http, done = free_port(), free_port()
    forwards = f"hostfwd=tcp:{http}-80,hostfwd=tcp:127.0.0.1:{done}-81"
    script = "cd /root; head -c 3000000 /dev/urandom >data; sha256sum data >sum; httpd -p 80 -h /root; nc -l -p 81"
    machine = guest("--net", f"user,{forwards}", script=script)

    def fetched(name: str) -> bytes | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/{name}", timeout=60) as answer:
                body: bytes = answer.read()
                return body
        except OSError:
            return None

    total = wait_until(lambda: fetched("sum"), "an answer of the guest")
    assert hashlib.sha256(fetched("data") or b"").hexdigest() == total.split()[0].decode()
    with socket.create_connection(("127.0.0.1", done)) as connection:
        connection.settimeout(60)
        connection.sendall(b"bye")
        assert connection.recv(1) == b""  # the guest has heard it
    assert "bye" in machine.finish()


def test_a_download_survives_kills_of_the_card(guest: Start, serve: Start, wait_until: Start) -> None:
    """The connection lives in the peer and in the guest; the device process between them may die."""
    server = serve(150_000_000)
    script = (
        f"echo; wget -q -O - http://10.0.2.2:{server.port}/big | sha256sum; cat /sys/class/net/eth0/carrier_changes"
    )
    machine = guest("--net", "user", script=script)

    def loaded(least: int) -> dict[str, Any] | None:
        row = machine.row("net0")
        running = row is not None and row["state"] == "running" and row["bytes"] > least
        return row if running else None

    for number in range(1, 4):
        row = wait_until(lambda number=number: loaded(number * 15_000_000), "some download")
        os.kill(row["pid"], signal.SIGKILL)
    wait_until(
        lambda: (row := machine.row("net0")) and row["restarts"] == 3 and row["state"] == "running", "a successor"
    )
    peer = machine.row("net0.user")
    assert peer is not None and (peer["restarts"], peer["state"]) == (0, "running")
    printed = machine.finish()
    assert server.hash in printed
    assert printed.split()[-1] in ("1", "2"), "the link went down"


def test_a_peer_that_is_killed_is_started_again(guest: Start, serve: Start, wait_until: Start) -> None:
    """Its connections are gone; the card, the lease and new connections are not."""
    server = serve(3_000_000)
    fetch = f"wget -q -T 5 -O - http://10.0.2.2:{server.port}/big"
    script = (
        f"{fetch} >/dev/null; echo first; sleep 3; until {fetch} >/root/got; do sleep 0.2; done; sha256sum /root/got"
    )
    machine = guest("--net", "user", script=script)
    row = wait_until(
        lambda: (net := machine.row("net0")) and net["bytes"] > 3_000_000 and machine.row("net0.user"), "it"
    )
    os.kill(row["pid"], signal.SIGKILL)
    assert server.hash in machine.finish()


def test_two_machines_run_iperf3_over_a_hub(guest: Start, iperf3_initrd: Path, tmp_path: Path) -> None:
    """A file with its sum, then iperf3 both ways; large frames pass the hub as they are."""
    size = 50 * MIB
    hub = f"hub:{tmp_path}/hub"
    serving = (
        "cd /root; head -c 20000000 /dev/urandom >data; sha256sum <data; httpd -p 80 -h /root; "
        "iperf3 -s -1 >/dev/null; iperf3 -s -1 >/dev/null; cat /sys/class/net/eth0/statistics/rx_packets"
    )
    getting = (
        "until wget -q -O /root/got http://10.1.0.1/data; do sleep 0.2; done; sha256sum </root/got; "
        f"for way in '' -R; do until iperf3 -c 10.1.0.1 -n {size} --json $way >/root/report; do sleep 0.2; done; "
        "cat /root/report; echo; echo end; done"
    )
    one = guest("--initrd", str(iperf3_initrd), "--net", f"{hub},ip=10.1.0.1/24", script=serving, name="one")
    two = guest("--initrd", str(iperf3_initrd), "--net", f"{hub},ip=10.1.0.2/24", script=getting, name="two")
    printed = two.finish()
    digest, _, packets = one.finish().split()[-3:]
    assert re.findall(r"[0-9a-f]{64}", printed) == [digest]
    reports = [report(text) for text in re.findall(r"^{$.*?(?=^end$)", printed, re.DOTALL | re.MULTILINE)]
    assert [found.sent for found in reports] == [size, size]
    for found in reports:
        assert size - WINDOW <= found.received <= size
    assert int(packets) < size // 4000


def test_a_qemu_guest_and_ours_ping_each_other_over_a_stream(guest: Start, images: Images, tmp_path: Path) -> None:
    qemu = shutil.which("qemu-system-riscv64")
    if qemu is None:
        missing("qemu-system-misc")
    path, mac = tmp_path / "stream", "52:54:00:00:00:99"
    until = "until ping -c 1 -W 1 {0} >/dev/null; do :; done; ping -c 3 {0}; "
    there = Command(("sh", "-c", until.format("10.3.0.1") + "until echo over | nc 10.3.0.1 9; do sleep 0.2; done"))
    initrd = tmp_path / "initrd"
    card = GuestCard(mac, "10.3.0.2/24")
    initrd.write_bytes(images.initrd.read_bytes() + there.archive() + network_archive(images, [card]))
    ours = guest("--net", f"stream:unix:{path},server,ip=10.3.0.1/24", script=until.format("10.3.0.2") + "nc -l -p 9")
    words = [
        *(qemu, "-M", "virt", "-m", "256M", "-nographic", "-no-reboot", "-global", "virtio-mmio.force-legacy=false"),
        *("-kernel", str(images.kernel), "-initrd", str(initrd), "-append", KERNEL_COMMAND_LINE),
        *("-netdev", f"stream,id=n0,server=off,addr.type=unix,addr.path={path}"),
        *("-device", f"virtio-net-device,netdev=n0,mac={mac}"),
    ]
    while not path.exists():
        assert ours.process.poll() is None
    theirs = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False)
    assert " 0% packet loss" in theirs.stdout, theirs.stdout[-2000:]
    printed = ours.finish()
    assert " 0% packet loss" in printed
    assert "over" in printed


def test_passt_leases_an_address_over_a_stream(guest: Start, tmp_path: Path) -> None:
    passt = shutil.which("passt")
    if passt is None:
        missing("passt")
    with tempfile.TemporaryDirectory(prefix="bh-", dir="/tmp") as place:
        os.chmod(place, 0o777)  # passt gives up root's rights before it makes the socket
        words = [passt, "--foreground", "--socket", f"{place}/passt"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(Path(place) / "passt", process)
            printed = guest("--net", f"stream:unix:{place}/passt,ip=dhcp", script="ip addr show eth0").finish()
        finally:
            process.kill()
            process.wait()
    assert re.search(r"inet \d", printed)


def wait_for(path: Path, process: subprocess.Popen[Any]) -> None:
    """Until a process has made its socket."""
    while not path.exists():
        if process.poll() is not None:
            pytest.skip(f"passt does not start here: it ended with status {process.returncode}")


def test_a_tap_in_a_namespace_of_its_own(images: Images, serve: Start, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun") or shutil.which("ip") is None:
        pytest.skip("a tap in a network namespace needs root, /dev/net/tun and iproute2")
    data = os.urandom(20 * MIB)
    (tmp_path / "data").write_bytes(data)
    machine = [sys.executable, "-P", "-m", "launcher", "run", "--net", "tap:bulk0,ip=10.4.0.2/24,gateway=10.4.0.1"]
    fetch = "wget -q -O - http://10.4.0.1:8000/data | sha256sum; cat /sys/class/net/eth0/statistics/rx_packets"
    script = f"""
        ip link set lo up; ip tuntap add bulk0 mode tap
        ip addr add 10.4.0.1/24 dev bulk0; ip link set bulk0 up
        {sys.executable} -m http.server 8000 --bind 10.4.0.1 --directory {tmp_path} 2>/dev/null & server=$!
        "$@"; status=$?
        kill $server; wait $server 2>/dev/null
        exit $status"""
    words = ["unshare", "--net", "sh", "-c", script, "sh", *machine, "--", "sh", "-c", fetch]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=250, check=False)
    assert answer.returncode == 0, answer.stderr
    digest, _, packets = answer.stdout.split()[-3:]
    assert digest == hashlib.sha256(data).hexdigest()
    assert int(packets) < len(data) // 4000, "the host's large frames did not arrive as they were"
