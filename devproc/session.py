"""The device's side of a session: what each message of the core does, and in which state it may come.

    HELLO sent ── answered ──▶ OPEN ── STATUS with DRIVER_OK ──▶ RUNNING ── QUIESCE ──▶ QUIET ── RESUME ──▶ RUNNING
                                ▲                                   │
                                └────────────── RESET ──────────────┘

A process that shall replace another in a swap is a CANDIDATE until TAKE_OVER, and then OPEN: before that it may be
asked what it offers and be given a state, and has nothing to do with pages and rings.

The core replays to every new process what the driver had settled, in this order: MEM_TABLE, INFLIGHT, FEATURES_OK,
RING_SETUP and RING_ENABLE of each queue, STATUS. Everything but MMIO may come twice. A message that its state does
not allow is answered with an error (StateError); a request that waits for quiet (RESET, QUIESCE, GET_BASE,
RING_ENABLE off) is answered when nothing that it concerns is in flight.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from devproc.device import Device, MmioDevice, VirtioDevice
from devproc.queues import Queues
from proto.errors import BulkheadError, ProtocolError, StateError
from proto.memory import GuestMemory
from proto.messages import MESSAGES, VERSION, Message, decode, encode
from proto.pages import layout_hash
from proto.virtio import Feature, Status, bit

__all__ = ["RING_FEATURES", "Session", "State"]

RING_FEATURES = bit(Feature.VERSION_1) | bit(Feature.RING_INDIRECT_DESC) | bit(Feature.RING_EVENT_IDX)


class State(IntEnum):
    """Where a session is."""

    CONNECTING = 0
    OPEN = 1
    RUNNING = 2
    QUIET = 3
    CANDIDATE = 4


_LIVE = frozenset({State.OPEN, State.RUNNING, State.QUIET})
_ALLOWED = {  # message: the states in which it may come; the others may come in all but CONNECTING
    "FEATURES_OK": frozenset({State.OPEN, State.RUNNING}),
    "KICK": frozenset({State.OPEN, State.RUNNING, State.QUIET}),
    "SAVE": frozenset({State.OPEN, State.QUIET}),
    "LOAD": frozenset({State.OPEN, State.QUIET, State.CANDIDATE}),
    "RELEASE": frozenset({State.QUIET}),
    "TAKE_OVER": _LIVE | {State.CANDIDATE},
    "FEATURES": _LIVE | {State.CANDIDATE},
    "CONFIG_GET": _LIVE | {State.CANDIDATE},
    "RESUME": frozenset({State.RUNNING, State.QUIET}),
}


class Session:
    """One device process's session with the core. `send` transmits one encoded message, or says that it could not."""

    def __init__(
        self,
        device: Device,
        queues: Queues | None,
        memory: GuestMemory,
        engine: Any,
        page: int,
        epoch: int,
        send: Callable[[bytes], bool],
    ) -> None:
        self.device = device
        self.state = State.CONNECTING
        self.status = 0
        self.refused: str | None = None  # why the core would not have this process
        self.candidate = False  # not the device yet: a predecessor has pages and rings
        self.take_over: Callable[[], None] = lambda: None
        self._queues = queues
        self._memory = memory
        self._engine = engine
        self._page = page
        self._epoch = epoch
        self._send = send
        self._seq = 0
        self._waiting: list[tuple[Callable[[], bool], Callable[[], None]]] = []  # (is it quiet?, then answer)
        self._running_before = State.OPEN
        self._released = False
        self._unheard: dict[tuple[str, int | None], tuple[int, dict[str, Any]]] = {}  # what was said → seq, body
        self._answers: dict[str, Callable[[dict[str, Any], Message], dict[str, Any] | None]] = {
            "FEATURES": self._features,
            "FEATURES_OK": self._features_ok,
            "MEM_TABLE": self._mem_table,
            "INFLIGHT": self._inflight,
            "RING_SETUP": self._ring_setup,
            "RING_ENABLE": self._ring_enable,
            "GET_BASE": self._get_base,
            "CONFIG_GET": self._config_get,
            "CONFIG_SET": self._config_set,
            "STATUS": self._status,
            "RESET": self._reset,
            "QUIESCE": self._quiesce,
            "RESUME": self._resume,
            "SAVE": self._save,
            "LOAD": self._load,
            "RELEASE": self._release,
            "TAKE_OVER": self._take_over,
            "KICK": self._kick,
            "MMIO_READ": self._mmio_read,
            "MMIO_WRITE": self._mmio_write,
        }

    # -- sending ---------------------------------------------------------------------------------------------------

    def hello(self, pid: int) -> bool:
        """The first message."""
        device = self.device
        virtio = device if isinstance(device, VirtioDevice) else None
        return self.post(
            "HELLO",
            {
                "id": device.id,
                "epoch": self._epoch,
                "version": VERSION,
                "layout": layout_hash(),
                "pid": pid,
                "device_id": virtio.device_id if virtio else 0,
                "queues": [queue.size for queue in virtio.queues] if virtio else [],
                "features": self._offered(),
                "config": virtio.config_bytes() if virtio else b"",
                "config_generation": virtio.config_generation if virtio else 0,
                "mmio_size": device.mmio_size if isinstance(device, MmioDevice) else 0,
            },
        )

    def post(self, name: str, body: dict[str, Any], correlation: int = 0) -> bool:
        """Send a message that is the device's to begin. False when the core does not read, or is gone."""
        self._seq += 1
        return self._send(encode(name, body, epoch=self._epoch, seq=self._seq, correlation=correlation))

    def say(self, name: str, body: dict[str, Any]) -> None:
        """Send what is nowhere but in this message: `repeat` sends it again until the core has answered it, or the
        same of the same queue is said anew."""
        self.post(name, body)
        self._unheard[name, body.get("queue")] = (self._seq, body)

    def repeat(self) -> None:
        """Say again what was not heard; at every beat."""
        if self.state not in (State.CONNECTING, State.CANDIDATE):
            for (name, _), (seq, body) in self._unheard.items():
                self._send(encode(name, body, epoch=self._epoch, seq=seq))

    # -- receiving -------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Handle one message. Raises ProtocolError when it cannot even be answered; others' mistakes are answered."""
        message = decode(data)
        if message.epoch != self._epoch:
            return
        if message.reply:
            self._reply(message)
            return
        kind = MESSAGES[message.name]
        if kind.sender != "core":
            raise ProtocolError(f"{message.name} is the device's to send", field="type")
        try:
            if self.state not in _ALLOWED.get(message.name, _LIVE):
                raise StateError(f"{message.name} while {self.state.name}", field="type")
            answer = self._answers[message.name](message.body, message)
        except BulkheadError as error:
            if kind.posted:
                raise
            self._answer(message, _refusal(error), error=True)
            return
        if answer is not None and not kind.posted:
            self._answer(message, answer)

    @property
    def waits(self) -> bool:
        """Does somebody wait for quiet?"""
        return bool(self._waiting)

    def settle(self) -> None:
        """Answer whoever waited for quiet and has it now. Called whenever requests were given back."""
        due = [then for quiet, then in self._waiting if quiet()]
        if due:
            self._waiting = [(quiet, then) for quiet, then in self._waiting if then not in due]
            for then in due:
                then()

    def _reply(self, message: Message) -> None:
        if message.name != "HELLO":
            self._unheard = {what: said for what, said in self._unheard.items() if said[0] != message.seq}
            return
        if message.error:
            self.refused = message.body["text"]
        elif self.state is State.CONNECTING:
            self.state = State.CANDIDATE if self.candidate else State.OPEN

    def _answer(self, message: Message, body: dict[str, Any], error: bool = False) -> None:
        self._send(
            encode(
                message.name,
                body,
                epoch=self._epoch,
                seq=message.seq,
                correlation=message.correlation,
                reply=True,
                error=error,
            )
        )

    def _when_quiet(self, message: Message, quiet: Callable[[], bool], then: Callable[[], dict[str, Any]]) -> None:
        self._waiting.append((quiet, lambda: self._answer(message, then())))
        self.settle()

    # -- negotiation -----------------------------------------------------------------------------------------------

    def _virtio(self) -> VirtioDevice:
        if not isinstance(self.device, VirtioDevice):
            raise StateError(f"{self.device.id} is not a virtio device", field="type")
        return self.device

    def _need_queues(self) -> Queues:
        self._virtio()
        assert self._queues is not None
        return self._queues

    def _offered(self) -> int:
        return self.device.features | RING_FEATURES if isinstance(self.device, VirtioDevice) else 0

    def _features(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        return {"features": self._offered()}

    def _features_ok(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        """3.1.1 step 5: refuse what was not offered, and a legacy driver."""
        device = self._virtio()
        accepted = body["features"]
        if accepted & ~self._offered() or not accepted & bit(Feature.VERSION_1):
            raise ProtocolError(f"features {accepted:#x} of {self._offered():#x}", field="features", value=accepted)
        device.driver_features = accepted
        device.negotiated()
        return {}

    def _mem_table(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        self._memory.set_table(body["regions"])
        if self._queues is not None:
            self._queues.move()
        return {}

    def _inflight(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        self._need_queues().set_inflight(body["queues"], body["size"])
        return {}

    def _ring_setup(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        self._need_queues().setup(body)
        return {}

    def _ring_enable(self, body: dict[str, Any], message: Message) -> dict[str, Any] | None:
        queues = self._need_queues()
        if not body["enabled"]:
            self._stop_queue(body["queue"], message, lambda base: {})
            return None
        if queues.has(body["queue"]) and not self._virtio().driver_features & bit(Feature.VERSION_1):
            raise StateError("RING_ENABLE before FEATURES_OK", field="type")  # it was lost: rings would be misread
        again = queues.begin(body["queue"])
        if again:
            comes = "request comes" if again == 1 else "requests come"
            self.device.log(f"{self.device.id}: queue {body['queue']}: {again} {comes} again", 20)
        queues.report_broken()
        if self.state is State.QUIET:
            queues.pause()
        return {}

    def _get_base(self, body: dict[str, Any], message: Message) -> None:
        self._stop_queue(body["queue"], message, lambda base: {"base": base})

    def _stop_queue(self, index: int, message: Message, answer: Callable[[int], dict[str, Any]]) -> None:
        queues = self._need_queues()
        queues.drain(index)
        self._when_quiet(message, lambda: not queues.in_flight(index), lambda: answer(queues.end(index)))

    def _status(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        self.status = body["status"]
        if self.status & Status.DRIVER_OK and self.state is State.OPEN:
            self.state = State.RUNNING
        if self.status & Status.DRIVER_OK and self._queues is not None:
            self._queues.told_everything()
        return {}

    # -- configuration ---------------------------------------------------------------------------------------------

    def _config_get(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        device = self._virtio()
        return {"config": device.config_bytes(), "generation": device.config_generation}

    def _config_set(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        device = self._virtio()
        if body["offset"] + len(body["data"]) <= len(device.config_bytes()):
            device.config_written(body["offset"], body["data"])
        return self._config_get(body, message)

    # -- stopping and going on -------------------------------------------------------------------------------------

    def _reset(self, body: dict[str, Any], message: Message) -> None:
        queues = self._queues
        if queues is not None:
            queues.pause()

        def forget() -> dict[str, Any]:
            self.device.reset()
            if queues is not None:
                queues.forget()
            if isinstance(self.device, VirtioDevice):
                self.device.driver_features = 0
            self.status = 0
            self.state = State.OPEN
            return {}

        self._when_quiet(message, lambda: queues is None or not queues.busy(), forget)

    def _quiesce(self, body: dict[str, Any], message: Message) -> None:
        queues = self._queues
        if self.state is not State.QUIET:
            self._running_before = self.state
            self.state = State.QUIET
        if queues is not None:
            queues.pause()
        self._when_quiet(
            message,
            lambda: queues is None or not queues.busy(),
            lambda: {"in_flight": queues.in_flight() if queues is not None else 0},
        )

    def _resume(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        if self.state is State.QUIET:
            if self._released:
                self._reclaim()
            self.state = self._running_before
            if self._queues is not None:
                self._queues.resume()
        return {}

    def _save(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        return {"version": self.device.state_version, "state": self.device.save()}

    def _load(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        self.device.load(body["version"], body["state"])
        return {}

    def _reclaim(self) -> None:
        """Without what it had released the device is none: a failure ends this process, and a successor starts."""
        try:
            self.device.reclaim()
        except BulkheadError as error:
            raise RuntimeError(error.describe()) from error
        self._released = False

    def _release(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        if not self._released:
            self.device.release()
            self._released = True
        return {}

    def _take_over(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        if self.state is State.CANDIDATE:
            self.state = State.OPEN
            self.candidate = False
            self.take_over()
        return {}

    # -- notifications and MMIO ------------------------------------------------------------------------------------

    def _kick(self, body: dict[str, Any], message: Message) -> None:
        """Nothing to do: whoever received this is awake now, and looks at every ring."""

    def _mmio(self) -> MmioDevice:
        if not isinstance(self.device, MmioDevice):
            raise StateError(f"{self.device.id} has no registers of its own", field="type")
        return self.device

    def _mmio_read(self, body: dict[str, Any], message: Message) -> dict[str, Any]:
        """At most once: a read that was begun before, here or by a predecessor, gives all ones."""
        device, size = self._mmio(), body["size"]
        ones = (1 << 8 * size) - 1
        if not self._in_window(device, body) or not self._engine.mmio_begin(self._page, body["sequence"]):
            return {"value": ones}
        value = device.mmio_read(body["offset"], size) & ones
        self._engine.mmio_end(self._page, body["sequence"], value)
        return {"value": value}

    def _mmio_write(self, body: dict[str, Any], message: Message) -> None:
        device = self._mmio()
        if self._in_window(device, body) and self._engine.mmio_begin(self._page, body["sequence"]):
            device.mmio_write(body["offset"], body["size"], body["value"])
            self._engine.mmio_end(self._page, body["sequence"], 0)

    @staticmethod
    def _in_window(device: MmioDevice, body: dict[str, Any]) -> bool:
        offset, size = body["offset"], body["size"]
        if size not in (1, 2, 4, 8):
            raise ProtocolError(f"an access of {size} bytes", field="size", value=size)
        return bool(offset % size == 0 and offset + size <= device.mmio_size)


def _refusal(error: BulkheadError) -> dict[str, Any]:
    body = {"code": type(error).__name__[:32], "text": str(error)[:1024]}
    return body | {"hint": error.hint[:1024]} if error.hint else body
