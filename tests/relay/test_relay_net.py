"""A network card behind a relay: frames both ways, what the driver orders, and deaths and a lost line in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from card import MAC, OTHER, frame, header
from relay_card import RelayCard

from devproc.net.backend import Word
from devproc.net.device import NetConfig
from proto.virtio import NET_ERR, NET_OK, NetControl, NetStatus

Start = Callable[..., RelayCard]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[RelayCard] = []

    def begin(backend: str = "user", **more: Any) -> RelayCard:
        made.append(RelayCard(tmp_path, backend, **more))
        made[-1].start()
        return made[-1]

    yield begin
    for card in made:
        card.close()


def outgoing(number: int) -> bytes:
    return frame(b"frame %d" % number, to=OTHER, source=MAC)


def test_frames_go_both_ways_in_order(start: Start) -> None:
    card = start()
    card.offer(*[1500] * 12)
    for number in range(8):
        card.begin_send(header(), outgoing(number))
    for number in range(8):
        assert card.wire.recv(70000) == header() + outgoing(number)
        card.front.wait_used(card.queues[1])
    card.wire.send(header() + frame(bytes(range(250)) * 40))
    card.wire.send(header() + frame(b"small"))
    fields, data = card.receive()
    assert fields[6] == 7 and data == frame(bytes(range(250)) * 40)
    assert card.receive()[1] == frame(b"small")


def test_a_frame_waits_until_enough_buffers_were_lent(start: Start) -> None:
    card = start()
    payload = bytes(range(200)) * 20
    card.wire.send(header() + frame(payload))
    for _ in range(3):
        card.offer(1500)
    assert card.receive()[1] == frame(payload)


def test_orders_and_the_link(start: Start) -> None:
    card = start()
    new = bytes.fromhex("525400aabbcc")
    assert card.order(NetControl.MAC, 1, new) == NET_OK
    assert card.order(NetControl.MAC, 1, b"short") == NET_ERR
    config = card.front.request("CONFIG_GET")["config"]
    assert config[:6] == new
    at = NetConfig.offset("mtu")
    assert int.from_bytes(config[at : at + 2], "little") == 32768
    card.wire.send(int(Word.DOWN).to_bytes(4, "little"))
    while not (changed := [m for m in card.front.posted if m.name == "CONFIG_CHANGED"]):
        card.front.sleep(60)
    at = NetConfig.offset("status")
    assert not changed[-1].body["config"][at] & NetStatus.LINK_UP


@pytest.mark.slow
@pytest.mark.parametrize("who", ["relay", "card", "both"])
def test_kill_9_of_either_side(start: Start, who: str) -> None:
    """What was taken from the driver is sent; the driver's orders and its receive buffers are still there."""
    card = start()
    new = bytes.fromhex("525400aabbcc")
    card.order(NetControl.MAC, 1, new)
    card.offer(*[1500] * 6)
    card.wire.send(header() + frame(b"before", to=new))
    assert card.receive()[1] == frame(b"before", to=new)
    if who != "relay":
        card.far.kill()
    card.begin_send(header(), outgoing(0))
    card.begin_send(header(), outgoing(1))
    if who != "card":
        card.front.kill()
        card.front.start()
        card.front.replay()
    if who != "relay":
        card.far.start()
    sent: list[bytes] = []
    while outgoing(1) not in sent:
        if len(data := card.wire.recv(70000)) != 4:  # a word about the link
            sent.append(data[len(header()) :])
    assert list(dict.fromkeys(sent)) == [outgoing(0), outgoing(1)]  # a frame may come twice, as on any network
    for _ in range(2):
        card.front.wait_used(card.queues[1])
    for number in range(3):
        card.wire.send(header() + frame(b"after %d" % number, to=new))
    for number in range(3):
        assert card.receive()[1] == frame(b"after %d" % number, to=new)
    assert card.front.request("CONFIG_GET")["config"][:6] == new
