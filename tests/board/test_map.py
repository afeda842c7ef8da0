"""The memory map: overlaps, aliases and priorities flatten as in QEMU, and the tree prints itself."""

import pytest

from core.board.map import Region, RegionKind, alias, container, flatten, render_flat, render_tree
from core.board.virt import Machine, Slot, WindowRange, memory_map
from proto.errors import ConfigError


def ram(name, size, priority=0):
    return Region(name, size, RegionKind.RAM, priority=priority)


def spans(root):
    return [(item.base, item.size, item.region.name, item.offset) for item in flatten(root)]


def test_a_region_of_higher_priority_hides_the_one_below():
    root = container("system", 0x1000)
    root.add(0, ram("low", 0x1000))
    root.add(0x400, ram("high", 0x200, priority=1))
    assert spans(root) == [(0, 0x400, "low", 0), (0x400, 0x200, "high", 0), (0x600, 0xA00, "low", 0x600)]


def test_holes_of_a_container_show_what_is_below():
    root = container("system", 0x1000)
    root.add(0, ram("below", 0x1000))
    inner = root.add(0x100, container("inner", 0x300, priority=1))
    inner.add(0x100, ram("top", 0x100))
    assert spans(root) == [(0, 0x200, "below", 0), (0x200, 0x100, "top", 0), (0x300, 0xD00, "below", 0x300)]


def test_an_alias_shows_part_of_another_region():
    root = container("system", 0x10000)
    memory = root.add(0x8000, ram("ram", 0x1000))
    root.add(0x100, alias("window", memory, 0x400, 0x80))
    assert spans(root) == [(0x100, 0x80, "ram", 0x400), (0x8000, 0x1000, "ram", 0)]


def test_regions_of_the_same_priority_must_not_overlap():
    root = container("system", 0x1000)
    root.add(0, ram("first", 0x100))
    with pytest.raises(ConfigError, match="second at 0x80 overlaps first"):
        root.add(0x80, ram("second", 0x100))


def test_a_region_must_fit_into_its_container():
    with pytest.raises(ConfigError, match="does not fit into system"):
        container("system", 0x1000).add(0xF01, ram("ram", 0x100))


def test_an_alias_must_lie_in_its_target():
    with pytest.raises(ConfigError, match="past the end of ram"):
        alias("window", ram("ram", 0x100), 0x80, 0x100)


def test_the_tree_prints_as_qemus_mtree():
    root = container("system", 0x10000)
    memory = root.add(0x8000, ram("ram", 0x1000))
    root.add(0x100, alias("window", memory, 0x400, 0x80))
    assert render_tree(root).splitlines() == [
        "0000000000000000-000000000000ffff (prio 0, i/o): system",
        "  0000000000000100-000000000000017f (prio 0, i/o): alias window @ram 0000000000000400-000000000000047f",
        "  0000000000008000-0000000000008fff (prio 0, ram): ram",
    ]
    assert render_flat(flatten(root)).splitlines() == [
        "0000000000000100-000000000000017f (prio 0, ram): ram @0000000000000400",
        "0000000000008000-0000000000008fff (prio 0, ram): ram",
    ]


def test_the_virt_machine_is_where_qemu_has_it():
    machine = Machine(memory=1 << 20, slots=(Slot(0, "blk0"),))
    bases = {item.region.name: item.base for item in flatten(memory_map(machine))}
    assert bases["virt.ram"] == 0x80000000
    assert bases["sifive.plic"] == 0xC000000
    assert bases["ns16550a"] == 0x10000000
    assert bases["virtio-mmio.0 (blk0)"] == 0x10001000
    assert bases["virtio-mmio.7"] == 0x10008000


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"harts": 0}, "0 harts"),
        ({"harts": 9}, "9 harts"),
        ({"memory": 1000}, "1000 bytes of memory"),
        ({"slots": (Slot(8, "blk0"),)}, "slot 8"),
        ({"slots": (Slot(1, "blk0"), Slot(1, "rng0"))}, "rng0 and blk0"),
        ({"windows": (WindowRange("x", 0x20000000, 0x1000, 10),)}, "irq 10 belongs to the UART"),
        ({"windows": (WindowRange("x", 0x20000000, 0x1000, 60),)}, "irq 60"),
        ({"windows": (WindowRange("x", 0x20000000, 0x100, 0),)}, "whole pages"),
        ({"harts": 2, "lockstep": True}, "lockstep"),
    ],
)
def test_a_machine_that_cannot_be_says_why(wrong, words):
    with pytest.raises(ConfigError, match=words):
        Machine(**wrong)


def test_a_window_on_top_of_a_device_is_refused():
    machine = Machine(windows=(WindowRange("mydev", 0x10000000, 0x1000, 20),))
    with pytest.raises(ConfigError, match="mydev"):
        memory_map(machine)
