"""A packet arrives whole, with its descriptors under their names, or not at all."""

from __future__ import annotations

import gc
import os
import socket

import pytest

from proto.channel import ENVIRONMENT, MAX_PACKET, Channel
from proto.errors import ChannelClosed, ConfigError, DeadlineMissed, ProtocolError


@pytest.fixture
def ends():
    ours, theirs = Channel.pair()
    with ours, theirs:
        yield ours, theirs


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_packet_carries_values_and_descriptors(ends):
    ours, theirs = ends
    reading, writing = os.pipe()
    ours.send("START", {"id": "blk0", "regions": [{"gpa": 1 << 31}]}, {"out": writing})
    os.close(writing)
    packet = theirs.recv(1)
    assert (packet.kind, packet.body) == ("START", {"id": "blk0", "regions": [{"gpa": 1 << 31}]})
    os.write(packet.fds["out"], b"x")
    assert not os.get_inheritable(packet.fds["out"])
    packet.close()
    assert os.read(reading, 10) == b"x"
    os.close(reading)


def test_the_end_of_the_other_process_is_noticed(ends):
    ours, theirs = ends
    ours.close()
    with pytest.raises(ChannelClosed):
        theirs.recv(1)
    with pytest.raises(ChannelClosed):
        theirs.send("READY")


def test_a_wait_has_a_deadline(ends):
    with pytest.raises(DeadlineMissed):
        ends[0].recv(0)


def test_an_enormous_packet_is_refused_by_the_sender(ends):
    with pytest.raises(ProtocolError):
        ends[0].send("LOG", {"text": "x" * MAX_PACKET})


@pytest.mark.parametrize("data", [b"\xc1", b"\x01", b"\x93\xa1k\x80\xa1n", b"\x93\xa1k\x80\x91\xa1n"])
def test_a_malformed_packet_is_refused_and_leaks_no_descriptor(data):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, Channel(right) as channel:
        gc.collect()  # what other tests have left closes its descriptors now
        before = open_descriptors()
        socket.send_fds(left, [data], [0, 1])
        with pytest.raises(ProtocolError):
            channel.recv(1)
        assert open_descriptors() == before


def test_a_process_without_a_channel_says_so(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    with pytest.raises(ConfigError, match="names no channel"):
        Channel.from_environment()
