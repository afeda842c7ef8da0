"""What is replayed: the steps of one device, from a recording, or from the request that a crash bundle holds.

A script is what the driver did, in order: what it negotiated, each request, and where it had its answer. A process that
was replaced in the middle is not seen: the successor's session tells again what is known, and a request that it took
again is the same request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgpack

from launcher.inspect.bundles import load_request
from proto.errors import BulkheadError, ConfigError
from proto.messages import decode
from proto.recording import MAGIC, RecordingReader, Request, requests_of
from proto.tap import Event, EventKind
from proto.virtio import Status

__all__ = ["Script", "Step", "buffers_first", "load"]

QUEUE_SIZE = 256  # of a queue that a crash bundle does not describe


@dataclass
class Step:
    """One thing that the driver did: `kind` is features, ring, ok, reset, config, pop or done."""

    kind: str
    time: int = 0  # ns
    request: Request | None = None
    value: int = 0  # features; of ring the size; of config the offset
    queue: int = 0
    data: bytes = b""


@dataclass
class Script:
    """The steps of one device."""

    device: dict[str, Any]  # id, device, backend, properties, as the machine's description has them
    config: bytes = b""
    tables: bytes = b""  # what a share remembered when the recording began
    passive: frozenset[int] = frozenset()  # queues whose buffers wait for something
    steps: list[Step] = field(default_factory=list)
    lost: int = 0  # events that the recorder lost
    cut: str = ""

    @property
    def requests(self) -> list[Request]:
        """All requests, as they were asked, with what was answered."""
        return [step.request for step in self.steps if step.kind == "pop" and step.request is not None]

    def only(self, number: int) -> Script:
        """Just one request, behind what was negotiated. Raises ConfigError."""
        if number not in {request.number for request in self.requests}:
            last = len(self.requests) - 1
            raise ConfigError(f"there is no request {number}", hint=f"There are 0 to {last}." if last >= 0 else "")
        kept = [
            step
            for step in self.steps
            if step.kind != "config" and (step.request is None or step.request.number == number)
        ]
        end = next(at for at, step in enumerate(kept) if step.kind == "pop")
        kept = kept[:end] + [step for step in kept[end:] if step.request is not None]
        return replace(self, steps=kept)


def load(path: Path | str, id: str | None = None) -> Script:
    """The script of a device: of `id`, or the only one. Raises ConfigError."""
    path = Path(path)
    if path.is_dir():
        path = path / "request.msgpack"
    try:
        with open(path, "rb") as file:
            recorded = file.read(len(MAGIC)) == MAGIC
        return _recording(path, id) if recorded else _bundle(path)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {(error.strerror or '').lower()}") from error


def _recording(path: Path, id: str | None) -> Script:
    try:
        reader = RecordingReader(path)
    except BulkheadError as error:
        raise ConfigError(error.message, hint="`bulkhead record` makes recordings.") from error
    with reader:
        known = [device["id"] for device in reader.devices]
        if id is None and len(known) > 1:
            raise ConfigError(f"{path} has {', '.join(known)}", hint=f"Say which: --device {known[0]}")
        if id is not None and id not in known:
            raise ConfigError(f"{path} has no device {id}", hint=f"It has: {', '.join(known)}.")
        chosen = id or known[0]
        events = [event for device, event in reader.events() if device == chosen]
        (row,) = (device for device in reader.devices if device["id"] == chosen)
        script = Script(row, cut=reader.cut)
    _Reader(script).read(events)
    return script


class _Reader:
    """Makes steps of events."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._features: int | None = None
        self._rings: dict[int, int] = {}
        self._ok = False

    def read(self, events: list[Event]) -> None:
        answers = {(id(each.done)): each for each in requests_of(iter(events)) if each.done is not None}
        asked = {id(each.pop): each for each in requests_of(iter(events))}
        for event in events:
            if event.kind == EventKind.SETUP:
                self._setup(event)
            elif event.kind == EventKind.MESSAGE:
                self._message(event)
            elif event.kind == EventKind.LOST:
                self._script.lost += event.a
            elif event.kind == EventKind.POP and id(event) in asked:
                self._add("pop", event.time, request=asked[id(event)])
            elif event.kind == EventKind.DONE and id(event) in answers:
                self._add("done", event.time, request=answers[id(event)])

    def _add(self, kind: str, time: int, **more: Any) -> None:
        self._script.steps.append(Step(kind, time, **more))

    def _setup(self, event: Event) -> None:
        try:
            setup = msgpack.unpackb(event.payload, strict_map_key=False)
            self._script.config = self._script.config or bytes(setup.get("config", b""))
            self._script.passive = frozenset(setup.get("passive", ()))
            if not self._script.steps:
                self._script.tables = bytes(setup.get("tables", b""))
            if setup.get("features"):
                self._negotiate(event.time, setup["features"])
            for index, size in setup.get("queues", {}).items():
                self._ring(event.time, index, size)
            if setup.get("status", 0) & Status.DRIVER_OK:
                self._driver_ok(event.time)
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"the recording says nothing sensible of its device: {error}") from error

    def _message(self, event: Event) -> None:
        try:
            message = decode(event.payload)
        except BulkheadError:
            return
        if message.reply or message.error:
            return
        body = message.body
        if message.name == "FEATURES_OK":
            self._negotiate(event.time, body["features"])
        elif message.name == "RING_SETUP":
            self._ring(event.time, body["queue"], body["size"])
        elif message.name == "STATUS" and body["status"] & Status.DRIVER_OK:
            self._driver_ok(event.time)
        elif message.name == "CONFIG_SET":
            self._add("config", event.time, value=body["offset"], data=body["data"])
        elif message.name == "RESET":
            self._features, self._rings, self._ok = None, {}, False
            self._add("reset", event.time)

    def _negotiate(self, time: int, features: int) -> None:
        if features != self._features:
            self._features = features
            self._add("features", time, value=features)

    def _ring(self, time: int, queue: int, size: int) -> None:
        if self._rings.get(queue) != size:
            self._rings[queue] = size
            self._add("ring", time, queue=queue, value=size)

    def _driver_ok(self, time: int) -> None:
        if not self._ok:
            self._ok = True
            self._add("ok", time)


def _bundle(path: Path) -> Script:
    """The request that a crash bundle saved: nobody knows its answer."""
    saved = load_request(path)
    try:
        buffers, readable = saved["buffers"], saved["readable"]
        sizes = tuple(length for _, length, writable in buffers if not writable)
        room = tuple(length for _, length, writable in buffers if writable)
        queue, head, counter = saved["queue"], saved["head"], saved["counter"]
        described = saved["device"]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is no saved request: {error}") from error
    if sum(sizes) != len(readable):
        raise ConfigError(f"{path} does not have the whole request", hint="Of large ones a bundle keeps 1 MiB.")
    pop = Event(EventKind.POP, queue, head, 0, 0, 0, counter, len(sizes) | len(room) << 32, len(readable), b"")
    device = described if isinstance(described, dict) else {"device": str(described)}
    row = {"id": "device", "backend": "", "properties": {}, **device}
    steps = [
        Step("features", value=-1),
        *(Step("ring", queue=index, value=QUEUE_SIZE) for index in range(queue + 1)),
        Step("ok"),
        Step("pop", request=Request(0, pop, None, sizes, room, readable)),
    ]
    return Script(row, steps=steps)


def buffers_first(steps: list[Step]) -> list[Step]:
    """A network card's steps, in which the buffers of a received frame (5.1.6.4) are all there before the first of them
    is answered. The card took and filled one after the other, but it does neither before it sees enough of them."""
    frames: dict[tuple[int, int], list[Step]] = {}
    for step in steps:
        request = step.request
        if step.kind == "pop" and request is not None and request.done is not None and not request.pop.queue % 2:
            frames.setdefault((request.pop.queue, request.done.time), []).append(step)
    behind = {id(parts[0]): parts[1:] for parts in frames.values()}
    moved = {id(part) for parts in behind.values() for part in parts}
    return [each for step in steps if id(step) not in moved for each in (step, *behind.get(id(step), ()))]


def answered(script: Script) -> Iterator[Request]:
    """The requests whose answers are known."""
    return (request for request in script.requests if request.done is not None)
