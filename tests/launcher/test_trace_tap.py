"""Taps: who may look, what they are sent, what they missed, and that it works between two network namespaces.

No machine runs here: a tap needs a ring, a channel and a START packet, which the test is for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.control import request
from launcher.trace import remote
from launcher.trace.elsewhere import Elsewhere
from launcher.trace.keys import create
from launcher.trace.remote import RemoteRings
from native import Unit
from native.memory import Area
from proto.channel import ENVIRONMENT, Channel
from proto.errors import ConfigError
from proto.trace import RECORDS, TRACE_SIZE, TracePoint, TraceRecord, format_trace, trace

DEADLINE = 60.0


class Tapped:
    """A ring, and taps of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fd = os.memfd_create("trace")
        os.ftruncate(self.fd, TRACE_SIZE)
        self.area = Area.map_fd(self.fd, TRACE_SIZE)
        format_trace(self.area.view())
        self.native = Unit("trace-test", exports=[trace]).load()
        self.processes: list[tuple[subprocess.Popen[bytes], Channel]] = []

    def put(self, id: int, point: TracePoint = TracePoint.POP, data: int = 0) -> None:
        now = time.monotonic_ns()
        self.native.trace(self.area.address, now, point, 0, 1, 2, id, 16 | 512 << 32, 0, data, data)

    def listen(self, endpoint: str, keys: Path | None = None, *, within: tuple[str, ...] = (), **more: Any) -> str:
        """Start a tap; where it listens."""
        ours, theirs = Channel.pair()
        root = str(Path(__file__).resolve().parents[2])
        with theirs:
            process = subprocess.Popen(
                [*within, sys.executable, "-P", "-m", "launcher.trace.tap"],
                pass_fds=[theirs.fileno()],
                env=os.environ | {ENVIRONMENT: str(theirs.fileno()), "PYTHONPATH": root},
            )
        self.processes.append((process, ours))
        body = {
            "endpoint": endpoint,
            "keys": str(keys) if keys else None,
            "machine": "tapped",
            "generation": 1,
            "rings": [{"id": "blk0", "role": "blk", "device": "blk", "slot": 0, "epoch": 1}],
            **more,
        }
        ours.send("START", body, {"blk0": self.fd})
        answer = ours.recv(DEADLINE)
        if answer.kind == "FAILED":
            raise ConfigError(answer.body["error"])
        assert answer.kind == "READY"
        return str(answer.body["endpoint"])

    def close(self) -> None:
        for process, channel in self.processes:
            channel.close()  # end-of-file is the keeper's end
            process.wait(DEADLINE)
        self.area.close()
        os.close(self.fd)


@pytest.fixture
def tapped(tmp_path: Path) -> Iterator[Tapped]:
    made = Tapped(tmp_path)
    yield made
    made.close()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    create(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def view() -> Iterator[Callable[..., RemoteRings]]:
    made: list[RemoteRings] = []

    def connect(*words: Any, **options: Any) -> RemoteRings:
        made.append(RemoteRings(*words, **options))
        return made[-1]

    yield connect
    for each in made:
        each.close()


def read(rings: RemoteRings, count: int) -> list[TraceRecord]:
    """Wait for so many records."""
    found: list[TraceRecord] = []
    end = time.monotonic() + DEADLINE
    while len(found) < count:
        assert time.monotonic() < end, f"{len(found)} of {count} records came"
        for _, records in rings.poll():
            found += records
    return found


def subset(keys: Path, where: Path, *names: str) -> Path:
    """A directory with only these of the keys."""
    where.mkdir()
    for name in names:
        shutil.copy(keys / name, where)
    return where


def test_viewers_see_what_is_written(tapped: Tapped, keys: Path, view: Callable[..., RemoteRings]) -> None:
    uri = tapped.listen("tcp://127.0.0.1:*", keys)
    first, second = view(uri, keys), view(uri, keys)
    assert (first.machine, first.rings[0]["id"]) == ("tapped", "blk0")
    for id in range(5):
        tapped.put(id, data=7)
    for rings in (first, second):
        records = read(rings, 5)
        assert [record.id for record in records] == [0, 1, 2, 3, 4]
        assert records[0].data[0] == 7


def test_history_is_sent_to_who_asks_for_it(tapped: Tapped, view: Callable[..., RemoteRings], tmp_path: Path) -> None:
    tapped.put(1)
    uri = tapped.listen(f"ipc://{tmp_path}/tap")
    late = view(uri, None, from_start=True)
    tapped.put(2)
    assert [record.id for record in read(late, 2)] == [1, 2]


def test_payload_stays_where_it_is_on_request(tapped: Tapped, keys: Path, view: Callable[..., RemoteRings]) -> None:
    uri = tapped.listen("tcp://127.0.0.1:*", keys)
    whole, bare = view(uri, keys), view(uri, keys, payload=False)
    tapped.put(1, TracePoint.POP, data=0x0102)
    tapped.put(1, TracePoint.DONE, data=0x0304)
    assert [record.data[0] for record in read(whole, 2)] == [2, 4]
    assert [record.data[0] for record in read(bare, 2)] == [2, 0]  # a disk's header is no payload


def test_a_tap_without_payload_sends_none_to_anybody(
    tapped: Tapped, keys: Path, view: Callable[..., RemoteRings]
) -> None:
    rings = view(tapped.listen("tcp://127.0.0.1:*", keys, payload=False), keys)
    tapped.put(1, TracePoint.DONE, data=0x0304)
    assert not any(read(rings, 1)[0].data)


def test_without_the_right_keys_there_is_no_answer(
    tapped: Tapped, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "GREETING", 1.0)
    uri = tapped.listen("tcp://127.0.0.1:*", keys)
    create(tmp_path / "others")
    stranger = subset(tmp_path / "others", tmp_path / "stranger", "viewer.secret", "viewer.public")
    shutil.copy(keys / "server.public", stranger)
    with pytest.raises(ConfigError, match="does not answer"):
        RemoteRings(uri, stranger)
    with pytest.raises(ConfigError, match="needs keys"):
        RemoteRings(uri, None)
    with pytest.raises(ConfigError, match="no key to connect with"):
        RemoteRings(uri, subset(keys, tmp_path / "public", "server.public"))


def test_no_tap_listens_to_a_network_without_keys(tapped: Tapped) -> None:
    with pytest.raises(ConfigError, match="needs keys"):
        tapped.listen("tcp://127.0.0.1:*")


def test_a_viewers_key_gives_no_orders(tapped: Tapped, keys: Path, tmp_path: Path) -> None:
    uri = tapped.listen("tcp://127.0.0.1:*", keys)
    viewers = subset(keys, tmp_path / "viewer", "viewer.secret", "viewer.public", "server.public")
    with Elsewhere(uri, viewers) as looking, pytest.raises(ConfigError, match="may look, not order RESTART"):
        request(looking, "RESTART", id="blk0")
    with Elsewhere(uri, subset(keys, tmp_path / "control", "control.secret", "server.public")) as ordering:
        with pytest.raises(ConfigError, match="the machine tapped does not answer"):  # none runs: it got that far
            request(ordering, "RESTART", id="blk0")
        with pytest.raises(ConfigError, match="not done from elsewhere"):
            request(ordering, "TRACE_LISTEN", endpoint="tcp://*:1")


def test_who_is_too_slow_knows_what_was_missed(
    tapped: Tapped, view: Callable[..., RemoteRings], tmp_path: Path
) -> None:
    rings = view(tapped.listen(f"ipc://{tmp_path}/tap"), None)
    tapped.put(0)
    read(rings, 1)
    process, _ = tapped.processes[0]
    os.kill(process.pid, 19)  # SIGSTOP: nobody reads the ring
    try:
        for id in range(2 * RECORDS):
            tapped.put(id)
    finally:
        os.kill(process.pid, 18)
    seen = 0
    end = time.monotonic() + DEADLINE
    while seen + rings.missed.get("blk0", 0) < 2 * RECORDS:
        assert time.monotonic() < end
        seen += sum(len(records) for _, records in rings.poll())
    assert rings.missed["blk0"] >= RECORDS


def test_clocks_are_aligned(tapped: Tapped, keys: Path, view: Callable[..., RemoteRings]) -> None:
    rings = view(tapped.listen("tcp://127.0.0.1:*", keys), keys)
    assert 0 < rings.error < 1.0
    assert abs(rings.now() - time.monotonic_ns()) / 1e9 <= rings.error + 0.001
    tapped.put(1)
    before = time.time()
    (record,) = read(rings, 1)
    assert before - 1.0 < rings.wall(record.time) < time.time() + 1.0


def test_several_machines_are_in_one_view(tapped: Tapped, tmp_path: Path) -> None:
    for name in ("one", "two"):
        tapped.listen(f"ipc://{tmp_path}/{name}", machine=name)
    for point in (TracePoint.POP, TracePoint.DONE, TracePoint.USED):
        tapped.put(7, point)
    words = [word for name in ("one", "two") for word in ("--connect", f"ipc://{tmp_path}/{name}")]
    command = [sys.executable, "-P", "-m", "launcher", "trace", *words, "--last", "2"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = answer.stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["one/blk0", "two/blk0"]
    assert all("READ" in line for line in lines)


def test_keys_are_never_overwritten(keys: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in keys.glob("*.secret")} == {0o600}
    with pytest.raises(ConfigError, match="is there already"):
        create(keys)


def test_malformed_messages_do_not_end_a_tap(tapped: Tapped, view: Callable[..., RemoteRings], tmp_path: Path) -> None:
    uri = tapped.listen(f"ipc://{tmp_path}/tap")
    rings = view(uri, None)
    for data in (b"", b"\xc1", b"\x80", b"\x01", b"\x81\xa2op\xa4view"):
        rings._socket.send(data)
    tapped.put(1)
    assert read(rings, 1)[0].id == 1


# -- two network namespaces --------------------------------------------------------------------------------------------


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them: 10.213.7.1 and 10.213.7.2."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and iproute2")
    one, two = f"bulkhead-{os.getpid()}-a", f"bulkhead-{os.getpid()}-b"
    with contextlib.ExitStack() as undo:
        for name in (one, two):
            ip("netns", "add", name)
            undo.callback(ip, "netns", "del", name)
        ip("link", "add", "end", "netns", one, "type", "veth", "peer", "name", "end", "netns", two)
        for name, address in ((one, "10.213.7.1"), (two, "10.213.7.2")):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "end")
            ip("-n", name, "link", "set", "end", "up")
        yield one, two


def test_a_viewer_in_another_network_namespace(
    tapped: Tapped, keys: Path, tmp_path: Path, namespaces: tuple[str, str]
) -> None:
    here, there = namespaces
    uri = tapped.listen("tcp://10.213.7.1:4711", keys, within=("ip", "netns", "exec", here))
    viewer = subset(keys, tmp_path / "viewer", "viewer.secret", "server.public")
    command = [sys.executable, "-P", "-m", "launcher", "trace", "--connect", uri, "--keys", str(viewer)]
    for id in (1, 2):
        tapped.put(id, TracePoint.POP)
        tapped.put(id, TracePoint.DONE)
        tapped.put(id, TracePoint.USED)
    answer = subprocess.run(
        ["ip", "netns", "exec", there, *command, "--last", "2", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    tellings = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [(telling["machine"], telling["device"], telling["op"]) for telling in tellings] == [
        ("tapped", "blk0", "READ"),
        ("tapped", "blk0", "READ"),
    ]
