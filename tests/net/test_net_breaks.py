"""Rules for frames that a driver sends: lost, held and let go, in order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from card import Card, frame, header

from proto.channel import Channel
from proto.errors import DeadlineMissed
from proto.faults import TALLY_SIZE, Rule


@pytest.fixture
def card() -> Iterator[Card]:
    made = Card("stream:unix:/x")
    made.start()
    yield made
    made.close()


def keeper(card: Card) -> Channel:
    """The keeper's end of the device's channel."""
    assert card.front.channel is not None
    return card.front.channel


def rules(card: Card, tally: int, *given: dict[str, Any]) -> None:
    """These from now on."""
    made = [Rule.parse({"device": "dev0", "slot": slot, **rule}).as_dict() for slot, rule in enumerate(given)]
    keeper(card).send("RULES", {"rules": made}, {"rules": tally})
    until(card, lambda body: body["rules"] == len(made))


def until(card: Card, condition: Any) -> dict[str, Any]:
    end = time.monotonic() + 10
    while True:
        packet = keeper(card).recv(max(0.0, end - time.monotonic()))
        packet.close()
        if packet.kind == "HELD" and condition(packet.body):
            return packet.body


def send(card: Card, number: int) -> None:
    card.put(1, [header() + frame(bytes([number]) * 60)], [])
    card.front.notify(card.queues[1])


def test_frames_are_lost_held_and_sent(card: Card) -> None:
    tally = os.memfd_create("tally")
    os.ftruncate(tally, TALLY_SIZE)
    rules(card, tally, {"match": "op == SEND", "action": "drop", "every": 3})
    for number in range(1, 8):
        send(card, number)
        card.front.wait_used(card.queues[1])
    assert [card.wire.recv(2000)[26] for _ in range(5)] == [1, 2, 4, 5, 7]
    rules(card, tally)
    rules(card, tally, {"match": "op == SEND", "count": 1, "slot": 1})
    send(card, 8)
    held = until(card, lambda body: len(body["held"]) == 1)["held"][0]
    send(card, 9)
    card.wire.settimeout(0.3)
    with pytest.raises(TimeoutError):
        card.wire.recv(2000)
    with pytest.raises(DeadlineMissed):
        card.front.wait_used(card.queues[1], 0.2)
    key = [held["queue"], held["number"]]
    keeper(card).send("HELD", {"then": "go", "keys": [key], "data": b"", "offset": 0})
    card.wire.settimeout(10)
    assert [card.wire.recv(2000)[26] for _ in range(2)] == [8, 9]
    rules(card, tally)
    send(card, 10)
    assert card.wire.recv(2000)[26] == 10
    os.close(tally)
