"""Linux, and devices in quarantine under it: errors, no hangs; and everything works again when they are back."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from conversation import BULKHEAD, Conversation, missing

from launcher.images import ImagesError, ensure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SCRIPT = """
look() {
    dd if=/dev/vdb of=/dev/null bs=4096 count=1 iflag=direct 2>&1 | tail -1
    cat /mnt/nine/file
    cat /mnt/fuse/file
    echo carrier $(cat /sys/class/net/eth0/carrier)
    echo random $(dd if=/dev/hwrng bs=16 count=1 status=none | wc -c)
}
mkdir -p /mnt/disk
for step in first second third fourth; do
    echo "$step ready"
    read line
    echo 3 > /proc/sys/vm/drop_caches
    if [ $step = third ]; then
        echo virtio1 > /sys/bus/virtio/drivers/virtio_blk/unbind && echo unbound
        echo virtio1 > /sys/bus/virtio/drivers/virtio_blk/bind && echo bound
    fi
    look 2>&1
    echo "$step done"
done
"""


def rows() -> dict[str, dict[str, Any]]:
    answer = subprocess.run([*BULKHEAD, "ps", "--json"], capture_output=True, text=True, timeout=60, check=True)
    return {row["id"]: row for row in json.loads(answer.stdout)["processes"]}


def await_states(wanted: str, ids: list[str]) -> None:
    deadline = time.monotonic() + 60
    while any((seen := rows())[id]["state"] != wanted for id in ids):
        assert time.monotonic() < deadline, {id: seen[id] for id in ids}
        time.sleep(0.1)


def test_a_guest_gets_errors_from_devices_in_quarantine_and_goes_on(tmp_path: Path) -> None:
    try:
        ensure()
    except ImagesError as error:
        missing(f"the Debian guest: {error}")
    disk, folder = tmp_path / "disk.img", tmp_path / "folder"
    disk.write_bytes(bytes(1 << 20))
    folder.mkdir()
    (folder / "file").write_text("kept\n")
    policy = "on-crash=quarantine"
    devices = [
        *("--disk", f"{disk},{policy}"),
        *("--share", f"{folder},tag=nine,{policy}"),
        *("--share", f"{folder},tag=fuse,proto=virtiofs,{policy}"),
        *("--net", f"user,ip=none,{policy}"),
        *("--device", f"rng,{policy}"),
    ]
    victims = ["blk1", "fs0", "fs1", "net0", "rng0"]
    with Conversation([*BULKHEAD, "run", *devices, "--", "sh", "-c", f"ip link set eth0 up; {SCRIPT}"]) as guest:
        guest.expect("first ready", 200)
        guest.type("go\n")
        before = guest.expect("first done")
        assert (
            before.count("kept") == 2
            and "1+0 records out" in before
            and "carrier 1" in before
            and "random 16" in before
        )
        guest.expect("second ready")
        for id in victims:
            os.kill(rows()[id]["pid"], 9)
        await_states("quarantined", victims)
        guest.type("go\n")
        errors = guest.expect("second done")
        assert errors.count("Input/output error") >= 3, errors
        assert "kept" not in errors and "carrier 0" in errors and "random 16" in errors
        guest.expect("third ready")
        guest.type("go\n")  # the driver of a device in quarantine lets it go, and takes it again
        errors = guest.expect("third done")
        assert "unbound" in errors and "bound" in errors.partition("unbound")[2]
        guest.expect("fourth ready")
        for id in victims:
            subprocess.run([*BULKHEAD, "restart", id], check=True, timeout=60, capture_output=True)
        await_states("running", victims)
        guest.type("go\n")
        after = guest.expect("fourth done")
        assert after.count("kept") == 2 and "1+0 records out" in after and "carrier 1" in after, after
        assert guest.finish()[0] == 0
