"""The console at its rings: ports, their ends, control messages, kills, and a driver that says nonsense."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from console_card import CONTROL, ConsoleCard, queue_of, wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.console.spec import Port, format_ports, parse_port, parse_ports
from proto.errors import ConfigError, DeadlineMissed
from proto.virtio import ConsoleEvent, ConsoleFeature, bit

MAX = 4096
Make = Callable[[str], ConsoleCard]


@pytest.fixture
def card() -> Iterator[Make]:
    made: list[ConsoleCard] = []

    def make(ports: str) -> ConsoleCard:
        made.append(ConsoleCard(ports).start())
        return made[-1]

    yield make
    for one in made:
        one.close()


# -- words -------------------------------------------------------------------------------------------------------------


def test_ports_as_text_and_back() -> None:
    text = "stdio,size=80x24;socket:/tmp/a,name=org.example.a;pty;file:/tmp/b,input=/tmp/c"
    assert format_ports(parse_ports(text)) == text
    assert parse_port("pty,size=1x2,name=x") == Port("pty", name="x", columns=1, rows=2)


@pytest.mark.parametrize(
    "text",
    [
        *("", "tty", "socket", "socket:", "pty:/x", "pty,name=a b", "pty,size=0x3", "pty,colour=red", "pty,input=/x"),
        *("pty;" * 7 + "pty", "pty,name=a;pty,name=a", "file:/a;file:/a", "stdio;stdio"),
    ],
)
def test_ports_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_ports(text)


# -- a driver and its ports --------------------------------------------------------------------------------------------


def test_the_driver_is_told_of_every_port(card: Make) -> None:
    made = card("pty,size=80x24;socket:/a,name=org.example.a")
    assert made.front.hello["features"] & bit(ConsoleFeature.SIZE)
    assert struct.unpack("<HHI", made.front.hello["config"][:8]) == (80, 24, 2)
    for port in (0, 1):
        assert made.hear(port, ConsoleEvent.DEVICE_ADD) == (0, b"")
    assert made.hear(0, ConsoleEvent.CONSOLE_PORT) == (1, b"")
    assert made.hear(0, ConsoleEvent.RESIZE) == (0, struct.pack("<HH", 80, 24))
    assert made.hear(0, ConsoleEvent.PORT_OPEN) == (1, b"")
    assert made.hear(1, ConsoleEvent.PORT_NAME) == (1, b"org.example.a")
    assert made.hear(1, ConsoleEvent.PORT_OPEN) == (0, b"")
    client = made.connect(1)
    assert made.hear(1, ConsoleEvent.PORT_OPEN) == (1, b"")
    client.close()
    assert made.hear(1, ConsoleEvent.PORT_OPEN) == (0, b"")


def test_bytes_go_both_ways_through_every_kind_of_end(card: Make, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"from a file")
    made = card(f"stdio;pty;socket:/s;file:/f,input={tmp_path}/in")
    client = made.connect(2)
    while made.hear(2, ConsoleEvent.PORT_OPEN) != (1, b""):
        pass
    for port in range(4):
        made.send(port, b"out of the guest")
        made.offer(queue_of(port), MAX)
    assert made.ends[0].recv(100) == os.read(made.ends[1], 100) == client.recv(100) == b"out of the guest"
    assert made.ends[3].read_bytes() == b"out of the guest"
    made.ends[0].sendall(b"stdio")
    os.write(made.ends[1], b"pty")
    client.sendall(b"socket")
    assert [made.receive(port) for port in range(4)] == [b"stdio", b"pty", b"socket", b"from a file"]


def test_an_end_is_read_only_while_the_guest_has_posted_a_buffer(card: Make) -> None:
    made = card("pty;stdio")
    made.ends[1].setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += made.ends[1].send(b"x" * 1000)
    made.send(0, b"served")  # time has passed in the device, and it has read nothing
    with pytest.raises(BlockingIOError):
        made.ends[1].send(b"x")
    got = 0
    while got < sent:
        made.offer(queue_of(1), MAX)
        got += len(made.receive(1))
    assert got == sent


def test_a_port_that_nobody_has_open_is_not_read(card: Make) -> None:
    made = card("pty;stdio")
    made.order(1, ConsoleEvent.PORT_OPEN, 0)
    made.ends[1].sendall(b"early")
    made.offer(queue_of(1), MAX)
    with pytest.raises(DeadlineMissed):
        made.receive(1, timeout=0.2)
    made.order(1, ConsoleEvent.PORT_OPEN, 1)
    assert made.receive(1) == b"early"


def test_a_writer_waits_for_a_reader_that_is_slow(card: Make) -> None:
    made = card("pty;stdio")
    total = 0
    made.ends[1].settimeout(0.5)
    for _ in range(40):  # more than a socket holds
        made.send(1, b"y" * 0x3000, wait=False)
        total += 0x3000
        try:
            made.front.wait_used(made.queues[queue_of(1) + 1], 0.3)
        except DeadlineMissed:
            break
    else:
        pytest.fail("nothing had to wait")
    got = 0
    while got < total:
        got += len(made.ends[1].recv(1 << 16))
    made.front.wait_used(made.queues[queue_of(1) + 1])


def test_a_console_without_a_reader_does_not_hold_the_guest(card: Make) -> None:
    made = card("pty")
    for _ in range(12):
        made.send(0, b"z" * 0x3000)
    assert os.read(made.ends[0], 100).startswith(b"z")


def test_the_emergency_register_writes_to_the_console(card: Make) -> None:
    made = card("stdio")
    made.front.request("CONFIG_SET", {"offset": 8, "data": b"!\0\0\0"})
    assert made.ends[0].recv(10) == b"!"


# -- kills -------------------------------------------------------------------------------------------------------------


def test_kills_between_requests_lose_and_double_nothing(card: Make, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"".join(b"%05d" % number for number in range(8000)))
    made = card(f"stdio;socket:/s;file:/f,input={tmp_path}/in")
    client = made.connect(1)
    while made.hear(1, ConsoleEvent.PORT_OPEN) != (1, b""):
        pass  # at first it was closed, which may be heard or not
    read, heard, expected = b"", b"", b""
    for turn in range(5):
        made.ends[0].sendall(b"<%d>" % turn)
        client.sendall(b"[%d]" % turn)
        made.send(1, b"(%d)" % turn)
        made.send(2, b"{%d}" % turn)
        made.offer(queue_of(2), MAX)
        read += made.receive(2)
        made.kill()
        for port in (0, 1):
            made.offer(queue_of(port), MAX)
            heard += made.receive(port)
        expected += b"<%d>[%d]" % (turn, turn)
    assert heard == expected
    assert read == (tmp_path / "in").read_bytes()[: len(read)]
    assert client.recv(1000) == b"(0)(1)(2)(3)(4)"
    assert made.ends[2].read_bytes() == b"{0}{1}{2}{3}{4}"


def test_a_kill_in_the_middle_of_a_write_goes_on_where_it_was(card: Make) -> None:
    made = card("pty;stdio")
    data = os.urandom(0x3000)
    count = 0
    while True:
        made.send(1, data, wait=False)
        count += 1
        try:
            made.front.wait_used(made.queues[queue_of(1) + 1], 0.3)
        except DeadlineMissed:
            break
    made.kill()
    got = b""
    made.ends[1].settimeout(60)
    while len(got) < count * len(data):
        got += made.ends[1].recv(1 << 16)
    assert got == data * count
    made.front.wait_used(made.queues[queue_of(1) + 1])


def test_a_driver_that_resets_meets_the_ports_again(card: Make) -> None:
    made = card("pty;stdio,name=a")
    made.hear(1, ConsoleEvent.PORT_NAME)
    made.front.request("RESET")
    for layout in made.front.queues.values():
        layout.area.close()
        for place in (layout.avail, layout.used):
            made.front.ram.view[place : place + 0x2000] = bytes(0x2000)
    made.told.clear()
    made._turn.clear()
    made.front.negotiate()
    for index in made.queues:
        made.queues[index] = made.front.add_queue(index, 64, index * 0x10000)
    made.front.driver_ok()
    made.offer(2, 64, times=8)
    made.order(0, ConsoleEvent.DEVICE_READY, 1)
    made.order(1, ConsoleEvent.PORT_READY, 1)
    assert made.hear(1, ConsoleEvent.PORT_NAME) == (1, b"a")


# -- nonsense ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def victim() -> Iterator[ConsoleCard]:
    made = ConsoleCard("pty;stdio,name=other").start()
    yield made
    made.close()


numbers = st.one_of(st.integers(0, 9), st.integers(0, 0xFFFFFFFF))
messages = st.one_of(
    st.binary(max_size=20),
    st.builds(lambda port, event, value: CONTROL.pack(port, event & 0xFFFF, value & 0xFFFF), numbers, numbers, numbers),
)


@given(said=st.lists(messages, min_size=1, max_size=6), room=st.integers(32, 70))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_control_message_is_survived(victim: ConsoleCard, said: list[bytes], room: int) -> None:
    for message in said:
        if message:
            victim.put(3, [message], [])
            victim.front.notify(victim.queues[3])
            victim.front.wait_used(victim.queues[3])
    victim.offer(2, room)
    victim.order(1, ConsoleEvent.PORT_READY, 1)
    victim.order(1, ConsoleEvent.PORT_OPEN, 1)
    victim.told.clear()
    assert victim.hear(1, ConsoleEvent.PORT_NAME)
    victim.send(1, b"alive")
    assert victim.ends[1].recv(100) == b"alive"


def test_a_client_that_comes_after_a_kill_is_taken(card: Make) -> None:
    made = card("socket:/s")
    made.connect(0).close()
    made.keep_stored()
    made.kill()
    client = made.connect(0)
    made.offer(0, MAX)
    client.sendall(b"hello")
    assert made.receive(0) == b"hello"
    wait_for(lambda: made.front.process is not None and made.front.process.poll() is None, "a device that lives")
