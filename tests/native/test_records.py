"""Records lie where C would put them, and areas keep the Python run inside memory it may touch."""

import ctypes
import os

import pytest
from both import declare

from native import (
    Area,
    Array,
    LivePeer,
    MisalignedAccess,
    Record,
    WildAccess,
    acquire,
    field_address,
    i8,
    i32,
    plain,
    relaxed,
    u8,
    u16,
    u32,
    u64,
    u128,
)


class Small(Record):
    tag: u8
    value: u32


class Mixed(Record):
    a: u8
    b: u16 = relaxed()
    small: Small
    c: i8
    many: Array[Small] = plain(count=3)
    d: u64 = acquire(offset=64)
    tail: Array[u16] = relaxed(count=0)


class CSmall(ctypes.Structure):
    _fields_ = [("tag", ctypes.c_uint8), ("value", ctypes.c_uint32)]


class CMixed(ctypes.Structure):
    _fields_ = [
        ("a", ctypes.c_uint8),
        ("b", ctypes.c_uint16),
        ("small", CSmall),
        ("c", ctypes.c_int8),
        ("many", CSmall * 3),
        ("padding", ctypes.c_uint8 * 20),
        ("d", ctypes.c_uint64),
        ("tail", ctypes.c_uint16 * 0),
    ]


def test_the_layout_is_that_of_c():
    assert Mixed.size() == ctypes.sizeof(CMixed)
    for name in Mixed.fields:
        assert Mixed.offset(name) == getattr(CMixed, name).offset, name


def test_the_layout_as_text_tells_everything_a_peer_must_agree_on():
    assert Mixed.layout() == (
        "Mixed size 72 align 8; 0 a: u8 plain; 2 b: u16 relaxed; "
        "4 small: {Small size 8 align 4; 0 tag: u8 plain; 4 value: u32 plain} plain; 12 c: i8 plain; "
        "16 many: {Small size 8 align 4; 0 tag: u8 plain; 4 value: u32 plain}[3] plain; "
        "64 d: u64 acquire; 72 tail: u16[] relaxed"
    )


def test_fields_read_and_write_their_bytes():
    with Area.allocate(4096) as area:
        record, mirror = Mixed(area.address), CMixed.from_address(area.address)
        record.a, record.c, record.d = 200, -5, 1 << 63
        record.small.value = 7
        record.many[2].tag = 9
        record.tail[4] = 0x1234
        assert (mirror.a, mirror.c, mirror.d, mirror.small.value, mirror.many[2].tag) == (200, -5, 1 << 63, 7, 9)
        assert area.view()[72 + 8 : 72 + 10] == b"\x34\x12"
        assert (record.many[2].tag, record.c, record.tail[4], len(record.many)) == (9, -5, 0x1234, 3)
        assert field_address(record, "many", 1) == area.address + 24
        assert record.many[1] == Small(area.address + 24) != Small(area.address)


def test_a_value_that_does_not_fit_is_refused():
    with Area.allocate(4096) as area:
        record = Mixed(area.address)
        with pytest.raises(OverflowError):
            record.a = 256
        with pytest.raises(OverflowError):
            record.c = 128
        with pytest.raises(IndexError):
            record.many[3].tag = 1
        with pytest.raises(IndexError):
            record.tail[-1] = 1
        with pytest.raises(TypeError, match="assign its fields"):
            record.small = 1
        with pytest.raises(TypeError, match="assign its elements"):
            record.many = 1


DECLARATIONS = [
    ("x: float", "a field is an integer type, a Record or an Array"),
    ("x: u128", "u128 cannot be a field"),
    ("x: u32 = 5", "a field has no default value"),
    ("x: Array[u32]", "an array needs count="),
    ("x: u32 = plain(count=3)", "count= belongs to an Array"),
    ("x: u32 = plain(offset=2)", "offset 2 is not a multiple of 4"),
    ("x: Small = relaxed()", "the order belongs to the fields of Small"),
    ("size: u32", "the name is taken by Record itself"),
    ("address: u64", "the name is taken by Record itself"),
]


@pytest.mark.parametrize(("field", "message"), DECLARATIONS, ids=[d[0] for d in DECLARATIONS])
def test_a_declaration_that_makes_no_sense_is_refused(field, message):
    with pytest.raises(TypeError, match=message):
        declare(f"class Bad(Record):\n    {field}\n", Small=Small, u128=u128)


def test_a_record_cannot_inherit_from_a_record():
    with pytest.raises(TypeError, match="cannot inherit"):
        type("Derived", (Small,), {"__annotations__": {"more": i32}})


TEXT_ANNOTATIONS = """
from __future__ import annotations

class R(Record):
    x: Array[u16] = plain(count=2)
    y: Small
"""


def test_annotations_may_be_text():
    record = declare(TEXT_ANNOTATIONS, Small=Small)["R"]
    assert (record.size(), record.offset("y")) == (12, 4)


def test_memory_outside_areas_is_wild():
    area = Area.allocate(10)
    try:
        Small(area.address).value = 1
        with pytest.raises(WildAccess, match="in no registered area"):
            Small(area.address + 4).value = 1
        with pytest.raises(WildAccess):
            Small(0).tag = 1
    finally:
        area.close()
    with pytest.raises(WildAccess):
        Small(area.address).value = 1
    area.close()


def test_a_misaligned_field_is_refused():
    with Area.allocate(64) as area, pytest.raises(MisalignedAccess):
        Small(area.address + 2).value = 1


def test_memory_with_a_live_peer_is_refused():
    with Area.allocate(64, live_peer=True) as area:
        with pytest.raises(LivePeer):
            _ = Small(area.address).tag
        area.live_peer = False
        assert Small(area.address).tag == 0


def test_a_shared_mapping_reaches_the_file_and_needs_no_descriptor(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    fd = os.open(path, os.O_RDWR)
    with Area.map_fd(fd, 100) as area:
        os.close(fd)
        Small(area.address).value = 0x01020304
        assert bytes(area.view()[4:8]) == path.read_bytes()[4:8] == b"\x04\x03\x02\x01"


def test_a_private_mapping_leaves_the_file_alone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    with open(path, "rb") as file, Area.map_fd(file.fileno(), 100, shared=False) as area:
        Small(area.address).value = 1
        assert path.read_bytes() == bytes(100)


def test_a_read_only_mapping_is_only_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a" * 100)
    with open(path, "rb") as file, Area.map_fd(file.fileno(), 100, writable=False) as area:
        assert Small(area.address).tag == ord("a")
        assert area.view().readonly
        with pytest.raises(WildAccess, match="read-only"):
            Small(area.address).tag = 1


def test_what_cannot_be_mapped_is_an_error():
    with pytest.raises(OSError, match="cannot map"):
        Area.map_fd(-1, 4096)
    with pytest.raises(ValueError, match="an area of 0 bytes"):
        Area.allocate(0)


def test_adopted_memory_is_forgotten_but_not_unmapped():
    with Area.allocate(4096) as owner:
        address = owner.address + 8
        with Area.adopt(address, 8, writable=False) as part, pytest.raises(WildAccess):
            Small(part.address).tag = 1
        Small(address).tag = 1


def test_areas_are_found_among_many():
    areas = [Area.allocate(4096) for _ in range(50)]
    try:
        for number, area in enumerate(areas):
            Small(area.address + 4088).value = number
        assert [Small(a.address + 4088).value for a in areas] == list(range(50))
    finally:
        for area in areas:
            area.close()
