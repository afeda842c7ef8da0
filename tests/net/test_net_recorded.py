"""A Linux guest whose card is recorded: what Wireshark, Perfetto and a replay make of it, and the card after a reboot.
One machine, booted twice."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from available import missing

from bench.iperf import report
from launcher.images import Command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

COMMAND = [sys.executable, "-P", "-m", "launcher"]
FILE, SENT = 2_000_000, 3 << 20  # bytes; with what goes with them, far less than the recorder's buffer
VERIFY = [word for name in ("ip", "tcp", "udp") for word in ("-o", f"{name}.check_checksum:TRUE")]
# Between guest and test there is a disk: sector 0 is the test's, sector 1 the guest's.
SCRIPT = """
told() {{ dd if=/dev/vda bs=512 skip=$1 count=1 iflag=direct 2>/dev/null | tr -d '\\0'; }}
fetch() {{ wget -q -O - http://10.0.2.2:{web}/big | sha256sum; }}
ip addr show eth0 | grep 'inet '
if [ -z "$(told 1)" ]; then
    until [ "$(told 0)" = go ]; do sleep 0.1; done
    ping -c 2 10.0.2.2 | grep loss
    fetch
    iperf3 -c 10.0.2.2 -p {iperf} -n {sent} --json
    printf again | dd of=/dev/vda bs=512 seek=1 conv=fsync 2>/dev/null
    reboot
    sleep 1000
fi
fetch
"""


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """The host's end of iperf3, for one test; its port."""
    if shutil.which("iperf3") is None:
        missing("iperf3")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield port
    process.kill()
    process.wait()


def bulkhead(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=240, check=False)


def test_a_recorded_guest_reboots_and_its_traffic_is_whole(
    guest: Callable[..., Any],
    serve: Callable[[int], Any],
    wait_until: Callable[..., Any],
    server: int,
    iperf3_initrd: Path,
    tmp_path: Path,
) -> None:
    state, recording = tmp_path / "state.img", tmp_path / "net.rec"
    state.write_bytes(bytes(1 << 20))
    web = serve(FILE)
    # a machine that is started with a command ends with it; one whose initramfs has the command starts again
    command = Command(("sh", "-c", SCRIPT.format(web=web.port, iperf=server, sent=SENT)))
    with open(iperf3_initrd, "ab") as initrd:
        initrd.write(command.archive())
    machine = guest("--initrd", str(iperf3_initrd), "--disk", str(state), "--net", "user")
    wait_until(lambda: (row := machine.row("net0")) and row["bytes"], "a lease")
    recorder = subprocess.Popen(
        [*COMMAND, "record", "net0", "-o", str(recording), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert recorder.stderr is not None
        first = recorder.stderr.readline()
        assert "Ctrl-C ends it" in first, first
        with open(state, "r+b") as disk:
            disk.write(b"go")
        printed = machine.finish(500)
        out, errors = recorder.communicate(timeout=60)
    finally:
        recorder.kill()
        recorder.communicate()

    # the card came back with the second boot, and so did its lease
    assert len(re.findall(r"inet 10\.0\.2\.15/24", printed)) == 2, printed
    assert printed.count(web.hash) == 2
    assert " 0% packet loss" in printed
    assert report(printed[printed.index("{\n") : printed.index("\n}") + 2]).sent == SENT

    assert recorder.returncode == 0, errors
    summary = json.loads(out)["devices"]["net0"]
    assert summary["lost"] == 0
    check_pcapng(recording, tmp_path, web.hash)
    check_others(recording, tmp_path, summary["requests"])
    replayed = bulkhead("replay", str(recording), "--device", "net0", "--json")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    result = json.loads(replayed.stdout)
    assert result["same"] and result["compared"] > 100


def check_pcapng(recording: Path, place: Path, file_hash: str) -> None:
    """No warning, no checksum that is wrong, no byte of a stream that is not there, and the file as it was."""
    if shutil.which("tshark") is None:
        missing("tshark")
    path = place / "net.pcapng"
    assert bulkhead("export", str(recording), "--to", "pcapng", "-o", str(path)).returncode == 0

    def tshark(*words: str) -> list[str]:
        command = ["tshark", "-r", str(path), *VERIFY, *words]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
        assert [line for line in shown.stderr.splitlines() if "root" not in line] == []
        return shown.stdout.splitlines()

    for name in ("ip", "tcp", "udp", "icmp"):
        assert tshark("-Y", f"{name}.checksum.status == Bad") == []
    assert tshark("-Y", "_ws.malformed || tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment") == []
    streams = set(tshark("-Y", "tcp.flags.syn == 1 && tcp.flags.ack == 0", "-T", "fields", "-e", "tcp.stream"))
    assert len(streams) == 4  # two files, and iperf3's two connections
    assert len([line for line in tshark("-q", "-z", "conv,tcp") if "<->" in line]) == 4
    assert tshark("-Y", "dhcp.option.dhcp == 5")  # the second lease
    tshark("-q", "--export-objects", f"http,{place}/objects")
    found = [hashlib.sha256(each.read_bytes()).hexdigest() for each in sorted((place / "objects").iterdir())]
    assert found == [file_hash] * 2


def check_others(recording: Path, place: Path, requests: int) -> None:
    """Perfetto's events and the lines of JSON: all requests."""
    trace, lines = place / "net.json", place / "net.jsonl"
    assert bulkhead("export", str(recording), "--to", "perfetto", "-o", str(trace)).returncode == 0
    events = json.loads(trace.read_text())["traceEvents"]
    assert sum(event.get("ph") == "X" for event in events) > 100
    assert bulkhead("export", str(recording), "--to", "json", "--no-payload", "-o", str(lines)).returncode == 0
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert sum(line.get("type") != "message" for line in told) >= requests
