"""Rules for frames that a driver sends, and for those that come for it: lost, held, late, changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from card import OTHER, Card, frame, header

from proto.channel import Channel
from proto.errors import DeadlineMissed
from proto.faults import RULES_SIZE, TALLY_SIZE, Rule, Tally
from proto.room import BLOCK, BLOCKS


@pytest.fixture
def card() -> Iterator[Card]:
    made = Card("user")
    made.start()
    yield made
    made.close()


def keeper(card: Card) -> Channel:
    """The keeper's end of the device's channel."""
    assert card.front.channel is not None
    return card.front.channel


@pytest.fixture
def tally() -> Iterator[int]:
    """The segment that the keeper holds for a device's rules."""
    fd = os.memfd_create("rules")
    os.ftruncate(fd, RULES_SIZE)
    yield fd
    os.close(fd)


def rules(card: Card, tally: int, *given: dict[str, Any]) -> None:
    """These from now on. None first: what the card has said of earlier ones may count as many."""
    made = [Rule.parse({"device": "dev0", "slot": slot, **rule}).as_dict() for slot, rule in enumerate(given)]
    _tell(card, tally, [])
    if made:
        _tell(card, tally, made)


def _tell(card: Card, tally: int, made: list[dict[str, Any]]) -> None:
    keeper(card).send("RULES", {"rules": made}, {"rules": tally})
    until(card, lambda body: body["rules"] == len(made))


def until(card: Card, condition: Any) -> dict[str, Any]:
    end = time.monotonic() + 60
    while True:
        packet = keeper(card).recv(max(0.0, end - time.monotonic()))
        packet.close()
        if packet.kind == "HELD" and condition(packet.body):
            return packet.body


def send(card: Card, number: int) -> None:
    card.put(1, [header() + frame(bytes([number]) * 60)], [])
    card.front.notify(card.queues[1])


def come(card: Card, *numbers: int) -> None:
    """Frames come from outside."""
    for number in numbers:
        card.wire.send(header() + frame(bytes([number]) * 60))


def order(card: Card, then: str, *rows: dict[str, Any], data: bytes = b"", offset: int = 0) -> None:
    keys = [[row["queue"], row["number"]] for row in rows]
    keeper(card).send("HELD", {"then": then, "keys": keys, "data": data, "offset": offset})


def got(card: Card, count: int) -> list[int]:
    """What the driver has received: a byte of each frame."""
    return [card.receive()[1][14] for _ in range(count)]


def test_frames_are_lost_held_and_sent(card: Card, tally: int) -> None:
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
    card.wire.settimeout(60)
    assert [card.wire.recv(2000)[26] for _ in range(2)] == [8, 9]
    rules(card, tally)
    send(card, 10)
    assert card.wire.recv(2000)[26] == 10


def test_frames_that_are_sent_are_changed(card: Card, tally: int) -> None:
    """On the cable is what the rule has made of it; the driver's memory stays as it is."""
    rules(
        card, tally, {"match": "op == SEND", "action": "set ff@26"}, {"match": "bytes > 100", "action": "set aabb@-1"}
    )
    send(card, 1)
    card.front.wait_used(card.queues[1])
    sent = card.wire.recv(2000)
    assert (sent[26], sent[27], len(sent)) == (0xFF, 1, 12 + 14 + 60)
    slot = card.put(1, [header() + frame(bytes([2]) * 60)[:30], frame(bytes([2]) * 60)[30:]], [])
    card.front.notify(card.queues[1])
    card.front.wait_used(card.queues[1])
    assert card.wire.recv(2000)[24:28] == bytes([0x88, 0xB5, 0xFF, 2]) and slot == 1


def test_frames_that_come_are_lost_changed_and_late(card: Card, tally: int) -> None:
    card.offer(*[2000] * 14)
    rules(
        card,
        tally,
        {"match": f"op == RECEIVE and src == '{OTHER.hex(':')}'", "action": "drop", "every": 3},
        {"match": "op == RECEIVE", "at": "complete", "action": "set ff@26", "skip": 1, "count": 1},
    )
    come(card, 1, 2, 3, 4)
    assert got(card, 3) == [1, 0xFF, 4]
    rules(card, tally, {"match": "op == RECEIVE", "action": "delay=300ms", "count": 1, "slot": 2})
    begun = time.monotonic()
    come(card, 5, 6, 7)
    assert got(card, 3) == [6, 7, 5]  # others pass it
    assert time.monotonic() - begun >= 0.3
    rules(card, tally, {"match": "op == RECEIVE", "action": "fail", "count": 1, "slot": 3})
    come(card, 8, 9)
    assert got(card, 1) == [9]
    rules(card, tally)
    come(card, 10)
    assert got(card, 1) == [10]


def test_frames_that_come_are_held_and_let_go(card: Card, tally: int) -> None:
    """Step by step; one is changed by hand, one dropped, one held again before complete; without a rule all go on."""
    card.offer(*[2000] * 10)
    both = {"match": "op == RECEIVE"}, {"match": "op == RECEIVE", "at": "complete", "count": 1}
    rules(card, tally, *both)
    come(card, 1, 2, 3, 4)
    first, second, third, fourth = until(card, lambda body: len(body["held"]) == 4)["held"]
    assert (first["op"], first["at"], first["queue"]) == ("RECEIVE", "pop", 0) and "IPv" not in first["words"]
    assert [row["number"] for row in (second, third, fourth)] == [first["number"] + n for n in (1, 2, 3)]
    order(card, "go", first)
    again = until(card, lambda body: any(row["at"] == "complete" for row in body["held"]))["held"]
    assert [row["number"] for row in again if row["at"] == "complete"] == [first["number"]]
    order(card, "go", first)
    assert got(card, 1) == [1]
    order(card, "change", third, data=b"\xee", offset=26)
    assert got(card, 1) == [0xEE]
    order(card, "drop", second)
    until(card, lambda body: [row["number"] for row in body["held"]] == [fourth["number"]])
    rules(card, tally)
    assert got(card, 1) == [4]


def test_a_held_frame_waits_for_buffers_and_for_a_successor(card: Card, tally: int) -> None:
    """A killed process's successor holds what was held, counts it once, and delivers what was let go."""
    rules(card, tally, {"match": "op == RECEIVE", "count": 2})
    come(card, 1, 2)
    held = until(card, lambda body: len(body["held"]) == 2)["held"]
    card.kill()
    assert card.front.channel is not None
    made = [Rule.parse({"device": "dev0", "match": "op == RECEIVE", "count": 2}).as_dict()]
    keeper(card).send("RULES", {"rules": made}, {"rules": tally})
    again = until(card, lambda body: len(body["held"]) == 2)["held"]
    assert [(row["number"], row["since"]) for row in again] == [(row["number"], row["since"]) for row in held]
    assert Tally(memoryview(os.pread(tally, TALLY_SIZE, 0))).counts(0)[1] == 2
    order(card, "go", again[0])
    until(card, lambda body: len(body["held"]) == 1)
    card.offer(2000)
    assert got(card, 1) == [1]
    card.offer(2000)
    come(card, 4)
    assert got(card, 1) == [4]
    order(card, "go", again[1])
    card.offer(2000)
    assert got(card, 1) == [2]


def test_the_room_for_held_frames_has_an_end(card: Card, tally: int) -> None:
    """What finds no room is lost; the card goes on."""
    rules(card, tally, {"match": "op == RECEIVE and bytes > 60000"})
    big = header() + frame(bytes(65000))
    fits = BLOCKS // (-(-len(big) // BLOCK))
    for _ in range(fits + 3):
        card.wire.send(big)
    until(card, lambda body: len(body["held"]) == fits)
    card.offer(2000)
    come(card, 1)
    assert got(card, 1) == [1]
