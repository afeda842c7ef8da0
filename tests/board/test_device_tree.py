"""The device tree: what Debian's dtc reads back, without a warning."""

import shutil
import struct
import subprocess

import pytest

from core.board.device_tree import Chosen, device_tree
from core.board.fdt import Node, encode
from core.board.virt import Machine, Slot, WindowRange

FULL = Machine(
    memory=256 << 20,
    harts=3,
    slots=(Slot(1, "rng0"), Slot(0, "blk0")),
    windows=(WindowRange("mydev", 0x20000000, 0x1000, 20, "example,mydev"),),
    sstc=True,
)
CHOSEN = Chosen("console=ttyS0 root=/dev/vda", (0x84000000, 0x84123456), bytes(range(32)))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    """The full machine's tree, decompiled."""
    if shutil.which("dtc") is None:
        pytest.skip("needs dtc (apt-get install device-tree-compiler)")
    path = tmp_path_factory.mktemp("fdt") / "virt.dtb"
    path.write_bytes(device_tree(FULL, CHOSEN))
    run = subprocess.run(["dtc", "-I", "dtb", "-O", "dts", str(path)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout


@pytest.mark.parametrize(
    "line",
    [
        'riscv,isa = "rv64imafdc_zicntr_zicsr_zifencei_sstc";',
        'riscv,isa-base = "rv64i";',
        'riscv,isa-extensions = "i\\0m\\0a\\0f\\0d\\0c\\0zicntr\\0zicsr\\0zifencei\\0sstc";',
        'bootargs = "console=ttyS0 root=/dev/vda";',
        "linux,initrd-start = <0x00 0x84000000>;",
        "linux,initrd-end = <0x00 0x84123456>;",
        'stdout-path = "/soc/serial@10000000";',
        "timebase-frequency = <0x989680>;",
        "reg = <0x00 0x80000000 0x00 0x10000000>;",
        "interrupts-extended = <0x01 0x0b 0x01 0x09 0x02 0x0b 0x02 0x09 0x03 0x0b 0x03 0x09>;",
        "riscv,ndev = <0x35>;",
    ],
)
def test_the_tree_says(source, line):
    assert line in source


@pytest.mark.parametrize(
    "node", ["cpu@2", "virtio_mmio@10001000", "virtio_mmio@10002000", "mydev@20000000", "test@100000", "reboot"]
)
def test_there_is_a_node_for(source, node):
    assert f"{node} {{" in source


def test_empty_slots_have_no_node(source):
    assert "virtio_mmio@10003000" not in source


def test_the_header_describes_the_blob():
    blob = encode(Node("", {"#address-cells": 2}), reservations=[(0x1000, 0x2000)])
    magic, size, structure, strings, reserved, version, compatible, _, strings_size, structure_size = struct.unpack(
        ">10I", blob[:40]
    )
    assert (magic, size, version, compatible) == (0xD00DFEED, len(blob), 17, 16)
    assert struct.unpack_from(">4Q", blob, reserved) == (0x1000, 0x2000, 0, 0)
    assert structure + structure_size == strings
    assert strings + strings_size == size
    assert structure % 4 == 0 and reserved % 8 == 0
