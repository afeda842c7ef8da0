"""Trace rings: what readers see, what they miss, and what a killed writer leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from native import Unit
from native.memory import Area
from proto.trace import (
    HOLE_NS,
    RECORDS,
    TRACE_SIZE,
    TraceHeader,
    TracePoint,
    TraceReader,
    check_trace,
    format_trace,
    last_records,
    set_trace_off,
    trace,
    trace_text,
    write_trace,
)


@pytest.fixture
def area() -> Iterator[Area]:
    with Area.allocate(TRACE_SIZE) as made:
        format_trace(made.view())
        yield made


def put(area: Area, number: int, point: TracePoint = TracePoint.USED) -> None:
    trace(area.address, number, int(point), 1, 2, 3, number, 5, 6, 7, 8)


def test_a_record_is_read_as_it_was_written(area: Area) -> None:
    reader = TraceReader(area.view())
    trace(area.address, 77, int(TracePoint.POP), 1, 2, 3, 48211, 16 | 8193 << 32, 1, 0x0102, 0)
    (record,) = reader.read()
    assert (record.time, record.name) == (77, "POP")
    fields = record.fields()
    assert fields["first"][:2] == b"\x02\x01"
    del fields["first"]
    assert fields == {
        "queue": 1,
        "head": 2,
        "position": 3,
        "id": 48211,
        "readable": 16,
        "writable": 8193,
        "again": 1,
        "error": 0,
    }
    assert trace_text(record) == "POP queue 1 #48211 taken: head 2, 16 bytes to read, 8193 to write"
    assert reader.read() == []


def test_machine_code_writes_the_same_record_as_python(area: Area) -> None:
    native = Unit("trace-test", exports=[trace]).load()
    put(area, 9)
    native.trace(area.address, 9, int(TracePoint.USED), 1, 2, 3, 9, 5, 6, 7, 8)
    first, second = last_records(area.view(), 2)
    assert first[1:] == second[1:]
    assert (first.sequence, second.sequence) == (1, 2)


def test_address_zero_is_no_ring() -> None:
    trace(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)


def test_a_ring_that_is_off_takes_nothing(area: Area) -> None:
    set_trace_off(area.view(), True)
    put(area, 1)
    set_trace_off(area.view(), False)
    put(area, 2)
    assert [record.id for record in last_records(area.view(), 10)] == [2]


def test_readers_are_told_what_they_missed(area: Area) -> None:
    reader = TraceReader(area.view())
    native = Unit("trace-test", exports=[trace]).load()
    for number in range(RECORDS + 100):
        native.trace(area.address, 9, int(TracePoint.USED), 1, 2, 3, number, 5, 6, 7, 8)
    seen = []
    while batch := reader.read():
        seen += batch
    assert reader.missed + len(seen) == RECORDS + 100
    assert reader.missed >= 100
    assert [record.id for record in seen] == list(range(reader.missed, RECORDS + 100))


def test_two_readers_do_not_see_each_other(area: Area) -> None:
    first, second = TraceReader(area.view()), TraceReader(area.view())
    for number in range(10):
        put(area, number)
    assert len(first.read()) == len(second.read()) == 10


def test_a_reader_may_begin_with_what_is_there(area: Area) -> None:
    put(area, 1)
    assert TraceReader(area.view()).read() == []
    assert len(TraceReader(area.view(), from_start=True).read()) == 1


def test_a_slot_that_a_killed_process_had_claimed_is_stepped_over(area: Area) -> None:
    put(area, 1)
    at = TraceHeader.offset("next")
    area.view()[at : at + 8].cast("Q")[0] += 1  # claimed, never published
    put(area, 3)
    reader = TraceReader(area.view(), from_start=True)
    assert [record.id for record in reader.read()] == [1]
    assert reader.read() == []  # perhaps it is being written
    end = time.monotonic_ns() + HOLE_NS * 20
    after: list[int] = []
    while not after and time.monotonic_ns() < end:
        after = [record.id for record in reader.read()]
    assert after == [3]
    assert reader.missed == 1
    assert [record.id for record in last_records(area.view(), 10)] == [1, 3]


def test_the_last_records_are_the_last(area: Area) -> None:
    for number in range(20):
        put(area, number)
    assert [record.id for record in last_records(area.view(), 3)] == [17, 18, 19]
    assert last_records(area.view(), 0) == []


def test_python_writes_names(area: Area) -> None:
    write_trace(area.view(), TracePoint.ENDED, 2, 4711, 256 + 9, "blk0")
    (record,) = last_records(area.view(), 1)
    assert record.fields() == {"epoch": 2, "pid": 4711, "status": 265, "process": "blk0"}


def test_other_memory_is_refused() -> None:
    with pytest.raises(ValueError):
        check_trace(memoryview(bytes(TRACE_SIZE)))
    with pytest.raises(ValueError):
        last_records(memoryview(b"short"), 1)


def test_every_point_has_fields_and_words(area: Area) -> None:
    for point in TracePoint:
        put(area, 1, point)
        (record,) = last_records(area.view(), 1)
        assert trace_text(record).startswith(point.name)
        assert set(record.fields()) == set(point.fields)
