"""What the author of a device relies on: properties, state, requests, and finding a class in a file."""

from __future__ import annotations

import pytest

from devproc.device import MmioDevice, State, VirtioDevice
from devproc.properties import Property, Size, parse_properties, property_help
from devproc.registry import describe, explain, load_class
from devproc.request import Buffer, Request
from proto.errors import ConfigError, ProtocolError


class Sample(MmioDevice):
    """A sample."""

    name = Property(str, help="what it is called")
    depth = Property(int, 4, "how deep", minimum=1, maximum=8)
    room = Property(Size, 4096, "how large")
    fast = Property(bool, False, "hurry")
    mode = Property(str, "a", choices=("a", "b"))
    count = State(0)
    words = State([])


def test_values_come_from_text():
    sample = Sample("s0", {"name": "x", "depth": "0x8", "room": "2M", "fast": "on", "mode": "b"})
    assert (sample.name, sample.depth, sample.room, sample.fast, sample.mode) == ("x", 8, 2 << 20, True, "b")


def test_defaults_and_typed_values():
    sample = Sample("s0", {"name": "x", "depth": 2, "fast": True})
    assert (sample.depth, sample.room, sample.fast, sample.mode) == (2, 4096, True, "a")


@pytest.mark.parametrize(
    "given, text",
    [
        ({}, "needs name="),
        ({"name": "x", "depth": "9"}, "depth=9: expected number from 1 to 8"),
        ({"name": "x", "depth": "many"}, "depth=many"),
        ({"name": "x", "fast": "perhaps"}, r"expected on\|off"),
        ({"name": "x", "mode": "c"}, r"expected a\|b"),
        ({"name": "x", "dept": "1"}, "no property 'dept'"),
        ({"name": 3}, "expected text"),
    ],
)
def test_wrong_values_are_explained(given, text):
    with pytest.raises(ConfigError, match=text):
        parse_properties(Sample, given, "sample")


def test_help_lists_every_property():
    text = property_help(Sample, "sample")
    assert text.startswith("sample: A sample.")
    assert "depth" in text and "default 4" in text and "required" in text and "default off" in text


def test_state_goes_from_one_instance_to_another():
    first, second = Sample("a", {"name": "x"}), Sample("b", {"name": "x"})
    first.count, first.words = 7, [1, 2]
    second.load(Sample.state_version, first.save())
    assert (second.count, second.words) == (7, [1, 2])
    assert Sample("c", {"name": "x"}).words == []


def test_an_older_state_is_upgraded_by_who_knows_how():
    class Newer(Sample):
        state_version = 2
        total = State(0)

        def upgrade(self, version, fields):
            return fields | {"total": fields["count"]}

    newer = Newer("n", {"name": "x"})
    older = Sample("o", {"name": "x"})
    older.count = 3
    newer.load(1, older.save())
    assert newer.total == 3
    with pytest.raises(ProtocolError, match="version 2"):
        older.load(2, newer.save())
    with pytest.raises(ProtocolError, match="total"):
        older.load(1, newer.save())


def request() -> tuple[Request, bytearray]:
    memory = bytearray(b"abcdefghij" + bytes(10))
    view = memoryview(memory)
    readable, writable = [Buffer(0, 0, 3), Buffer(0, 3, 7)], [Buffer(0, 10, 4), Buffer(0, 14, 6)]
    return Request(0, 5, readable, writable, lambda region, offset, length: view[offset : offset + length]), memory


def test_a_request_is_read_in_order_and_written_in_order():
    asked, memory = request()
    assert (asked.readable, asked.writable) == (10, 10)
    assert [asked.read(2), asked.read(4), asked.read(), asked.read()] == [b"ab", b"cdef", b"ghij", b""]
    assert asked.write(b"123456") == 6 and asked.write(b"7890++") == 4
    assert bytes(memory[10:]) == b"1234567890" and asked.written == 10


def test_views_are_the_guests_memory():
    asked, memory = request()
    for view in asked.views(2, 5):
        view[:] = b"x" * len(view)
    assert bytes(memory[10:]) == b"\0\0xxxxx\0\0\0"
    assert b"".join(asked.views_readable(1, 4)) == b"bcde"
    with pytest.raises(ValueError, match="10 writable"):
        asked.write_at(8, b"123")


def test_devices_are_found_by_name_and_by_path(tmp_path):
    assert load_class("rng").__name__ == "Entropy"
    path = tmp_path / "mydev.py"
    path.write_text("from devproc.device import VirtioDevice\nclass MyDevice(VirtioDevice):\n    device_id = 40\n")
    assert issubclass(load_class(f"{path}:MyDevice"), VirtioDevice)
    with pytest.raises(ConfigError, match="no class Other") as caught:
        load_class(f"{path}:Other")
    assert "MyDevice" in caught.value.hint


@pytest.mark.parametrize(
    "source, text",
    [
        ("import nowhere_at_all\n", ":1: ModuleNotFoundError"),
        ("class X(\n", ":1: SyntaxError"),
        ("X = 3\n", "neither a"),
    ],
)
def test_a_broken_device_file_is_explained(tmp_path, source, text):
    (tmp_path / "broken.py").write_text(source)
    with pytest.raises(ConfigError, match=text):
        load_class(f"{tmp_path}/broken.py:X")


def test_what_a_device_raises_is_said_with_its_line(tmp_path):
    path = tmp_path / "raising.py"
    path.write_text(
        "from devproc.device import VirtioDevice\nclass X(VirtioDevice):\n    def start(self):\n        1 // 0\n"
    )
    device = load_class(f"{path}:X")("x0", {})
    with pytest.raises(ZeroDivisionError) as caught:
        device.start()
    assert explain(f"{path}:X", caught.value) == f"{path}:4: ZeroDivisionError: integer division or modulo by zero"
    assert explain("rng", KeyError("a")) == "KeyError: 'a'"


def test_unknown_devices_and_files_are_explained(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_class("tape")
    assert "blk" in caught.value.hint
    with pytest.raises(ConfigError, match="no such file"):
        load_class(f"{tmp_path}/none.py:X")


def test_a_description_says_what_the_launcher_needs():
    assert describe("rng")["kind"] == "virtio"
    mailbox = describe("mailbox")
    assert (mailbox["kind"], mailbox["mmio_size"], mailbox["compatible"]) == ("mmio", 4096, "bulkhead,mailbox")
    assert "depth" in mailbox["properties"]
