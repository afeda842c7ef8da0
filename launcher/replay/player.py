"""Play a script to a device process: the driver's steps in their order, each answer compared with the recorded one.

A request is put into its ring where the recording says that the device took it, and its answer is awaited where the
recording says that it came: so as many are in flight as were then, and a request that the driver could only make
because of an answer comes behind it. Frames that came from outside are put into the card's cable where the card gave
them to the driver, and frames that were sent must come out of it.

`replay` is for regression tests:

    def test_the_bug_of_november() -> None:
        result = replay("tests/recordings/november.rec", "mydev.py:MyDevice")
        assert result.same, result.text
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devproc.net.backend import Word, parse_uri
from devproc.net.offload import TSO4, TSO6
from launcher.record.pcapng import received_frames
from launcher.record.words import telling_of
from launcher.replay.compare import MODES, differs, hexdump, mode_of
from launcher.replay.frontend import GPA, QUEUE_SIZE, QUEUES, FrontEnd
from launcher.replay.place import Place, place
from launcher.replay.rings import BUFFERS, Answer, Rings, room_of
from launcher.replay.source import Script, Step, buffers_first, load
from proto.errors import ConfigError, DeadlineMissed, ProtocolError
from proto.recording import Request
from proto.virtio import Feature, bit

__all__ = ["Difference", "Player", "Result", "replay"]

DEADLINE = 10.0  # seconds for an answer
SLACK = 64 << 20  # bytes of RAM besides four times what was ever in flight
NET_HEADER = 12
LOG_LINES = 20
GSO = {1: TSO4, 4: TSO6}  # gso_type (5.1.6): the offload that a backend takes it by
PATIENCE = 5  # requests without an answer; then nothing more can be expected


@dataclass
class Difference:
    """One answer that is another."""

    request: dict[str, Any]  # in the device's words: a telling
    why: str
    recorded: bytes
    replayed: bytes | None  # None: there was no answer

    @property
    def text(self) -> str:
        """Some lines for people."""
        words = f"{self.request['op']}  {self.request['words']}".rstrip()
        lines = [f"request {self.request['number']} (queue {self.request['queue']}, #{self.request['id']})  {words}"]
        lines.append(f"  {self.why}")
        if self.replayed is not None and self.recorded != self.replayed:
            lines += [f"  {line}" for line in hexdump(self.recorded, self.replayed)]
        return "\n".join(lines)


@dataclass
class Result:
    """What a replay has shown."""

    device: str
    place: str
    requests: int = 0  # that were put to the device
    compared: int = 0
    skipped: int = 0  # malformed chains, and those of queues that were never set up
    lost: int = 0  # events that the recorder had lost
    cut: str = ""
    seconds: float = 0.0
    died: str = ""  # how the device ended, if it did
    log: list[str] = field(default_factory=list)  # of the device, its last lines
    differences: list[Difference] = field(default_factory=list)
    missing_features: int = 0
    unanswered: int = 0  # PATIENCE of them are the end

    @property
    def same(self) -> bool:
        """Did the device answer as it did then?"""
        return not self.differences and not self.died

    @property
    def text(self) -> str:
        """For people: how it went, and the first difference."""
        parts = [f"{self.device}: {self.requests:,} requests to {self.place} in {self.seconds:.2f} s"]
        if self.compared:
            parts.append(f"{self.compared - len(self.differences):,} of {self.compared:,} answers are the same")
        for count, what in ((self.skipped, "skipped"), (self.lost, "events lost by the recorder")):
            if count:
                parts.append(f"{count:,} {what}")
        lines = [", ".join(parts)]
        if self.missing_features:
            lines.append(
                f"the device does not offer feature bits {self.missing_features:#x}, which were negotiated then"
            )
        if self.unanswered >= PATIENCE:
            lines.append(f"given up after {self.unanswered} requests that were not answered")
        if self.cut:
            lines.append(f"the recording: {self.cut}")
        if self.differences:
            lines += ["", f"first difference: {self.differences[0].text}"]
        if self.died:
            lines += ["", f"the device {self.died}", *(f"  {line}" for line in self.log)]
        return "\n".join(lines)

    def as_json(self) -> str:
        """For programs."""
        fields = {name: value for name, value in vars(self).items() if name != "differences"}
        differences = [
            {
                "request": {key: value for key, value in each.request.items() if not isinstance(value, bytes)},
                "why": each.why,
                "recorded": each.recorded.hex(),
                "replayed": each.replayed.hex() if each.replayed is not None else None,
            }
            for each in self.differences
        ]
        return json.dumps({"same": self.same, **fields, "differences": differences}, indent=2)


def replay(
    path: Path | str,
    device: str = "",
    *,
    id: str | None = None,
    request: int | None = None,
    speed: str = "max",
    compare: str = "",
    deadline: float = DEADLINE,
) -> Result:
    """Feed a recording (or a crash bundle's request) to a device process, and compare.

    `device` is what is to answer: nothing (docs/recording.md says what then), a disk's URI, a share's directory, or
    PATH.py:Class. `id` chooses one of several recorded devices, `request` just one request. Raises ConfigError when
    the recording or the device is none; what the device does wrong is in the result.
    """
    script = load(path, id)
    if request is not None:
        script = script.only(request)
    found = place(script, device)
    try:
        return Player(script, found, speed=speed, compare=compare, deadline=deadline).play()
    finally:
        found.close()


class Player:
    """One replay."""

    def __init__(
        self,
        script: Script,
        place: Place,
        *,
        speed: str = "max",
        compare: str = "",
        deadline: float = DEADLINE,
        command: list[str] | None = None,
        readable: bool = False,
    ) -> None:
        """`command` starts the process otherwise; `readable`: nothing is served by machine code."""
        self._script = script
        self._place = place
        self._real = speed == "real"
        self._mode = compare or mode_of(place.device)
        if self._mode not in MODES:
            raise ConfigError(f"answers cannot be compared {self._mode}", hint=f"There are {', '.join(MODES)}.")
        self._deadline = deadline
        self._device = {**script.device, "device": script.device["device"]}
        self._size = _ram_for(script)
        self._front = FrontEnd(
            place.device, place.properties, backend=place.backend, lent=place.lent, ram_size=self._size
        )
        if command is not None:
            self._front.command = command
        self._front.deadline = max(deadline, self._front.deadline)
        self._readable = readable
        self._rings = Rings(self._front, self._size)
        self._flying: dict[int, Request] = {}
        self._result = Result(script.device["id"], place.describe(), lost=script.lost, cut=script.cut)
        self._frames: dict[int, bytes] = {}  # that come from outside, by the request that has the beginning
        if place.wire is not None:
            self._frames = {first.number: frame.data for first, frame in received_frames(script.requests)}
            script.steps = buffers_first(script.steps)

    def play(self) -> Result:
        """All steps, until the device dies. Raises ConfigError when it does not start."""
        try:
            try:
                self._start()
                self._steps()
            except (RuntimeError, ProtocolError, DeadlineMissed) as error:
                self._died(str(error))
            except BrokenPipeError:
                self._died("is gone")
        finally:
            self._result.log = self._front.logs[-LOG_LINES:]
            self._front.close()
        return self._result

    # -- the steps -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        try:
            more = {"readable": True} if self._readable else {}
            self._front.start(id=self._script.device["id"], **more)
        except RuntimeError as error:
            first, _, hint = str(error).partition("\n")
            raise ConfigError(f"{self._place.describe()} does not start: {first}", hint=hint) from error
        region = {"region": 0, "gpa": GPA, "size": self._size, "writable": True}
        self._front.request("MEM_TABLE", {"regions": [region]})
        self._front.request("INFLIGHT", {"queues": QUEUES, "size": QUEUE_SIZE})
        wire = self._place.wire
        if wire is not None and not parse_uri(self._place.backend).backend.link:
            wire.send(Word.UP.to_bytes(4, "little"))

    def _steps(self) -> None:
        handlers: dict[str, Callable[[Step], None]] = {
            "features": self._features,
            "ring": lambda step: self._rings.add(step.queue, self._fit(step.queue, step.value)),
            "ok": lambda step: self._front.driver_ok(),
            "reset": self._reset,
            "config": lambda step: self._config(step),
            "pop": self._pop,
            "done": self._done,
        }
        begun = time.monotonic()
        first = next((step.time for step in self._script.steps if step.kind == "pop"), 0)
        for step in self._script.steps:
            if self._real and step.kind == "pop":
                time.sleep(max(0.0, (step.time - first) / 1e9 - (time.monotonic() - begun)))
            handlers[step.kind](step)
            if self._result.unanswered >= PATIENCE:
                break
        for request in list(self._flying.values()):  # those that had no answer then, or of which nothing is known
            if self._result.unanswered < PATIENCE and request.pop.queue not in self._script.passive:
                self._expect_any(request)
        self._result.seconds = time.monotonic() - begun

    def _features(self, step: Step) -> None:
        offered = self._front.hello["features"] | bit(Feature.VERSION_1)
        wanted = offered if step.value < 0 else step.value
        self._result.missing_features |= wanted & ~offered
        self._front.features = wanted & offered
        self._front.request("FEATURES_OK", {"features": self._front.features})

    def _fit(self, queue: int, size: int) -> int:
        sizes = self._front.hello["queues"]
        if queue >= len(sizes):
            raise ConfigError(f"{self._place.describe()} has no queue {queue}", hint="Is it the right device?")
        return min(size, int(sizes[queue]))

    def _reset(self, step: Step) -> None:
        self._front.request("RESET")
        self._rings.forget()
        self._flying.clear()

    def _config(self, step: Step) -> None:
        self._front.request("CONFIG_SET", {"offset": step.value, "data": step.data})

    def _pop(self, step: Step) -> None:
        request = step.request
        assert request is not None
        whole = len(request.readable) == sum(request.sizes)
        if request.pop.status or not whole or request.pop.queue not in self._front.queues:
            self._result.skipped += 1
            return
        self._result.requests += 1
        self._flying[request.number] = request
        self._rings.submit(request)

    def _done(self, step: Step) -> None:
        request = step.request
        assert request is not None
        if request.number not in self._flying:
            return
        if self._place.wire is not None:
            self._received(request)
        elif request.pop.queue in self._script.passive:
            return  # what it was told from outside does not come again
        answer = self._rings.wait(request, self._deadline)
        del self._flying[request.number]
        self._result.compared += 1
        self._compare(request, answer)
        if self._place.wire is not None and request.pop.queue % 2 and len(request.readable) > NET_HEADER:
            self._sent(request)

    def _expect_any(self, request: Request) -> None:
        answer = self._rings.wait(request, self._deadline)
        if answer is None:
            self._differ(request, f"it is not answered within {self._deadline:g} s", None)

    def _compare(self, request: Request, answer: Answer | None) -> None:
        if answer is None:
            self._differ(request, f"it is not answered within {self._deadline:g} s", None)
            return
        why = differs(self._device, request, answer.used, answer.data, self._mode)
        if why:
            self._differ(request, why, answer.data)

    def _differ(self, request: Request, why: str, got: bytes | None) -> None:
        self._result.unanswered += got is None
        telling = telling_of(self._device, request)
        self._result.differences.append(Difference(telling, why, request.written, got))

    # -- a network card's cable ------------------------------------------------------------------------------------

    def _received(self, request: Request) -> None:
        """The driver was given a frame: have it come again, whole, when its first buffer is due."""
        frame = self._frames.get(request.number)
        if frame is None:
            return
        assert self._place.wire is not None
        self._place.wire.settimeout(self._deadline)
        with contextlib.suppress(OSError):  # a device that is dead, or does not read: its answer says so
            self._place.wire.send(request.written[:10] + bytes(2) + frame)

    def _sent(self, request: Request) -> None:
        """The frame must come out at the other end; checksums and segments may be the device's by then."""
        assert self._place.wire is not None
        self._place.wire.settimeout(self._deadline)
        try:
            for _ in range(pieces_of(request, parse_uri(self._place.backend).backend.takes)):
                while len(data := self._place.wire.recv(1 << 18)) == 4:
                    pass
        except TimeoutError:
            self._differ(request, "the frame does not come out of the card", None)
            return
        if not any(request.readable[:NET_HEADER]) and data[NET_HEADER:] != request.readable[NET_HEADER:]:
            self._differ(request, "another frame comes out of the card", data)

    # -- its end ---------------------------------------------------------------------------------------------------

    def _died(self, what: str) -> None:
        process = self._front.process
        if process is not None:
            with contextlib.suppress(Exception):
                process.wait(2)
            status = process.poll()
            if status is not None:
                what = f"ended with status {status}" if status >= 0 else f"was killed by signal {-status}"
        self._front.hear()
        what += f": {self._front.failure}" if self._front.failure else ""
        words = ""
        if self._flying:
            telling = telling_of(self._device, next(iter(self._flying.values())))
            words = f"; it had taken request {telling['number']}: {telling['op']}  {telling['words']}".rstrip()
        self._result.died = what + words


def pieces_of(request: Request, takes: int) -> int:
    """How many frames the card makes of one that it was sent: a large one is cut for a backend that takes none."""
    head, frame = request.readable[:NET_HEADER], request.readable[NET_HEADER:]
    size, start = struct.unpack_from("<HH", head, 4)
    large = int(GSO.get(head[1] & 0x7F, 0))
    if not large or takes & large or not size or len(frame) < start + 20:
        return 1
    payload = int(len(frame) - start - 4 * (frame[start + 12] >> 4))
    return -(-payload // int(size))


def _ram_for(script: Script) -> int:
    """Bytes of RAM: four times what is in flight at most, and some."""
    flying = most = 0
    for step in script.steps:
        if step.request is not None:
            flying += room_of(step.request) * (1 if step.kind == "pop" else -1)
            most = max(most, flying)
    return -(-(BUFFERS + 4 * most + SLACK) // os.sysconf("SC_PAGESIZE")) * os.sysconf("SC_PAGESIZE")
