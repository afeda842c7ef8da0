"""The bundled guest on QEMU: what it says of Bulkhead's devices is worth something only if it says the same there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conversation import Conversation

pytestmark = pytest.mark.slow

DISKS = ("-global", "virtio-mmio.force-legacy=false", "-device", "virtio-blk-device,drive=d0")


def command(qemu: str, disk: Path, *words: str) -> list[str]:
    machine = ["-machine", "virt", "-m", "64M", "-nographic", "-monitor", "none", "-serial", "stdio"]
    return [qemu, *machine, *DISKS, "-drive", f"if=none,id=d0,file={disk},format=raw", *words]


@pytest.mark.parametrize("ring", ["", " ring=plain"], ids=["event-idx and indirect", "plain"])
def test_the_guest_finds_no_fault_with_qemu(qemu: str, elf: Path, disk: Path, ring: str) -> None:
    script = f"cmd=selftest;verify,4;zero,0,8;flush;exit,7{ring}"
    words = ["-device", "virtio-rng-device", "-kernel", str(elf), "-append", script]
    with Conversation(command(qemu, disk, *words)) as guest:
        code, printed = guest.finish()
    assert printed.count(" ok") == 6, printed
    assert len(set(re.findall(r"crc32 (\w+)", printed))) == 1
    assert code == 7


def test_the_boot_sector_loads_the_guest_on_qemu(qemu: str, boot_disk: Path, tmp_path: Path) -> None:
    sector = tmp_path / "sector"
    sector.write_bytes(boot_disk.read_bytes()[:512])
    with Conversation(command(qemu, boot_disk, "-bios", str(sector))) as guest:
        guest.expect("help says what there is")
        guest.type("selftest;exit 3\r")
        code, printed = guest.finish()
    assert printed.count(" ok") == 6, printed
    assert code == 3
