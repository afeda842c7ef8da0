"""Taps and recordings: what a device process writes is what its driver asked and got; damaged files are read so far."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tapping import disk, request

from launcher.replay.frontend import FrontEnd
from proto.errors import ProtocolError
from proto.recording import RecordingReader, RecordingWriter, requests_of
from proto.tap import Event, EventKind, pack_event
from proto.virtio import BlkType


def test_all_that_driver_and_device_say_is_written(tapped, tmp_path) -> None:
    tap = tapped()
    with disk(tap, tmp_path / "disk.img") as front:
        payload = os.urandom(4096)
        answers = [
            request(front, BlkType.OUT, 8, payload),
            request(front, BlkType.IN, 8, room=4096),
            request(front, BlkType.IN, 99999, room=512),
        ]
        events = tap.events()
    found = list(requests_of(iter(events)))
    assert [each.written for each in found] == answers
    assert answers[1][:4096] == payload and answers[2][-1] == 1
    assert found[0].readable[16:] == payload
    assert (found[0].sizes, found[1].room) == ((4112,), (4097,))
    assert events[0].kind == EventKind.SETUP
    assert [each.done.status for each in found if each.done] == [0, 0, 1]
    assert [each.pop.id - found[0].pop.id for each in found] == [0, 1, 2]


def test_a_successor_goes_on_in_the_same_tap(tapped, tmp_path) -> None:
    tap = tapped()
    with disk(tap, tmp_path / "disk.img") as front:
        request(front, BlkType.OUT, 0, bytes(512))
        front.kill()
        front.start()
        front.replay()
        request(front, BlkType.IN, 0, room=512)
        events = tap.events()
    assert [event.kind for event in events].count(EventKind.SETUP) == 2
    assert len(list(requests_of(iter(events)))) == 2


def test_what_finds_no_room_is_counted(tapped, tmp_path) -> None:
    tap = tapped(1 << 16)
    with disk(tap, tmp_path / "disk.img") as front:
        for _ in range(100):
            request(front, BlkType.IN, 0, room=4096)
        first = tap.events()
        request(front, BlkType.IN, 0, room=4096)
        second = tap.events()
    whole = sum(event.kind == EventKind.DONE for event in first + second)
    assert second[0].kind == EventKind.LOST and second[0].a > 0
    assert whole < 101
    requests = sum(event.kind in (EventKind.POP, EventKind.DONE) for event in first + second)
    lost = sum(event.a for event in first + second if event.kind == EventKind.LOST)  # small ones find room in between
    assert requests + lost >= 202  # messages are lost as well


def test_a_device_that_waits_loses_nothing(tapped, tmp_path) -> None:
    tap = tapped(1 << 16, block=True)
    events: list[Event] = []
    with disk(tap, tmp_path / "disk.img") as front:
        for _ in range(50):
            request(front, BlkType.IN, 0, room=4096)
            if tap.reader.waiting() > 1 << 15:
                events += tap.events()
        events += tap.events()
    assert not [event for event in events if event.kind == EventKind.LOST]
    assert len(list(requests_of(iter(events)))) == 50


def test_a_tap_can_be_ended_at_once(tapped, tmp_path) -> None:
    tap = tapped()
    with disk(tap, tmp_path / "disk.img") as front:
        tap.events()
        tap.reader.stop()
        request(front, BlkType.IN, 0, room=512)
        assert tap.events() == []


def test_a_process_is_told_while_it_runs(tapped, tmp_path) -> None:
    tap = tapped()
    with disk(None, tmp_path / "disk.img") as front:
        request(front, BlkType.IN, 0, room=512)
        assert front.channel is not None
        front.channel.send("RECORD", {}, {"tap": tap.fd})
        while not tap.reader.waiting():
            request(front, BlkType.FLUSH, 0)
        request(front, BlkType.IN, 0, room=512)
        assert tap.events()[0].kind == EventKind.SETUP
        front.channel.send("RECORD", {})
        while True:
            request(front, BlkType.IN, 0, room=512)
            if not tap.events():
                break


def test_what_is_no_tap_changes_nothing(tmp_path) -> None:
    fd = os.memfd_create("none")
    os.truncate(fd, 8192)
    front = FrontEnd("rng", lent={"tap": fd})
    with front:
        assert front.start()["device_id"] == 4
    os.close(fd)


# -- files -------------------------------------------------------------------------------------------------------------

events = st.builds(
    Event,
    st.sampled_from(list(EventKind)[2:4]),
    *(st.integers(0, 0xFFFF) for _ in range(3)),
    st.integers(0, 0xFFFFFFFF),
    *(st.integers(0, (1 << 64) - 1) for _ in range(4)),
    st.binary(max_size=64),
).map(lambda event: event._replace(a=len(event.payload)))
META = {"machine": "m", "devices": [{"id": "blk0"}, {"id": "net0"}]}


def write(path: Path, blocks: list[tuple[str, list[Event]]], *, end: bool = True) -> None:
    with open(path, "wb") as file:
        writer = RecordingWriter(file, META)
        for device, each in blocks:
            writer.events(device, b"".join(map(pack_event, each)))
        if end:
            writer.end({"reason": "test"})
        assert writer.size == file.tell()


@given(st.lists(st.tuples(st.sampled_from(["blk0", "net0"]), st.lists(events, max_size=4)), max_size=6))
def test_what_is_written_is_read(tmp_path_factory, blocks) -> None:
    path = tmp_path_factory.mktemp("rec") / "r"
    write(path, blocks)
    with RecordingReader(path) as reader:
        for _ in range(2):
            found = list(reader.events())
            assert found == [(device, event) for device, each in blocks for event in each]
        assert (reader.cut, reader.end) == ("", {"reason": "test"})


def one(number: int) -> Event:
    return Event(EventKind.SETUP, 0, 0, 0, 0, number, number, 8 * (number % 5), 0, bytes(8 * (number % 5)))


def test_a_cut_tail_is_found_and_ignored(tmp_path) -> None:
    path = tmp_path / "r"
    write(path, [("blk0", [one(n)]) for n in range(20)])
    whole = path.read_bytes()
    seen = set()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        try:
            with RecordingReader(path) as reader:
                found = [event for _, event in reader.events()]
        except ProtocolError:
            continue
        assert found == [one(n) for n in range(len(found))]
        assert reader.cut and reader.end is None
        seen.add(len(found))
    assert seen == set(range(21))


def test_a_flipped_bit_is_found(tmp_path) -> None:
    path = tmp_path / "r"
    write(path, [("blk0", [one(n)]) for n in range(5)])
    whole = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        place = random.randrange(12, len(whole))
        damaged[place] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        try:
            with RecordingReader(path) as reader:
                found = [event for _, event in reader.events()]
        except ProtocolError:
            continue
        assert found == [one(n) for n in range(len(found))]
        assert reader.cut or place < 16


def test_what_is_no_recording_says_so(tmp_path) -> None:
    path = tmp_path / "r"
    for data in (b"", b"hello", b"BULKREC\n\x02\0\0\0\0\0\0\0"):
        path.write_bytes(data)
        with pytest.raises(ProtocolError):
            RecordingReader(path)


def test_requests_and_their_answers_are_put_together() -> None:
    def pop(id: int, data: bytes = b"") -> Event:
        return Event(
            EventKind.POP, 0, 0, 0, 0, 0, id, 1 if data else 0, len(data), len(data).to_bytes(4, "little") + data
        )

    def done(id: int) -> Event:
        return Event(EventKind.DONE, 0, 0, 0, 0, 0, id, 1, 0, b"\0")

    stream = [done(0), pop(1, b"a"), pop(2, b"b"), done(2), pop(1, b"x"), done(1), pop(3, b"c")]
    found = list(requests_of(iter(stream)))
    assert [(each.number, each.readable, bool(each.done)) for each in found] == [
        (0, b"a", True),
        (1, b"b", True),
        (2, b"c", False),
    ]
