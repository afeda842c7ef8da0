"""Exports: what Wireshark's parser, a reader of trace events and a program make of a recording."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import struct
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from launcher.record.pcapng import finished, frames_of
from launcher.record.trigger import Around, Watch
from proto.filters import parse
from proto.recording import RecordingWriter, requests_of
from proto.tap import Event, EventKind, pack_event, unpack_events

COMMAND = [sys.executable, "-P", "-m", "launcher"]
ARP = bytes.fromhex("ffffffffffff525400123456080600010800060400015254001234560a00020f0000000000000a000202")
DEVICES = [
    {"id": "blk0", "device": "blk", "backend": "file:x", "properties": {}},
    {"id": "net0", "device": "net", "backend": "user", "properties": {}},
]


def pop(queue: int, id: int, time: int, readable: bytes = b"", room: tuple[int, ...] = ()) -> Event:
    sizes = ([len(readable)] if readable else []) + list(room)
    payload = b"".join(size.to_bytes(4, "little") for size in sizes) + readable
    return Event(EventKind.POP, queue, 0, 0, 0, time, id, bool(readable) | len(room) << 32, len(readable), payload)


def done(queue: int, id: int, time: int, written: bytes = b"", status: int = 0) -> Event:
    return Event(EventKind.DONE, queue, 0, 0, status, time, id, len(written), 0, written)


def blk(kind: int, sector: int, data: bytes = b"") -> bytes:
    return struct.pack("<IIQ", kind, 0, sector) + data


DISK = [
    pop(0, 1, 1_000, blk(0, 8), (513,)),
    pop(0, 2, 2_000, blk(1, 16, bytes(512)), (1,)),
    done(0, 2, 3_000, b"\0"),
    done(0, 1, 9_000, bytes(512) + b"\0"),
    pop(0, 3, 10_000, blk(0, 1 << 40), (513,)),
    done(0, 3, 12_000, bytes(512) + b"\1", status=1),
    pop(0, 4, 13_000, blk(4, 0), (1,)),
]
CARD = [
    pop(0, 1, 500, room=(2048,)),
    pop(0, 2, 600, room=(32,)),
    pop(1, 1, 1_000, bytes(12) + ARP),
    done(1, 1, 1_500),
    done(0, 1, 2_500, bytes(12) + ARP),
    done(0, 2, 4_000, bytes(12) + ARP[:20]),
    pop(0, 3, 3_000, room=(64,)),
    done(0, 3, 4_000, ARP[20:]),
    pop(2, 1, 5_000, b"\0\0\1", (1,)),
    done(2, 1, 5_100, b"\0"),
]
WALL = 1_700_000_000 * 10**9


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "both.rec"
    with open(path, "wb") as file:
        writer = RecordingWriter(file, {"machine": "vm1", "wall": WALL, "devices": DEVICES})
        for device, events in (("blk0", DISK), ("net0", CARD)):
            writer.events(device, b"".join(map(pack_event, events)))
        writer.end({"reason": "test"})
    return path


def export(path: Path | str, to: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "export", str(path), "--to", to, *words], capture_output=True, text=True, timeout=60
    )


def test_overlapping_requests_lie_on_tracks(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert export(recording, "perfetto", "-o", str(out)).returncode == 0
    events = json.loads(out.read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    assert len(slices) == 3 + 5  # the flush had no answer
    by_track: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for event in slices:
        assert event["dur"] >= 0 and event["ts"] >= WALL / 1e3
        by_track[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for spans in by_track.values():
        spans.sort()
        assert all(first[1] <= second[0] + 0.5 for first, second in itertools.pairwise(spans))
    read = next(event for event in slices if event["name"] == "READ 8")
    write = next(event for event in slices if event["name"] == "WRITE 16")
    assert read["tid"] != write["tid"] and read["pid"] == write["pid"]
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {"vm1/blk0", "vm1/net0"}


def test_traces_are_exported_too(tmp_path: Path) -> None:
    lines = [
        {
            "time": 1.0,
            "machine": "m",
            "device": "blk0",
            "type": "request",
            "op": "READ",
            "latency": 0.5,
            "status": "OK",
        },
        {"time": 1.1, "machine": "m", "device": "blk0", "type": "process", "op": "ENDED"},
        {"machine": "m", "device": "blk0", "type": "missed", "count": 7},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = export(path, "perfetto")
    events = json.loads(done.stdout)["traceEvents"]
    assert [event["ph"] for event in events if event["ph"] != "M"] == ["X", "i"]
    path.write_text("hello\n")
    done = export(path, "perfetto")
    assert done.returncode == 125 and "neither a recording nor a trace" in done.stderr


def test_frames_are_whole() -> None:
    frames = sorted(frames_of(list(requests_of(iter(CARD)))))
    assert [(frame.time, frame.sent, frame.data) for frame in frames] == [
        (1_000, True, ARP),
        (2_500, False, ARP),
        (4_000, False, ARP),
    ]


@pytest.mark.parametrize("payload", [b"", b"odd", b"even"])
def test_a_checksum_that_was_left_to_the_device_is_finished(payload: bytes) -> None:
    """RFC 1071: with its checksum in it, everything sums up to all ones. A UDP datagram over IPv4."""
    pseudo = bytes([10, 0, 2, 15, 10, 0, 2, 2, 0, 17]) + struct.pack(">H", 8 + len(payload))
    udp = struct.pack(">HHHH", 1, 2, 8 + len(payload), _sum(pseudo)) + payload
    header = struct.pack("<BBHHHHH", 1, 0, 0, 0, 34, 6, 0)
    frame = finished(header, bytes(34) + udp)
    assert _sum(pseudo + frame[34:]) == 0xFFFF
    assert (frame[:40], frame[42:]) == (bytes(34) + udp[:6], udp[8:])
    assert finished(bytes(12), bytes(34) + udp) == bytes(34) + udp
    assert finished(struct.pack("<BBHHHHH", 1, 0, 0, 0, 999, 6, 0), udp) == udp


def _sum(data: bytes) -> int:
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_tshark_opens_it_without_a_warning(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.pcapng"
    assert export(recording, "pcapng", "-o", str(out)).returncode == 0
    if not shutil.which("tshark"):
        pytest.skip("needs tshark")
    fields = ["frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction", "arp.dst.proto_ipv4"]
    words = [word for field in fields for word in ("-e", field)]
    shown = subprocess.run(
        ["tshark", "-r", str(out), "-T", "fields", *words], capture_output=True, text=True, timeout=60, check=True
    )
    complaints = [line for line in shown.stderr.splitlines() if "root" not in line]
    assert complaints == []
    rows = [line.split("\t") for line in shown.stdout.splitlines()]
    assert [row[1] for row in rows] == ["net0"] * 3
    assert rows[0][0].startswith("1700000000.000001000")
    assert [int(row[2], 0) for row in rows] == [2, 1, 1]
    assert {row[3] for row in rows} == {"10.0.2.2"}


def test_json_has_everything(recording: Path) -> None:
    done = export(recording, "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 4 + 5
    read = next(line for line in lines if line.get("sector") == 8)
    assert (read["op"], read["status"], read["used"], read["buffers"]["writable"]) == ("READ", "OK", 513, [513])
    assert base64.b64decode(read["written"]) == bytes(513) and base64.b64decode(read["read"]) == blk(0, 8)
    assert {line["status"] for line in lines if line["device"] == "blk0"} == {"OK", "IOERR", "UNANSWERED"}
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    bare = export(recording, "json", "--no-payload")
    assert not any("read" in json.loads(line) for line in bare.stdout.splitlines())


def test_what_has_no_frames_says_so(tmp_path: Path) -> None:
    path = tmp_path / "disk.rec"
    with open(path, "wb") as file:
        RecordingWriter(file, {"machine": "m", "devices": DEVICES[:1]})
    done = export(path, "pcapng", "-o", str(tmp_path / "x"))
    assert done.returncode == 125 and "has no network card" in done.stderr
    done = export(path, "json")
    assert done.returncode == 0 and "the recorder did not end it" in done.stderr


# -- waiting for something ---------------------------------------------------------------------------------------------


def test_the_last_seconds_are_kept_and_how_it_was_set_up() -> None:
    now = [0.0]
    around = Around(10, 1 << 20, lambda: now[0])
    setup = Event(EventKind.SETUP, 0, 0, 0, 0, 0, 0, 2, 0, b"{}")
    around.add("blk0", pack_event(setup) + pack_event(DISK[0]))
    for second in range(30):
        now[0] = float(second)
        around.add("blk0", pack_event(DISK[1]._replace(id=second)))
    found = [event for _, data in around.take() for event in unpack_events(data)]
    assert found[0] == setup
    assert [event.id for event in found[1:]] == list(range(19, 30))
    assert around.take() == [] and around.dropped == 0


def test_memory_is_bounded() -> None:
    around = Around(10, 1000, lambda: 1.0)
    for _ in range(100):
        around.add("blk0", pack_event(DISK[0]))
    assert sum(len(data) for _, data in around.take()) <= 1000
    assert around.dropped > 0


def test_a_request_that_passes_is_seen_however_it_comes() -> None:
    watch = Watch(parse("status == IOERR"), DEVICES, 0)
    seen = [watch.sees("blk0", pack_event(event)) for event in DISK]
    assert seen == [False] * 5 + [True, False]
    assert watch.matched is not None and watch.matched["op"] == "READ"
