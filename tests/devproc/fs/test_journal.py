"""The table that outlives its process: whatever was put is there, after any number of changes, wherever it was cut."""

import contextlib
import os
import struct
import zlib

import msgpack
import pytest

from devproc.fs import journal
from devproc.fs.journal import Journal, make_memory
from proto.errors import BackendError


@pytest.fixture
def memory():
    fd = make_memory("test")
    yield fd
    os.close(fd)


@pytest.fixture
def little(memory, monkeypatch):
    """Memory that is soon full."""
    monkeypatch.setattr(journal, "SIZE", 8192)
    os.ftruncate(memory, 8192)
    return memory


def test_what_was_put_is_there_for_the_next(memory):
    first = Journal(memory)
    first.put(1, [b"a", 0])
    first.put(2, [b"b", None])
    first.put(1, [b"c", 1])
    first.drop(2)
    assert Journal(memory).table == first.table == {1: [b"c", 1]}
    first.clear()
    assert Journal(memory).table == {}


def test_many_changes_of_a_small_table(little):
    first = Journal(little)
    halves = set()
    for number in range(2000):
        first.put(number % 7, [number])
        halves.add(first._half)
        assert number % 50 or Journal(little).table == first.table
    assert Journal(little).table == first.table and halves == {0, 1}


def test_a_table_that_is_too_large_is_refused_and_what_follows_counts(little):
    first = Journal(little)
    with pytest.raises(BackendError), first:
        for number in range(50):
            first.put(number, b"x" * 100)
    for number in range(40):
        with contextlib.suppress(BackendError):
            first.drop(number)
    first.put(1, b"small")
    assert Journal(little).table == first.table == {1: b"small"} | dict.fromkeys(range(40, 50), b"x" * 100)


def test_a_torn_record_does_not_count(memory):
    first = Journal(memory)
    first.put(1, [b"whole"])
    at = first._at
    first.put(2, [b"torn"])
    os.pwrite(memory, b"\xff", at + 10)
    assert Journal(memory).table == {1: [b"whole"]}


def test_what_is_changed_together_counts_together(memory):
    first = Journal(memory)
    with first:
        first.put(1, [b"a"])
        first.put(2, [b"b"])
        assert Journal(memory).table == {}
        first.flush()
        assert Journal(memory).table == {1: [b"a"], 2: [b"b"]}
        at = first._at
        first.drop(1)
        first.put(3, [b"c"])
        first.put(2, [b"d"])
        assert Journal(memory).table == {1: [b"a"], 2: [b"b"]}
    assert Journal(memory).table == first.table == {2: [b"d"], 3: [b"c"]}
    first.put(4, [b"alone"])
    assert Journal(memory).table == first.table
    os.pwrite(memory, b"\xff", at + 10)
    assert Journal(memory).table == {1: [b"a"], 2: [b"b"]}


def test_changes_together_that_fill_the_memory(little):
    first = Journal(little)
    for number in range(700):
        with first:
            first.put(number % 7, [number])
            first.put(number % 5, [b"x" * 20])
            first.drop(number % 3)
    assert Journal(little).table == first.table


@pytest.mark.parametrize("record", [([1], 2), ([1, 2], 3), ([1, 2], ["a", 2]), ([],), ("text", 2), (1,), [], 5])
def test_a_record_that_nobody_writes_ends_the_table(memory, record):
    """Found by fuzzing: a key that cannot be one ended every successor."""
    first = Journal(memory)
    first.put(1, [b"whole"])
    data = msgpack.packb(record)
    os.pwrite(memory, struct.pack("<II", len(data), zlib.crc32(data)) + data, first._at)
    assert Journal(memory).table == {1: [b"whole"]}
