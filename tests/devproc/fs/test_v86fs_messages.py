"""v86fs' messages: what is written is read, and whatever a guest sends, the device answers and goes on."""

import errno
import os
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from v86fs_client import ROOT, Client

from devproc.fs.v86fs.device import V86fsDevice
from devproc.fs.v86fs.messages import (
    HEADER,
    NOTICES,
    REQUESTS,
    RESPONSES,
    Listed,
    Type,
    decode,
    encode,
    encode_response,
)

NUMBERS = {"1": 8, "2": 16, "4": 32, "8": 64}
NAMES = st.sampled_from([b"", b"a", b"b", b"..", b".", b"a/b", b"\0", b"x" * 300, b"hello", "ü".encode()])


def field(kind, names=NAMES):
    if kind == "s":
        return names
    small = st.sampled_from([0, 1, 2, 3, 4, 8, 9, 100, 101, 102, 103])
    return small | st.integers(0, 2 ** NUMBERS[kind] - 1)


def fields(layout, names=NAMES):
    return st.tuples(*(field(each.rpartition(":")[2], names) for each in layout.split()))


MESSAGES = st.sampled_from(sorted(REQUESTS)).flatmap(lambda kind: st.tuples(st.just(kind), fields(REQUESTS[kind])))


@given(
    st.sampled_from(sorted({**REQUESTS, **NOTICES})).flatmap(
        lambda kind: st.tuples(st.just(kind), fields({**REQUESTS, **NOTICES}[kind], st.binary(max_size=50)))
    )
)
def test_what_is_written_is_read(message):
    kind, values = message
    data = encode(kind, 5, values)
    assert HEADER.unpack_from(data) == (len(data), kind, 5)
    assert tuple(decode(kind, data[HEADER.size :])) == values


@given(MESSAGES, st.data())
def test_a_message_of_another_length_is_none(message, data):
    body = encode(message[0], 1, message[1])[HEADER.size :]
    with pytest.raises(ValueError):
        decode(message[0], body + b"x")
    if body:
        with pytest.raises(ValueError):
            decode(message[0], body[: data.draw(st.integers(0, len(body) - 1))])


def test_responses_byte_for_byte():
    assert encode_response(Type.MOUNT, 0x102, 0, (1, 0o40755)).hex() == "17000000800201000000000100000000000000ed410000"
    entries = [Listed(2, 8, b"ab"), Listed(1 << 63, 4, b"")]
    wanted = struct.pack("<IBHII", 15 + 13 + 11, 0x83, 7, 0, 2) + struct.pack("<QBH", 2, 8, 2) + b"ab"
    assert encode_response(Type.READDIR, 7, 0, (entries,)) == wanted + struct.pack("<QBH", 1 << 63, 4, 0)
    assert set(RESPONSES) == set(REQUESTS) and len(REQUESTS) == 17


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x07",
        struct.pack("<IB", 7, 0),
        struct.pack("<IBH", 7, 0x55, 3),
        struct.pack("<IBH", 7, 0x20, 3),
        struct.pack("<IBH", 7, 0x81, 3),
        struct.pack("<IBH", 8, 0x10, 3),
        struct.pack("<IBH", 6, 0x10, 3),
        struct.pack("<IBH", 0xFFFFFFFF, 0x10, 3),
        struct.pack("<IBHH", 9, 0, 3, 5),
        struct.pack("<IBHQQI", 27, 8, 3, 1, 0, 1),
        struct.pack("<IBHQQI", 28, 8, 3, 1, 0, 0) + b"x",
    ],
    ids=lambda message: message.hex() or "empty",
)
def test_what_is_no_request_is_answered_and_logged(share, message):
    guest = Client(share)
    tag = struct.unpack_from("<H", message, 5)[0] if len(message) >= 7 else 0
    answer = guest.raw(message)
    assert struct.unpack("<IBHI", answer) == (11, 0xFF, tag, errno.EINVAL)
    assert "not a request" in guest.lines[-1]
    assert guest.raw(message, room=10) == b""
    assert guest.call(Type.MOUNT, b"")[0] == ROOT
    guest.close()


def test_a_request_without_room_for_its_response_is_not_carried_out(share):
    guest = Client(share)
    assert guest.raw(encode(Type.CREATE, 7, (ROOT, b"f", 0o644)), room=22)[4] == 0xFF
    assert guest.raw(encode(Type.UNLINK, 7, (ROOT, b"f")), room=3) == b""
    assert os.listdir(share) == []
    guest.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            MESSAGES,
            st.binary(max_size=40),
            st.integers(0, 200),
            st.sampled_from(["", "cut", "add", "byte", "bytes"]),
            st.integers(0, 60),
        ),
        max_size=30,
    ),
    st.sampled_from(["host", "memory:"]),
)
def test_whatever_a_guest_sends_it_gets_a_message_or_nothing(tmp_path_factory, calls, backend):
    place = tmp_path_factory.mktemp("hostile")
    inside = place / "share"
    inside.mkdir()
    guest = Client(inside if backend == "host" else backend)
    try:
        for (kind, values), data, room, how, at in calls:
            message = encode(kind, 7, values, len(data) if kind == Type.WRITE else 0)
            message += data if kind == Type.WRITE else b""
            message = {
                "": message,
                "cut": message[:at],
                "add": message + data,
                "byte": message[:at] + b"\xff" + message[at + 1 :],
                "bytes": data,
            }[how]
            answer = guest.raw(message, room=room)
            assert len(answer) <= room
            if answer:
                size, got, _ = HEADER.unpack_from(answer)
                assert size == len(answer) and (got == 0xFF or got & 0x80)
        assert guest.call(Type.MOUNT, b"")[0] == ROOT
        assert os.listdir(place) == ["share"]
    finally:
        guest.close()


class Slow:
    """An adapter that answers when it is told to."""

    def __init__(self):
        self.waiting = []

    def lookup(self, reply, parent, name):
        self.waiting.append((reply, name))

    def read(self, reply, handle, offset, size, buffers):
        self.waiting.append((reply, buffers))

    def getattr(self, reply, inode):
        raise PermissionError(errno.EACCES, "no")


class SlowDevice(V86fsDevice):
    def adapter(self):
        self.slow = Slow()
        return self.slow


def test_an_adapter_answers_later_and_out_of_order(share):
    from ninep_client import request

    guest = Client("", SlowDevice)
    finished, sent = [], []
    for tag, name in ((1, b"first"), (2, b"second"), (3, b"third")):
        made, answer = request(encode(Type.LOOKUP, tag, (ROOT, name)), 100)
        guest.device.handle(made)
        assert made.deferred and made.written == 0
        made.finish = lambda tag=tag: finished.append(tag)
        sent.append((made, answer))
    assert guest.call(Type.MOUNT, b"")[0] == ROOT  # others are answered meanwhile, and by the tree in memory
    for place, inode in ((1, 20), (0, 10), (2, 30)):
        guest.device.slow.waiting[place][0](0, inode, 0o100644, 5)
    assert finished == [2, 1, 3]
    for (made, answer), (tag, inode) in zip(sent, ((1, 10), (2, 20), (3, 30)), strict=True):
        assert struct.unpack("<IBHIQIQ", answer[: made.written]) == (31, 0x81, tag, 0, inode, 0o100644, 5)
    with pytest.raises(RuntimeError):
        guest.device.slow.waiting[0][0](0, 1, 1, 1)
    made, answer = request(encode(Type.READ, 9, (1, 0, 5)), 100)
    guest.device.handle(made)
    reply, buffers = guest.device.slow.waiting[-1]
    b"".join(buffers)
    at = 0
    for buffer in buffers:
        buffer[:] = b"hello"[at : at + len(buffer)]
        at += len(buffer)
    reply(0, 5)
    assert bytes(answer[: made.written]) == struct.pack("<IBHII", 20, 0x86, 9, 0, 5) + b"hello"
    assert guest.response(Type.GETATTR, ROOT)[0] == errno.EACCES
    guest.close()
