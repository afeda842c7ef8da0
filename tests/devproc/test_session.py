"""A session holds to its states, answers every request once, and survives whatever the other side sends."""

from __future__ import annotations

import os
import struct
import time

import msgpack
import pytest

from bench.blk_ring import Case, prepare
from proto.errors import ProtocolError
from proto.messages import encode
from proto.pages import LinkMode, layout_hash
from proto.virtio import BlkType, DeviceId


def test_hello_says_who_and_what(start):
    front = start("rng")
    hello = front.hello
    assert (hello["id"], hello["epoch"], hello["device_id"]) == ("dev0", 1, DeviceId.ENTROPY)
    assert hello["layout"] == layout_hash() and hello["queues"] == [64] and hello["pid"] == front.process.pid


def test_rng_fills_what_the_driver_offers(start):
    front = start("rng")
    front.negotiate()
    layout = front.add_queue(0, 64)
    front.driver_ok()
    struct.pack_into("<QIHH", front.ram.view, layout.desc, 0x8000_0000 + 0x20000, 256, 2, 0)
    seen = set()
    for _ in range(3):
        front.native.publish(layout.driver, 0)
        front.notify(layout)
        assert front.wait_used(layout) == (0, 256)
        seen.add(bytes(front.ram.view[0x20000:0x20100]))
    assert len(seen) == 3


def test_everything_may_be_said_twice(disk):
    served = disk()
    front = served.front
    for _ in range(2):
        front.negotiate(front.features)
        front.enable(0)
        front.driver_ok()
    assert served.request(BlkType.IN, 0, room=512)[0] == 0


def test_quiesce_stops_and_resume_goes_on(disk):
    served = disk()
    front = served.front
    assert front.request("QUIESCE") == {"in_flight": 0}
    served.submit(0, BlkType.IN, 0, room=512)
    front.notify(served.layout)
    front.request("FEATURES")
    assert front.native.take_used(served.layout.driver) == 2**64 - 1
    front.request("RESUME")
    assert front.wait_used(served.layout)[0] == 0


def test_get_base_stops_a_queue_and_says_where(disk):
    served = disk()
    for _ in range(5):
        served.request(BlkType.IN, 0, room=512)
    assert served.front.request("GET_BASE", {"queue": 0}) == {"base": 5}
    served.front.enable(0)
    assert served.request(BlkType.IN, 0, room=512)[0] == 0


def test_save_is_only_for_the_quiet(disk):
    front = disk().front
    with pytest.raises(ProtocolError, match="RUNNING"):
        front.request("SAVE")
    front.request("QUIESCE")
    saved = front.request("SAVE")
    front.request("LOAD", saved)
    with pytest.raises(ProtocolError, match="version"):
        front.request("LOAD", {"version": 99, "state": saved["state"]})
    with pytest.raises(ProtocolError, match="damaged"):
        front.request("LOAD", {"version": saved["version"], "state": b"\xc1"})


def test_no_queue_is_served_before_the_features_are_known(disk):
    """FEATURES_OK may have been lost: then chains would be read as what they are not."""
    front = disk().front
    front.request("RESET")
    setup = {name: {"region": 0, "offset": getattr(front.queues[0], name)} for name in ("desc", "avail", "used")}
    front.request("RING_SETUP", {"queue": 0, "size": front.queues[0].num, "fresh": True, **setup})
    with pytest.raises(ProtocolError, match="before FEATURES_OK"):
        front.request("RING_ENABLE", {"queue": 0, "enabled": True})
    front.negotiate(front.features)
    front.request("RING_ENABLE", {"queue": 0, "enabled": True})


def test_reset_takes_everything_back(disk):
    served = disk()
    served.request(BlkType.IN, 0, room=512)
    for _ in range(2):
        assert served.front.request("RESET") == {}
    with pytest.raises(ProtocolError, match="never set up"):
        served.front.request("RING_ENABLE", {"queue": 0, "enabled": True})


BAD_SETUPS = {
    "size": {"size": 3},
    "size beyond the queue": {"size": 512},
    "region": {"desc": {"region": 9, "offset": 0}},
    "offset": {"used": {"region": 0, "offset": 2**40}},
    "alignment": {"desc": {"region": 0, "offset": 8}},
    "queue": {"queue": 7},
}


@pytest.mark.parametrize("change", BAD_SETUPS)
def test_a_bad_ring_is_refused(disk, change):
    front = disk().front
    front.request("GET_BASE", {"queue": 0})
    place = {name: {"region": 0, "offset": at} for name, at in (("desc", 0), ("avail", 0x8000), ("used", 0xA000))}
    with pytest.raises(ProtocolError):
        front.request("RING_SETUP", {"queue": 0, "size": 64, **place, **BAD_SETUPS[change]})


BAD_TABLES = {
    "unknown region": [{"region": 5, "gpa": 0, "size": 4096, "writable": True}],
    "too long": [{"region": 0, "gpa": 0, "size": 1 << 40, "writable": True}],
    "unaligned": [{"region": 0, "gpa": 1, "size": 4096, "writable": True}],
    "overlapping": [{"region": 0, "gpa": gpa, "size": 8192, "writable": True} for gpa in (0, 4096)],
}


@pytest.mark.parametrize("table", BAD_TABLES)
def test_a_bad_memory_table_is_refused_and_the_old_one_stays(disk, table):
    served = disk()
    with pytest.raises(ProtocolError):
        served.front.request("MEM_TABLE", {"regions": BAD_TABLES[table]})
    assert served.request(BlkType.IN, 0, room=512)[0] == 0


def test_noise_and_stale_epochs_are_dropped(disk):
    served = disk()
    front = served.front
    for noise in (b"", b"noise", os.urandom(300), encode("KICK", {"queue": 0}, epoch=front.epoch, seq=1) + b"x"):
        front.socket.send(noise)
    front.socket.send(encode("RESET", {}, epoch=front.epoch + 1, seq=1))
    front.socket.send(encode("HELLO", front.hello, epoch=front.epoch, seq=1))
    assert served.request(BlkType.IN, 0, room=512)[0] == 0


def test_a_refused_device_says_why(start, monkeypatch):
    front = start("rng")
    front.socket.send(
        encode("HELLO", {"code": "ProtocolError", "text": "wrong layout"}, epoch=1, seq=1, reply=True, error=True)
    )
    assert front.process.wait(60) == 1


def test_with_link_messages_every_notification_is_one(disk):
    served = disk(mode=LinkMode.MESSAGES)
    for _ in range(10):
        assert served.request(BlkType.IN, 0, room=512)[0] == 0
    assert served.front.kicks == served.layout.driver.kicks > 0
    assert served.front.theirs.calls_saved == served.front.mine.kicks_saved == 0


def test_a_mailbox_is_read_and_written_through_messages(start):
    front = start("mailbox", {"depth": "2"})
    sequence = 0

    def write(offset: int, value: int) -> None:
        nonlocal sequence
        sequence += 1
        front.post("MMIO_WRITE", {"offset": offset, "size": 4, "sequence": sequence, "value": value})

    def read(offset: int, size: int = 4) -> int:
        nonlocal sequence
        sequence += 1
        return front.request("MMIO_READ", {"offset": offset, "size": size, "sequence": sequence})["value"]

    assert front.hello["mmio_size"] == 4096 and front.hello["device_id"] == 0
    for word in (11, 22, 33):
        write(0, word)
    assert (read(4), read(12)) == (2, 0)
    assert front.theirs.irq_level == 0
    write(8, 1)
    assert read(8) == 1 and front.theirs.irq_level == 1
    assert [read(0), read(0), read(0)] == [11, 22, 0]
    assert front.theirs.irq_level == 0 and front.theirs.call_sequence == 2
    front.sleep(30)  # it has rung
    assert front.theirs.mmio_done == sequence
    assert read(0x2000) == 0xFFFFFFFF and read(1) == 0xFFFFFFFF
    front.request("QUIESCE")
    saved = front.request("SAVE")
    assert msgpack.unpackb(saved["state"]) == {"words": [], "control": 1}


def test_mmio_that_was_begun_by_the_dead_is_not_done_again(start):
    front = start("mailbox")
    front.post("MMIO_WRITE", {"offset": 0, "size": 4, "sequence": 1, "value": 5})
    assert front.request("MMIO_READ", {"offset": 4, "size": 4, "sequence": 2})["value"] == 1
    front.kill()
    front.start()
    front.post("MMIO_WRITE", {"offset": 0, "size": 4, "sequence": 1, "value": 5})
    assert front.request("MMIO_READ", {"offset": 4, "size": 4, "sequence": 2})["value"] == 0xFFFFFFFF
    assert front.request("MMIO_READ", {"offset": 4, "size": 4, "sequence": 3})["value"] == 0


CHANGING = """
from devproc.device import Queue, VirtioDevice

class Changing(VirtioDevice):
    device_id = 40
    queues = (Queue("requests", size=8),)

    def handle(self, request):
        self.config_changed()
"""


def test_what_only_a_message_says_is_said_until_it_is_answered(start, tmp_path, monkeypatch):
    """A change of the configuration, say: the disk has grown."""
    (tmp_path / "changing.py").write_text(CHANGING)
    front = start(f"{tmp_path}/changing.py:Changing")
    front.negotiate()
    layout = front.add_queue(0, 8)
    front.driver_ok()
    struct.pack_into("<QIHH", front.ram.view, layout.desc, 0x8000_0000 + 0x20000, 5, 2, 0)
    with monkeypatch.context() as deaf:
        said = []
        deaf.setattr(front, "_take", said.append)
        front.native.publish(layout.driver, 0)
        front.native.notify(layout.driver)  # without a word: the device looks at the next beat
        while [message.name for message in said].count("CONFIG_CHANGED") < 3:
            front.sleep()
    first, *others = [message for message in said if message.name == "CONFIG_CHANGED"]
    assert first.body["generation"] == 1
    assert all(other == first for other in others)
    front.sleep()  # and this one is answered
    assert [message.name for message in front.posted] == ["CONFIG_CHANGED"]
    front.request("CONFIG_GET")  # what was answered before it has been heard by now
    received, beats = front._receive, front.theirs.heartbeat
    monkeypatch.setattr(front, "_receive", lambda timeout: said.append(received(timeout)) or said[-1])
    said.clear()
    while front.theirs.heartbeat < beats + 3:
        front.request("CONFIG_GET")
    assert {message.name for message in said} == {"CONFIG_GET"}


def test_mmio_to_a_virtio_device_is_refused(start):
    front = start("rng")
    with pytest.raises(ProtocolError, match="no registers"):
        front.request("MMIO_READ", {"offset": 0, "size": 4, "sequence": 1})


def test_sleepers_are_woken_by_doorbells_and_no_message(disk):
    served = disk(bytes(128 << 20))
    front, layout = served.front, served.layout
    prepare(front.ram.view, front.ram.area.address, layout.driver, Case(512, 1, 50))
    layout.driver.spin = 0
    front.run(layout)
    assert (front.theirs.listens, layout.driver.done, layout.driver.failed) == (front.epoch, 50, 0)
    assert front.mine.kicks_sent + front.theirs.calls_sent > 0
    assert front.kicks == front.calls == 0


def test_a_device_without_a_doorbell_gets_messages(disk):
    served = disk()
    front = served.front
    front.theirs.listens = front.epoch - 1  # a predecessor's, which had one
    assert served.request(BlkType.IN, 0, room=512)[0] == 0
    deadline = time.monotonic() + 60
    while front.kicks == 0:  # it sleeps now and then
        assert served.request(BlkType.IN, 0, room=512)[0] == 0
        assert time.monotonic() < deadline


def test_a_device_that_sleeps_in_machine_code_hears_messages(disk):
    """Its loop wakes for them, between requests and while it sleeps."""
    served = disk(bytes(128 << 20))
    front, layout = served.front, served.layout
    for _ in range(20):
        prepare(front.ram.view, front.ram.area.address, layout.driver, Case(512, 1, 20))
        layout.driver.spin = 0
        front.run(layout)
        assert layout.driver.failed == 0 and front.request("CONFIG_GET")["config"] == front.hello["config"]


@pytest.mark.parametrize("depth", [1, 2, 8])
def test_no_notification_is_lost_when_both_sides_keep_falling_asleep(disk, depth):
    """Neither side looks for long before it sleeps; a lost notification would end in a missed deadline."""
    served = disk(bytes(128 << 20))
    front, layout = served.front, served.layout
    prepare(front.ram.view, front.ram.area.address, layout.driver, Case(4096, depth, 3000))
    layout.driver.spin = 0
    front.run(layout)
    assert (layout.driver.done, layout.driver.failed) == (3000, 0)
    assert front.kicks <= layout.driver.kicks
