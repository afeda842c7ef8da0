"""The core believes nothing a device says: nonsense is refused, floods wait their turn, old epochs mean nothing."""

from __future__ import annotations

from typing import Any

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from core.link import BATCH, LOG_BURST, DeviceLink, Region
from launcher.keeper.heard import LONGEST_LINE, check, line_of, log_throttle, report_of
from proto.errors import ProtocolError
from proto.messages import MESSAGES, encode

VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


class Socket:
    """What ZeroMQ has received, without ZeroMQ."""

    def __init__(self, messages: list[bytes]) -> None:
        self.messages = messages
        self.sent: list[bytes] = []

    def getsockopt(self, _: int) -> int:
        return zmq.POLLIN if self.messages else 0

    def recv(self, _: int) -> bytes:
        return self.messages.pop(0)

    def send(self, data: bytes, _: int) -> None:
        self.sent.append(data)

    def close(self, _: int = 0) -> None:
        pass


class Port:
    """Fails at whatever the link does with it without a session."""

    status = driver_features = 0

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the link called {name}")


def link(messages: list[bytes], reports: list[tuple[str, dict[str, Any]]]) -> DeviceLink:
    regions = [Region(0, 0x8000_0000, 0x10_0000)]
    made = DeviceLink(None, "blk0", Port(), regions, lambda kind, body: reports.append((kind, body)), 64)  # type: ignore[arg-type]
    made.epoch, made.dead, made.socket = 3, False, Socket(messages)  # type: ignore[assignment]
    return made


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=20))
def test_garbage_is_reported_and_dropped(messages: list[bytes]) -> None:
    reports: list[tuple[str, dict[str, Any]]] = []
    subject = link(list(messages), reports)
    subject.receive()
    assert subject.received == len(messages) and not subject.up
    assert {kind for kind, _ in reports} <= {"LOG"}


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(MESSAGES)), body=VALUES, seq=st.integers(0, 99), reply=st.booleans(), epoch=st.just(2)
)
def test_a_stale_epoch_can_do_nothing(name: str, body: Any, seq: int, reply: bool, epoch: int) -> None:
    """Whatever its messages say, and whether they are right."""
    try:
        data = encode(name, body if isinstance(body, dict) else {}, epoch=epoch, seq=seq, reply=reply)
    except ProtocolError:
        return
    reports: list[tuple[str, dict[str, Any]]] = []
    subject = link([data], reports)
    subject.receive()
    assert reports == [] and not subject.up


def test_a_flood_waits_for_its_turn_and_its_log_is_bounded() -> None:
    reports: list[tuple[str, dict[str, Any]]] = []
    subject = link([b"garbage"] * 10_000, reports)
    subject.receive()
    assert subject.received == BATCH
    for _ in range(10_000 // BATCH + 1):
        subject.receive()
    assert subject.received == 10_000
    assert LOG_BURST <= len(reports) < 2 * LOG_BURST


@settings(deadline=None)
@given(kind=st.sampled_from(["STATE", "LOG", "FAILED", "UNSTORE"]), body=st.dictionaries(st.text(max_size=8), VALUES))
def test_the_keeper_takes_packets_of_their_kind_only(kind: str, body: dict[str, Any]) -> None:
    try:
        check(kind, body)
    except ProtocolError:
        return
    assert isinstance(body.get("state") or "", str) or kind != "STATE"


@pytest.mark.parametrize("body", [{"text": 5}, {"id": []}, {"text": b"x"}])
def test_a_line_that_is_no_text_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        check("LOG", body)


@settings(deadline=None)
@given(VALUES)
def test_a_report_is_a_report_or_nothing(value: Any) -> None:
    found = report_of({"sandbox": value})
    assert found is None or (isinstance(found["in_force"], dict) and isinstance(found["missing"], dict))


def test_lines_that_were_too_many_are_counted() -> None:
    throttle = log_throttle()
    lines = [line_of("x" * 9999, throttle) for _ in range(5000)]
    written = [line for line in lines if line is not None]
    assert 1000 <= len(written) < 2000
    assert all(len(line) <= LONGEST_LINE for line in written)
