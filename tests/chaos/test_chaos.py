"""`bulkhead chaos`: a seed is a plan, the plan is carried out, what is lost is found, and nothing is."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.chaos.faults import Done
from launcher.chaos.machines import Lost
from launcher.chaos.plan import KINDS, Fault, chosen, plan
from launcher.chaos.report import Report
from launcher.chaos.stepped import STEPPED, steps
from launcher.chaos.tools import tools_disk
from launcher.chaos.work import GUESTS, Bundled, Debian
from launcher.images import ImagesError, ensure
from proto.errors import ConfigError

COMMAND = (sys.executable, "-P", "-m", "launcher")


def faults(seed: int, guest: str = "debian", only: str = "", count: int = 300) -> list[Fault]:
    return list(itertools.islice(plan(seed, guest, GUESTS[guest].targets, chosen(only)), count))


def test_a_seed_is_a_plan() -> None:
    assert faults(7) == faults(7) != faults(8)
    assert faults(7)[:50] == faults(7, count=50)


def test_every_fault_comes_to_every_device_that_fits_it() -> None:
    seen = {(fault.id, fault.kind) for fault in faults(1, count=20_000)}
    for target in GUESTS["debian"].targets:
        for name, kind in KINDS.items():
            assert ((target.id, name) in seen) == (kind.needs in ("", *target.fit)), (target.id, name)


def test_only_leaves_devices_and_faults_out() -> None:
    assert {(fault.id, fault.kind) for fault in faults(1, only="fs,kill")} == {("fs0", "kill"), ("fs1", "kill")}
    with pytest.raises(ConfigError, match="there is no dsik"):
        chosen("dsik")
    with pytest.raises(ConfigError, match="leaves nothing"):
        faults(1, only="rng,mirror")


def test_steps_are_the_statements_of_the_ring_s_own_code() -> None:
    """In particular those between which a request could be lost or doubled."""
    all_steps = steps()
    assert [step.number for step in all_steps] == list(range(1, len(all_steps) + 1))
    assert {step.function for step in all_steps} == {name for names in STEPPED.values() for name in names}
    texts = {(step.function, step.text) for step in all_steps}
    assert texts > {
        ("ring_pop", "entry.counter = ring.counter"),
        ("ring_pop", "entry.inflight = 1"),
        ("ring_put", "header.last_batch_head = head"),
        ("ring_flush", "Used(ring.used).idx = new"),
        ("ring_flush", "entry.inflight = 0"),
        ("ring_flush", "header.used_idx = new"),
        ("_finish_batch", "entry.inflight = 0"),
    }


def test_a_report_tells_what_was_lost_and_how_to_see_it_again() -> None:
    report = Report(7, "bulkhead chaos --seed 7")
    report.rounds["debian"] += 1
    for number, stall in enumerate((0.004, 0.02, None)):
        report.done.append(("debian", Done(Fault(number, "blk0", "kill", 0, 0.0), kills=1, stall=stall)))
    assert "3 kills and 0 swaps" in report.text() and "nothing lost, doubled or corrupted" in report.text()
    (row,) = report.as_dict()["stalls"]
    assert (row["count"], row["unnoticed"], row["max"]) == (3, 1, 20.0)
    report.lost.append("blk0: an older block came back at place 7")
    assert "1 FINDINGS" in report.text() and "an older block" in report.text()
    assert "the same faults again: bulkhead chaos --seed 7" in report.text()


@pytest.mark.parametrize(
    ("said", "found"),
    [("aa 1", "4 MiB, sha256 equal"), ("aa 3", "4 MiB, sha256 equal, begun again 2 times"), ("cc 1", None), ("", None)],
)
def test_a_transfer_is_whole_or_a_loss(said: str, found: str | None) -> None:
    """That of a connection that was cut may have been begun again."""
    debian = object.__new__(Debian)
    if found is None:
        with pytest.raises(Lost, match="sums differ"):
            debian._check_transfer("round 1", said, ["bb", "aa"], 4)
    else:
        assert debian._check_transfer("round 1", said, ["bb", "aa"], 4) == found


class Says:
    """A machine whose guest says this, whatever it is told."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)

    def type(self, text: str) -> None:
        pass

    def line(self, timeout: float) -> str | None:
        return self.lines.pop(0) if self.lines else None

    def last_words(self) -> str:
        return ""


@pytest.mark.parametrize(
    "line",
    [
        "disk 0: wrong data at byte 65536: 0000000000000000, not 00000000deadbeef",
        "disk 0: write at sector 128: I/O error",
        "fstest: step 17, rename of f3: -2",
        "fstest: fstest: EEXIST",
    ],
)
def test_what_the_bundled_guest_finds_wrong_is_a_loss(line: str, tmp_path: Path) -> None:
    guest = Bundled(tmp_path, 1, lambda what, fraction: None)
    machine = Says("fstest: 256 steps", line)
    with pytest.raises(Lost, match=line.split(":")[0]):
        guest.round(machine, 0, 1, lambda: True)  # type: ignore[arg-type]


@pytest.fixture
def debian() -> None:
    try:
        ensure()
    except ImagesError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs the Debian images: {error}")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("debian")
def test_chaos_loses_nothing() -> None:
    """Both guests, for so many faults and not for a time: how many come in a minute is the host's doing."""
    words = ("chaos", "--seed", "11", "--kills", "24", "--swaps", "2", "--size", "1", "--guest", "both", "--json")
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=850, check=False)
    report = json.loads(done.stdout)
    assert report["lost"] == [] and done.returncode == 0, done.stdout + done.stderr
    assert report["rounds"].keys() == {"debian", "bundled"}
    assert report["kills"] >= 24 and report["swaps"] >= 2
    works = report["verified"]["debian"]
    assert works.keys() >= {
        "fio",
        "files",
        "sqlite",
        "git-9p",
        "git-virtiofs",
        "tcp-down",
        "tcp-up",
        "e2fsck",
        "dmesg",
    }


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ctrl_c_ends_it_with_the_report_so_far() -> None:
    words = ("chaos", "--seed", "1", "--minutes", "30", "--guest", "bundled", "--only", "kill", "--json")
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    listed = ("ps", "--json", "--machine", f"chaos-{process.pid}-bundled")
    deadline = time.monotonic() + 200
    while True:
        assert time.monotonic() < deadline and process.poll() is None
        answer = subprocess.run([*COMMAND, *listed], capture_output=True, text=True, timeout=60, check=False)
        if answer.returncode == 0 and any(row["restarts"] for row in json.loads(answer.stdout)["processes"]):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    report = json.loads(out)
    assert report["stopped"] and report["lost"] == []
    assert process.returncode in (124, 125)  # 125: not even one round was finished


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("debian")
def test_fio_sees_a_block_that_is_not_as_it_was_written(tmp_path: Path) -> None:
    """A byte changed, a block in another's place, an older block: it must say so, or chaos would prove nothing."""
    tools = tools_disk(lambda what, fraction: None)
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    script = """
        mkdir -p /mnt/tools; mount -r /dev/vdb /mnt/tools; ln -s /mnt/tools/lib/* /lib/; PATH=$PATH:/mnt/tools/bin
        blocks() { sh /mnt/tools/blocks.sh /dev/vdc 400 77 $1 | head -n 1; }
        take() { dd if=/dev/vdc of=/tmp/$2 bs=4096 count=1 skip=$1 iflag=direct 2>/dev/null; }
        put() { dd if=/tmp/$2 of=/dev/vdc bs=4096 seek=$1 conv=notrunc,fsync 2>/dev/null; }
        blocks 0; take 9 older
        blocks 1; take 9 nine; take 2 two
        printf x | dd of=/dev/vdc bs=1 seek=9000 conv=notrunc,fsync 2>/dev/null; blocks 2
        put 2 nine; blocks 2; put 2 two
        put 9 older; blocks 2
        echo the end
    """
    words = ("run", "--disk", f"{tools},ro", "--disk", str(tmp_path / "disk.img"), "--", "sh", "-c", script)
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=280, check=False)
    said = [line for line in done.stdout.splitlines() if line]
    assert len(said) == 6, done.stdout + done.stderr
    assert said[:2] == ["100 blocks of 4 KiB, crc32c and seed equal"] * 2 and said[5] == "the end", said
    assert said[2].startswith("crc32c: verify failed at file /dev/vdc offset 8192"), said
    assert said[3].startswith("verify: bad header") and "at file /dev/vdc offset 8192" in said[3], said
    assert said[4].startswith("verify: bad header rand_seed") and "offset 36864" in said[4], said
