"""Whatever stands behind a relay says, at worst it answers its own requests wrongly, each of them once."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.engine import load_engine
from devproc.relay.device import RelayDevice
from devproc.relay.twin import Rings
from devproc.relay.twin_code import PAGE, Place
from devproc.rng import Entropy
from proto.errors import ProtocolError
from proto.relay import HEADER_SIZE, MAX_LOAD, MAX_MESSAGE, MESSAGES, AnswerFlag, decode, encode

ROOM = 64  # writable bytes of each request, on a page of its own
COUNT, AT_A_TIME = 6, 4
ABOUT = {
    "device_id": 2,
    "queues": [256],
    "passive": [],
    "features": 0,
    "config": b"c" * 8,
    "generation": 0,
    "bytes": AT_A_TIME * (ROOM + 64),
}
REQUEST = struct.Struct("<QIIHHHH")
ANSWER = struct.Struct("<QIIHHHH")
Answer = tuple[int, bytes, int]  # head and counter, bytes, queue


def answers(*rows: Answer, flags: int = 0) -> bytes:
    """The second frame of ANSWERS; counters are heads here."""
    packed = b""
    for number, data, queue in rows:
        record = ANSWER.pack(number % (1 << 64), len(data), 0, number % (1 << 16), queue, flags, 0)
        packed += record + data + bytes(-len(data) % 8)
    return packed


class Bench:
    """A relay with requests in flight, in this process: the twin of a ring plays the guest. What the other side says is
    put into its line by hand."""

    def __init__(self, folder: Path) -> None:
        self.device = device = RelayDevice("blk0", {"endpoint": f"ipc://{folder}/nobody"})
        device.away = device.log = lambda *_: None  # type: ignore[method-assign]
        device._about = dict(ABOUT)
        device._pump = lambda *_: True  # type: ignore[method-assign]
        device.start()
        self.rings = rings = Rings(device, load_engine())
        rings.begin()
        self.memory = rings._memory.slice(0, rings.twin.arena, COUNT * PAGE)
        self.memory[:] = b"\xee" * len(self.memory)
        requests = b"".join(REQUEST.pack(number, 0, ROOM, number, 0, 0, 0) for number in range(COUNT))
        self._requests = ctypes.create_string_buffer(requests, len(requests))
        assert rings.place(ctypes.addressof(self._requests), len(requests), 0)[0] == Place.ALL
        self.finished: list[int] = []
        self.sent: list[bytes] = []
        self.up()

    @property
    def life(self) -> int:
        return self.device._life

    def up(self) -> None:
        """As after READY; what is said goes nowhere."""
        line = self.device._line
        line.known = line.up = True
        line._session += 1

        def say(name: str, body: Any = None, load: memoryview | None = None) -> bool:
            self.sent.append(bytes(load or b""))
            return True

        line._say = say  # type: ignore[method-assign]
        self.device._go_on()
        self.turn()

    def turn(self) -> None:
        """Let the relay look at its rings, and the guest at what was given back."""
        self.rings.turn()
        records, more = self.rings.collect(again=False)
        assert not more
        at = 0
        while at < len(records):
            number, written, *_ = ANSWER.unpack_from(records, at)
            self.finished.append(number)
            at += ANSWER.size + (written + 7 & ~7)

    def hear(self, data: bytes, load: bytes | None = None) -> None:
        line = self.device._line
        line._take(data, load)
        if not line.up:
            self.up()
        self.turn()

    def answer(self, *rows: Answer, session: int = 0) -> None:
        """ANSWERS."""
        body = {"life": self.life, "moved": []}
        self.hear(encode("ANSWERS", body, session=session or self.device._line._session), answers(*rows))

    def check(self) -> None:
        for number in range(COUNT):
            fence = self.memory[PAGE * number + ROOM : PAGE * (number + 1)]
            assert fence == b"\xee" * (PAGE - ROOM)
        assert len(set(self.finished)) == len(self.finished)

    def close(self) -> None:
        self.device.stop()


def _answers(rows: list[Answer], flags: int, life: bool, moved: int) -> Any:
    return "ANSWERS", {"life": life, "moved": [{"queue": 0, "read": moved, "written": 0}]}, answers(*rows, flags=flags)


_ROW = st.tuples(st.integers(0, 9), st.binary(max_size=200), st.integers(0, 17))
NONSENSE = st.one_of(
    st.builds(
        _answers,
        st.lists(_ROW, max_size=4),
        st.sampled_from([0, AnswerFlag.MORE, 0xFFFF]),
        st.booleans(),
        st.integers(0, (1 << 64) - 1),
    ),
    st.builds(lambda load: ("ANSWERS", {"life": True, "moved": []}, load), st.binary(max_size=200)),
    st.builds(lambda n: ("CONFIG", {"number": n, "config": b"z" * (n % 12), "generation": n}), st.integers(0, 99)),
    st.builds(lambda n: ("READY", {"process": n, "config": b"y" * n, "generation": 1}), st.integers(0, 16)),
    st.builds(lambda n: ("ABOUT", {**ABOUT, "device_id": n, "bytes": n % 2}), st.integers(0, 40)),
    st.sampled_from([("REFUSED", {"text": "no"}), ("PONG", {}), ("BYE", {}), ("LOG", {"level": 20, "text": "words"})]),
    st.binary(max_size=100),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(said=st.lists(NONSENSE, max_size=30), flips=st.lists(st.integers(0, 200), max_size=4))
def test_a_rogue_cannot_hurt_the_relay(tmp_path: Path, said: list[Any], flips: list[int]) -> None:
    bench = Bench(tmp_path)
    try:
        for number, one in enumerate(said):
            session = bench.device._line._session
            data, load = (one, None) if isinstance(one, bytes) else (None, one[2] if len(one) == 3 else None)
            if data is None:
                name, body = one[:2]
                if "life" in body:
                    body = body | {"life": bench.life if body["life"] else 1}
                data = encode(name, body, session=session)
            if number in flips and data:
                at = flips[0] % len(data)
                data = data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]
            bench.hear(data, load)
            bench.check()
        bench.device._alone = None
        bench.up()
        for _ in range(COUNT):  # and then somebody honest
            for number in range(COUNT):
                if number not in bench.finished and bench.device._held(0, number).out:
                    bench.answer((number, b"x" * ROOM, 0))
        bench.check()
        assert sorted(bench.finished) == list(range(COUNT))
    finally:
        bench.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    "rogue",
    [
        (0, b"x" * (ROOM + 1), 0),  # too long
        (77, b"x", 0),  # of a request that was never made
        (5, b"x", 0),  # of one that was not sent: it takes four at a time
        (0, b"x", 1),
        (0xFFFF, b"x", 0),
        ((1 << 16), b"x", 0),  # another counter
    ],
)
def test_nonsense_ends_the_session_and_changes_nothing(bench: Bench, rogue: Answer) -> None:
    before = bytes(bench.memory)
    line = bench.device._line
    session = line._session
    line._take(encode("ANSWERS", {"life": bench.life, "moved": []}, session=session), answers(rogue))
    assert not line.up and bytes(bench.memory) == before
    bench.turn()
    assert not bench.finished
    bench.up()
    bench.answer((0, b"x", 0), session=session)  # of a session that is over
    bench.check()
    assert not bench.finished


def test_an_answer_counts_once(bench: Bench) -> None:
    said = encode("ANSWERS", {"life": bench.life, "moved": []}, session=bench.device._line._session)
    bench.device._line._take(said, answers((1, b"12345678", 0)))
    bench.turn()
    assert bench.finished == [1] and bench.device._line.up
    assert bench.memory[PAGE : PAGE + 9] == b"12345678\xee"
    bench.device._line._take(said, answers((1, b"12345678", 0)))
    bench.turn()
    assert bench.finished == [1] and not bench.device._line.up


def test_an_answer_of_another_life_is_none(bench: Bench) -> None:
    said = encode("ANSWERS", {"life": bench.life + 1, "moved": []}, session=bench.device._line._session)
    bench.hear(said, answers((1, b"12345678", 0)))
    assert not bench.finished and bench.device._line.up


def test_what_kills_the_device_three_times_is_refused(bench: Bench) -> None:
    """The suspect is alone with the third process; the others are carried out by the fourth."""

    def ready(process: int) -> None:
        bench.device._line.up = False
        bench.sent.clear()
        body = {"process": process, "config": ABOUT["config"], "generation": 0}
        bench.device._line._take(encode("READY", body, session=bench.device._line._session))
        bench.turn()

    def sent() -> list[int]:
        found, at, load = [], 0, b"".join(bench.sent)
        while at < len(load):
            found.append(REQUEST.unpack_from(load, at)[0])
            at += REQUEST.size
        return found

    bench.device.device_id = 2
    for process in (1, 2):
        ready(process)
        assert sent() == [0, 1, 2, 3]
    ready(3)
    assert sent() == [0]
    bench.answer((0, b"x", 0))  # it is innocent, and the next one is tried
    assert bench.finished == [0] and sent() == [0, 1]
    ready(4)
    assert bench.finished == [0, 1] and sent() == [2]
    assert bench.memory[PAGE + ROOM - 1] == 1  # VIRTIO_BLK_S_IOERR
    bench.hear(encode("BYE", session=bench.device._line._session))
    ready(5)  # it was told to end
    assert sent() == [2]
    for number in range(2, COUNT):
        bench.answer((number, b"y", 0))
    assert bench.finished == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_refused_from_the_wrong_side_and_when_it_is_cut(name: str) -> None:
    from tests.fuzz.link import _example

    row = MESSAGES[name]
    load = b"12345678" if row.loaded else None
    data = encode(name, _example(row.body), session=9)  # type: ignore[arg-type]
    assert decode(data, row.sender, load).body == _example(row.body)
    with pytest.raises(ProtocolError):
        decode(data, "relay" if row.sender == "device" else "device", load)
    for wrong in (None if row.loaded else b"", bytes(MAX_LOAD + 1)):
        with pytest.raises(ProtocolError):
            decode(data, row.sender, wrong)
    for cut in (0, HEADER_SIZE - 1, len(data) - 1):
        with pytest.raises(ProtocolError):
            decode(data[:cut], row.sender, load)
    with pytest.raises(ProtocolError):
        decode(data + bytes(MAX_MESSAGE), row.sender, load)


_RECORD = st.builds(
    lambda counter, data, writable, head, queue, error, claim: (
        REQUEST.pack(counter, claim if claim >= 0 else len(data), writable, head, queue, 0, error)
        + data
        + bytes(-len(data) % 8)
    ),
    st.integers(0, 5),
    st.binary(max_size=40),
    st.sampled_from([0, 1, 512, 5000, 1 << 22, (1 << 22) + 1, 0xFFFFFFFF]),
    st.sampled_from([0, 1, 2, 63, 64, 0xFFFF]),
    st.sampled_from([0, 0, 0, 1, 15, 16, 0xFFFF]),
    st.sampled_from([0, 0, 1, 13, 0xFFFF]),
    st.sampled_from([-1, -1, -1, 0, 100, 0xFFFFFFFF]),
)


@settings(max_examples=25, deadline=None)
@given(messages=st.lists(st.lists(_RECORD, max_size=6), max_size=12), cut=st.integers(0, 3))
def test_a_rogue_relay_cannot_hurt_the_device(messages: list[list[bytes]], cut: int) -> None:
    """Each request is answered once, with no more than it has room for, or is nonsense."""
    rings = Rings(Entropy("rng0", {}), load_engine())
    rings.begin()
    asked = 0
    for records in messages:
        load = b"".join(records)
        kept = ctypes.create_string_buffer(load[: len(load) - cut], max(1, len(load) - cut))
        found, at = rings.place(ctypes.addressof(kept), max(0, len(load) - cut), 0)
        assert found != Place.ALL or at == max(0, len(load) - cut)
        asked += len(records)
        while rings.turn():
            pass
        answered, at, more = b"", 0, True
        while more:
            said, more = rings.collect(again=False)
            answered += said
        while at < len(answered):
            _, written, _, head, queue, _, _ = ANSWER.unpack_from(answered, at)
            assert head < 64 and queue == 0 and written <= 1 << 22
            at += ANSWER.size + (written + 7 & ~7)
            asked -= 1
        assert at == len(answered) and asked >= 0
