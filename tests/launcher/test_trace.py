"""`bulkhead trace` beside a running machine: one boot, in which the disk's process is killed."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from devproc.tellers import HEADERS, amount, strip
from launcher.cli.exitcodes import ExitCode
from launcher.trace.requests import FIELDS, Follower
from launcher.trace.summary import Summary, duration
from proto.trace import NO_QUEUE, TracePoint, TraceRecord

COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROMPT = b"> "
DEADLINE = 60.0
RINGS = [
    {"id": "core", "role": "core", "device": "", "slot": None, "epoch": None},
    {"id": "blk0", "role": "blk", "device": "blk", "slot": 0, "epoch": 1},
]
HEADER = {"READ": 0, "WRITE": 1, "FLUSH": 4}


# -- putting records together ------------------------------------------------------------------------------------------


def record(point: TracePoint, time: int, **fields: Any) -> TraceRecord:
    whole = {"sequence": 1, "queue": 0, "head": 0, "position": 0, "id": 0, "a": 0, "b": 0, "data": bytes(16)}
    return TraceRecord(**{**whole, "time": time, "point": int(point), **fields})


def blk(op: str, sector: int = 0) -> bytes:
    return HEADER[op].to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")


def one_request(id: int = 48211, at: int = 0, status: int = 0, again: int = 0) -> list[tuple[str, TraceRecord]]:
    place = id & 0xFFFF
    return [
        ("core", record(TracePoint.NOTIFY, at + 1_000, position=place + 1 & 0xFFFF, a=0x80201234)),
        (
            "blk0",
            record(
                TracePoint.POP, at + 7_000, id=id, position=place, a=8208 | 1 << 32, b=again, data=blk("WRITE", 2048)
            ),
        ),
        ("blk0", record(TracePoint.DONE, at + 1_907_000, id=id, position=place, a=1, b=status)),
        ("blk0", record(TracePoint.USED, at + 1_907_500, position=place + 1 & 0xFFFF, a=1)),
        ("blk0", record(TracePoint.CALL, at + 1_908_000, id=5)),
        ("core", record(TracePoint.INTERRUPT, at + 1_911_500, id=5, queue=NO_QUEUE, a=1)),
    ]


def told(records: list[tuple[str, TraceRecord]], kind: str = "request") -> list[dict[str, Any]]:
    follower = Follower("demo", RINGS, lambda ns: ns / 1e9)
    for ring, each in records:
        follower.feed(ring, [each])
    return [telling for telling in follower.settle() if telling["type"] == kind]


def test_one_request_is_followed_from_its_notify_to_its_interrupt() -> None:
    (telling,) = told(one_request())
    assert telling["op"] == "WRITE"
    assert (telling["device"], telling["id"], telling["sector"], telling["bytes"]) == ("blk0", 48211, 2048, 8192)
    assert (telling["status"], telling["pc"]) == ("OK", 0x80201234)
    assert telling["wait"] == pytest.approx(6e-6)
    assert telling["served"] == pytest.approx(1.9e-3)
    assert telling["irq"] == pytest.approx(4e-6)
    assert telling["latency"] == pytest.approx(1.9105e-3)
    assert set(telling) - {"ended", "words", "call"} <= set(FIELDS)


def test_records_of_two_rings_are_put_in_order() -> None:
    assert told(one_request()[::-1])[0]["wait"] == pytest.approx(6e-6)


def test_positions_wrap_round() -> None:
    assert told(one_request(id=0xFFFF))[0]["wait"] == pytest.approx(6e-6)


def test_without_a_notify_or_an_interrupt_their_times_are_left_out() -> None:
    middle = [entry for entry in one_request() if entry[0] == "blk0" and entry[1].point != TracePoint.CALL]
    (telling,) = told(middle)
    assert telling["wait"] is telling["irq"] is telling["pc"] is None
    assert telling["latency"] == pytest.approx(1.9005e-3)


def test_a_request_that_comes_again_is_one_request() -> None:
    first, second = one_request(), one_request(at=50_000_000, again=1)
    (telling,) = told(first[:2] + second[1:])
    assert telling["again"] == 1
    assert telling["latency"] == pytest.approx(0.0519105)


def test_a_failed_request_says_how() -> None:
    assert told(one_request(status=1))[0]["status"] == "IOERR"


def test_what_was_not_read_is_not_made_up() -> None:
    assert told(one_request()[2:]) == []


def test_the_calls_of_a_backend_are_told() -> None:
    call = record(TracePoint.BACKEND, 1_800_000, id=48211, a=1_200_000, data=b"pwritev".ljust(16, b"\0"))
    (telling,) = told([*one_request()[:2], ("blk0", call), *one_request()[2:]])
    assert (telling["call"], telling["backend"]) == ("pwritev", pytest.approx(1.2e-3))


def test_a_request_waits_for_its_interrupt_but_not_for_ever() -> None:
    follower = Follower("demo", RINGS, lambda ns: ns / 1e9)
    for ring, each in one_request()[:-1]:
        follower.feed(ring, [each])
    assert follower.settle(30_000_000) == [] or all(t["type"] != "request" for t in follower.settle(30_000_000))
    assert [t["op"] for t in follower.settle(100_000_000) if t["type"] == "request"] == ["WRITE"]


@pytest.mark.parametrize(
    ("device", "pop", "done", "expected"),
    [
        ("blk", {"a": 16 | 1 << 32, "data": blk("FLUSH")}, {"b": 0}, {"op": "FLUSH", "status": "OK"}),
        (
            "blk",
            {"a": 16 | 4097 << 32, "data": blk("READ", 9)},
            {"b": 2},
            {"op": "READ", "status": "UNSUPP", "bytes": 4096},
        ),
        (
            "net",
            {"queue": 1, "a": 12 + 60, "data": bytes(6) + bytes([2] * 6) + b"\x08\x06" + bytes(2)},
            {},
            {"op": "SEND", "protocol": "ARP", "bytes": 60, "src": "02:02:02:02:02:02"},
        ),
        ("net", {"queue": 0, "a": 1526 << 32}, {"a": 12 + 98}, {"op": "RECEIVE", "bytes": 98}),
        (
            "9p",
            {"a": 30, "data": (30).to_bytes(4, "little") + b"\x6e\x05\x00" + (7).to_bytes(4, "little") + bytes(5)},
            {"a": 11, "data": (11).to_bytes(4, "little") + b"\x07\x05\x00\x02" + bytes(8)},
            {"op": "WALK", "tag": 5, "fid": 7, "status": "ENOENT"},
        ),
        (
            "virtiofs",
            {"a": 50, "data": (50).to_bytes(4, "little") + b"\x01\0\0\0" + (9).to_bytes(8, "little")},
            {"a": 16, "data": (16).to_bytes(4, "little") + (-2 & 0xFFFFFFFF).to_bytes(4, "little") + bytes(8)},
            {"op": "LOOKUP", "unique": 9, "status": "ENOENT"},
        ),
        (
            "v86fs",
            {"a": 30, "data": (30).to_bytes(4, "little") + b"\x01\x05\x00" + bytes(9)},
            {"a": 11, "data": (11).to_bytes(4, "little") + b"\x81\x05\x00\x02" + bytes(8)},
            {"op": "LOOKUP", "tag": 5, "status": "ENOENT"},
        ),
        ("rng", {"a": 64 << 32}, {"a": 64}, {"op": "ENTROPY", "bytes": 64, "status": "OK"}),
        ("mine", {"a": 3 | 4 << 32}, {"a": 4}, {"op": "REQUEST", "bytes": 7, "status": "OK"}),
    ],
)
def test_every_device_has_its_words(
    device: str, pop: dict[str, Any], done: dict[str, Any], expected: dict[str, Any]
) -> None:
    rings = [{"id": "x0", "role": device, "device": device, "slot": 0, "epoch": 1}]
    follower = Follower("demo", rings, lambda ns: ns / 1e9)
    queue = {"queue": pop.get("queue", 0)}
    follower.feed("x0", [record(TracePoint.POP, 1, **pop), record(TracePoint.DONE, 2, **queue, **done)])
    follower.feed("x0", [record(TracePoint.USED, 3, **queue, a=1)])
    (telling,) = follower.settle()
    assert {name: telling[name] for name in expected} == expected


def test_only_headers_are_left_without_payload() -> None:
    data = bytes(range(1, 17))
    assert strip("blk", record(TracePoint.POP, 1, data=data)) == data
    assert strip("blk", record(TracePoint.DONE, 1, data=data)) == bytes(16)
    assert strip("net", record(TracePoint.POP, 1, data=data)) == bytes(16)
    assert strip("9p", record(TracePoint.DONE, 1, data=data)) == data[: HEADERS["9p"][1]].ljust(16, b"\0")
    assert strip("", record(TracePoint.CONSOLE_OUT, 1, data=data)) == bytes(16)
    assert strip("blk", record(TracePoint.BACKEND, 1, data=data)) == data


def test_a_summary_counts_latencies() -> None:
    summary = Summary()
    for milliseconds in range(1, 101):
        telling = {"type": "request", "device": "blk0", "op": "READ", "latency": milliseconds / 1e3, "status": "OK"}
        summary.add(telling)
    summary.add({"type": "process", "device": "blk0"})
    (row,) = summary.as_list()
    assert (row["count"], row["errors"], row["max"]) == (100, 0, 0.1)
    assert row["p50"] == pytest.approx(0.050, rel=0.06)
    assert row["p99"] == pytest.approx(0.099, rel=0.06)
    assert sum(row["histogram"].values()) == 100
    assert "READ" in summary.text()


def test_amounts_and_durations_are_for_people() -> None:
    assert [amount(n) for n in (512, 8192, 1_572_864)] == ["512 B", "8 KiB", "1.5 MiB"]
    assert [duration(s) for s in (6.4e-7, 6e-6, 1.92e-3, 3.1)] == ["640 ns", "6 µs", "1.92 ms", "3.1 s"]


# -- a machine ---------------------------------------------------------------------------------------------------------


class Viewer:
    """A `bulkhead trace --json` in the background."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen([*COMMAND, "trace", "--json", *words], stdout=subprocess.PIPE, text=True)
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.seen: list[dict[str, Any]] = []

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def expect(self, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next telling of which `what` is true."""
        end = time.monotonic() + DEADLINE
        while True:
            telling = self._lines.get(timeout=max(0.01, end - time.monotonic()))
            assert telling is not None, f"the viewer has ended; it told {self.seen}"
            self.seen.append(telling)
            if what(telling):
                return telling

    def has_begun(self) -> bool:
        """Has it told anything? Waits a little."""
        if not self.seen:
            try:
                self.seen.append(self._lines.get(timeout=0.5) or {})
            except queue.Empty:
                return False
        return True

    def interrupt(self) -> int:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


def tell(*words: str) -> str:
    """A `bulkhead trace` that ends by itself."""
    done = subprocess.run([*COMMAND, "trace", *words], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.slow
def test_a_machine_is_traced_while_its_disk_is_killed(start: Callable[..., Any], disk: str) -> None:
    machine = start("--disk", disk, "--device", "rng")
    machine.expect(PROMPT)
    everything, writes = Viewer(), Viewer("blk0", "--filter", "op == WRITE and sector < 10")

    def use(sector: int) -> None:
        machine.type(f"write {sector} 1 7\n")
        machine.expect(PROMPT)
        machine.type(f"read {sector} 1\n")
        machine.expect(PROMPT)

    end = time.monotonic() + DEADLINE
    while not (everything.has_begun() and writes.has_begun()):
        assert time.monotonic() < end, "the viewers follow nothing"
        use(5)
    use(3)
    write = writes.expect(lambda telling: telling.get("sector") == 3)
    assert (write["op"], write["status"], write["device"]) == ("WRITE", "OK", "blk0")
    assert write["pc"] > 0x8000_0000 and write["latency"] > 0
    before = everything.expect(lambda telling: telling.get("op") == "READ" and telling.get("sector") == 3)

    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
    ended = everything.expect(lambda telling: telling["op"] == "ENDED" and telling["device"] == "blk0")
    assert ended["status"] == 256 + signal.SIGKILL
    use(4)
    after = everything.expect(lambda telling: telling.get("op") == "READ" and telling.get("sector") == 4)
    assert after["id"] > before["id"]  # the same ring, the same numbers
    assert {telling["epoch"] for telling in everything.seen if telling["op"] == "STARTED"} == {2}
    writes.expect(lambda telling: telling.get("sector") == 4)
    assert all(telling["op"] == "WRITE" and telling["sector"] < 10 for telling in writes.seen)

    lines = tell("blk0", "--last", "3").splitlines()
    assert len(lines) == 3
    assert re.search(r"blk0 #\d+  READ   sector 4  512 B .*preadv .* OK  ", lines[-1])
    rows = {(row["device"], row["op"]): row for row in json.loads(tell("--summary", "--last", "100000", "--json"))}
    assert rows["blk0", "WRITE"]["count"] >= 3
    ids = {json.loads(line)["op"] for line in tell("core", "blk0", "--all", "--last", "5000", "--json").splitlines()}
    assert ids >= {"NOTIFY", "INTERRUPT", "MMIO_READ", "MMIO_WRITE", "MESSAGE_IN", "SESSION", "STARTED", "CONSOLE_OUT"}

    assert everything.interrupt() == 0
    assert writes.interrupt() == 0
    refused = subprocess.run([*COMMAND, "trace", "blk7"], capture_output=True, text=True, timeout=60)
    assert refused.returncode == ExitCode.ERROR and "there is no process blk7; did you mean blk0?" in refused.stderr
