"""Whatever stands behind a relay says, at worst it answers its own requests wrongly, each of them once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.relay.device import RelayDevice
from devproc.request import Buffer, Request
from proto.errors import ProtocolError
from proto.relay import HEADER_SIZE, MAX_MESSAGE, MESSAGES, decode, encode

ROOM = 64  # writable bytes of each request, between fences of as many
COUNT = 6
ABOUT = {
    "device_id": 2,
    "queues": [256],
    "passive": [],
    "features": 0,
    "config": b"c" * 8,
    "generation": 0,
    "requests": 4,
    "bytes": 1 << 20,
}


class Bench:
    """A relay with requests in flight, in this process; what the other side says is put into its line by hand."""

    def __init__(self, folder: Path) -> None:
        self.device = device = RelayDevice("blk0", {"endpoint": f"ipc://{folder}/nobody"})
        device.away = device.log = lambda *_: None  # type: ignore[method-assign]
        device._about = dict(ABOUT)
        device._pump = lambda *_: True  # type: ignore[method-assign]
        device.start()
        self.finished: list[int] = []
        self.memory = bytearray(b"\xee" * (ROOM * (2 * COUNT + 1)))
        self.up()
        for number in range(COUNT):
            device.handle(self._request(number))

    def _request(self, number: int) -> Request:
        at = ROOM * (2 * number + 1)
        request = Request(
            0,
            number,
            [],
            [Buffer(0, at, ROOM)],
            lambda region, offset, length: memoryview(self.memory)[offset : offset + length],
            number=number,
        )
        request.finish = lambda: self.finished.append(number)
        return request

    def up(self) -> None:
        """As after READY; what is said goes nowhere."""
        line = self.device._line
        line.known = line.up = True
        line._say = lambda name, body=None: True  # type: ignore[method-assign]
        self.device._send_rest()

    def hear(self, data: bytes) -> None:
        line = self.device._line
        line._take(data)
        if not line.up:
            self.up()

    def check(self) -> None:
        for number in range(COUNT + 1):
            fence = self.memory[ROOM * 2 * number : ROOM * (2 * number + 1)]
            assert fence == b"\xee" * ROOM
        assert len(set(self.finished)) == len(self.finished)


def answer(counter: int, size: int, queue: int = 0) -> dict[str, Any]:
    return {
        "queue": queue,
        "counter": counter,
        "data": b"x" * size,
        "failed": False,
        "bytes_read": size,
        "bytes_written": 0,
    }


NONSENSE = st.one_of(
    st.builds(lambda c, n, q: ("ANSWER", answer(c, n, q)), st.integers(0, 9), st.integers(0, 200), st.integers(0, 2)),
    st.builds(lambda n: ("CONFIG", {"number": n, "config": b"z" * (n % 12), "generation": n}), st.integers(0, 99)),
    st.builds(lambda n: ("READY", {"config": b"y" * n, "generation": 1}), st.integers(0, 16)),
    st.builds(lambda n: ("ABOUT", {**ABOUT, "device_id": n, "requests": n % 2}), st.integers(0, 40)),
    st.just(("REFUSED", {"text": "no"})),
    st.just(("PONG", {})),
    st.just(("LOG", {"level": 20, "text": "words"})),
    st.binary(max_size=100),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(NONSENSE, max_size=30), flips=st.lists(st.integers(0, 200), max_size=4))
def test_a_rogue_cannot_hurt_the_relay(tmp_path: Path, said: list[Any], flips: list[int]) -> None:
    bench = Bench(tmp_path)
    try:
        for number, one in enumerate(said):
            session = bench.device._line._session
            data = one if isinstance(one, bytes) else encode(*one, session=session)
            if number in flips and data:
                at = flips[0] % len(data)
                data = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
            bench.hear(data)
            bench.check()
        for number in range(COUNT):  # and then somebody honest
            if number not in bench.finished:
                bench.hear(encode("ANSWER", answer(number, ROOM), session=bench.device._line._session))
        bench.check()
        assert sorted(bench.finished) == list(range(COUNT))
    finally:
        bench.device.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.device.stop()


@pytest.mark.parametrize(
    "rogue",
    [
        lambda: answer(0, ROOM + 1),  # too long
        lambda: answer(77, 1),  # of a request that was never made
        lambda: answer(5, 1),  # of one that was not sent: it takes four at a time
        lambda: answer(0, 1, queue=1),
    ],
)
def test_nonsense_ends_the_session_and_changes_nothing(bench: Bench, rogue: Callable[[], dict[str, Any]]) -> None:
    before = bytes(bench.memory)
    session = bench.device._line._session
    bench.device._line._take(encode("ANSWER", rogue(), session=session))
    assert not bench.device._line.up and not bench.finished and bytes(bench.memory) == before
    bench.up()
    bench.hear(encode("ANSWER", answer(0, 1), session=session))  # of a session that is over
    bench.check()


def test_an_answer_counts_once(bench: Bench) -> None:
    said = encode("ANSWER", answer(1, 8), session=bench.device._line._session)
    bench.device._line._take(said)
    assert bench.finished == [1] and bench.device._line.up
    bench.device._line._take(said)
    assert bench.finished == [1] and not bench.device._line.up


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_refused_from_the_wrong_side_and_when_it_is_cut(name: str) -> None:
    from tests.fuzz.link import _example

    row = MESSAGES[name]
    data = encode(name, _example(row.body), session=9)  # type: ignore[arg-type]
    assert decode(data, row.sender).body == _example(row.body)
    with pytest.raises(ProtocolError):
        decode(data, "relay" if row.sender == "device" else "device")
    for cut in (0, HEADER_SIZE - 1, len(data) - 1):
        with pytest.raises(ProtocolError):
            decode(data[:cut], row.sender)
    with pytest.raises(ProtocolError):
        decode(data + bytes(MAX_MESSAGE), row.sender)
