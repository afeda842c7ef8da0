"""What the author of a device writes: a subclass of `VirtioDevice` or of `MmioDevice`, one screen long.

    class Entropy(VirtioDevice):
        device_id = 4
        queues = (Queue("requests", size=64),)

        def handle(self, request):
            request.write(os.urandom(request.writable))

The runtime owns negotiation, rings, in-flight tables, recovery, logging, statistics and shutdown. A device owns what
makes it that device: its number, queues and features, its configuration space, its properties (`Property`), the
fields of its state (`State`), and what it does with a request or a register access. Everything is called on one
thread.

docs/write-a-device.md is the tutorial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from select import POLLIN
from typing import Any

import msgpack

from devproc.properties import parse_properties
from devproc.refusal import refuse
from devproc.request import Request
from native import Record
from native.memory import Area
from proto.errors import ProtocolError

__all__ = ["Device", "MmioDevice", "Queue", "State", "VirtioDevice"]


@dataclass(frozen=True)
class Queue:
    """One virtqueue: its name, and the largest size the driver may choose (a power of two).

    `in_order`: requests are given back in the order in which they were taken. What a killed process had taken then
    simply returns to the available ring, instead of coming again at once: buffers that wait for something to arrive.
    `passive`: its buffers wait for something to come, and are not to blame when the process dies.
    `on_demand`: nothing is taken from it except while the device wants something (`want`).
    """

    name: str
    size: int = 256
    in_order: bool = False
    passive: bool = False
    on_demand: bool = False


class State:
    """One field of a device's state: what SAVE takes and LOAD gives back. Plain values only (numbers, text, bytes,
    lists, maps).

    `count = State(0)`; on an instance, `self.count` is the value.
    """

    def __init__(self, default: Any = 0) -> None:
        self.default = default
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self.name not in instance.__dict__:
            default = self.default
            instance.__dict__[self.name] = default.copy() if isinstance(default, (list, dict, bytearray)) else default
        return instance.__dict__[self.name]

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.name] = value


class Device:
    """What both kinds of device share. Not subclassed directly."""

    starts_late = False  # in a swap, `start` is called when the predecessor is quiet and has released what it had
    waits = False  # a request may wait for the host (files, a network): however long that takes, it is no hang
    state_version = 1  # counts up whenever the fields change; `upgrade` then reads the older ones

    def __init__(self, id: str, properties: Mapping[str, Any], *, backend: str = "", owner: str = "") -> None:
        self.id = id
        self.backend = backend
        self.log: Callable[..., None] = lambda text, level=20: None
        self.descriptors: dict[str, int] = {}  # what the keeper holds for the device and lends it, by name
        self.store: Callable[[str, int], None] = lambda name, fd: None  # leave one with the keeper, for a successor
        self.unstore: Callable[[str], None] = lambda name: None
        # for the trace: a call of what is behind the device, how many ns it took, its errno
        self.traced: Callable[..., None] = lambda request, call, nanoseconds, error=0: None
        self.watch: Callable[..., None] = lambda fd, ready, events=POLLIN: None
        self.unwatch: Callable[[int], None] = lambda fd: None
        self.away: Callable[[str], None] = lambda why: None  # it waits for somebody, it may be for ever; "": no longer
        self.quiet: Callable[[], bool] = lambda: False  # nothing may change the guest's memory now
        self.__dict__.update(parse_properties(type(self), properties, owner or type(self).__name__))

    def start(self) -> None:
        """Open what the device needs. Raises ConfigError (the user can mend it) or BackendError."""

    def stop(self) -> None:
        """Let everything go, what was written safely stored. Called once, in an orderly end only."""

    def reset(self) -> None:
        """The driver reset the device: back to how `start` left it."""

    def release(self) -> None:
        """Nothing is in flight, and a successor is about to start: let go of what it needs for itself alone."""

    def reclaim(self) -> None:
        """The successor did not come up, and this process goes on: take again what `release` let go. Raises what
        `start` raises."""

    def taken_over(self) -> None:
        """A successor in a swap is now the device; `load` came before, if there was a state."""

    def tick(self) -> None:
        """Called twice a second or so while the device lives."""

    def told(self, kind: str, body: dict[str, Any]) -> None:
        """The keeper says something that is this kind of device's own business."""

    def save(self) -> bytes:
        """The state fields, packed."""
        packed: bytes = msgpack.packb({name: getattr(self, name) for name in self._state_fields()})
        return packed

    def load(self, version: int, data: bytes) -> None:
        """Take over a saved state. Raises ProtocolError when it is not of a kind this device knows."""
        try:
            fields = msgpack.unpackb(data)
        except Exception as error:
            raise ProtocolError(f"the state of {self.id} is damaged: {error}", field="state") from error
        if not isinstance(fields, dict):
            raise ProtocolError(f"the state of {self.id} is not a map", field="state")
        if version != self.state_version:
            fields = self.upgrade(version, fields)
        known = self._state_fields()
        if set(fields) != set(known):
            wrong = sorted(set(fields) ^ set(known), key=str)
            raise ProtocolError(f"the state of {self.id}: field {wrong[0]!r} is missing or unknown", field="state")
        for name in known:
            setattr(self, name, fields[name])

    def upgrade(self, version: int, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of an older version as those of this one."""
        raise ProtocolError(
            f"{self.id}: cannot take over state version {version}, this device writes {self.state_version}",
            field="version",
        )

    @classmethod
    def _state_fields(cls) -> list[str]:
        return [
            name for base in reversed(cls.__mro__) for name, value in vars(base).items() if isinstance(value, State)
        ]


class VirtioDevice(Device):
    """A virtio device: the runtime pops requests from its queues and calls `handle`."""

    device_id = 0  # proto.virtio.DeviceId
    queues: tuple[Queue, ...] = ()
    features = 0  # the device's own feature bits; ring features are the runtime's to offer
    Config: type[Record] | None = None  # the layout of the configuration space

    def __init__(self, id: str, properties: Mapping[str, Any], *, backend: str = "", owner: str = "") -> None:
        super().__init__(id, properties, backend=backend, owner=owner)
        self.driver_features = 0
        self.config_generation = 0
        self._config_area = Area.allocate(self.Config.size()) if self.Config else None
        self.config: Any = self.Config(self._config_area.address) if self.Config and self._config_area else None
        self.config_changed: Callable[[], None] = lambda: None
        self.want: Callable[[int, bool], None] = lambda queue, wanted: None  # of a queue that is served on demand
        self.native_pop: Callable[[Any, Any], int] | None = None  # in place of `ring_pop`, from a machine-code loop
        self.lent: Callable[[], int] = lambda: 0  # requests of its machine-code loop's that nothing needs to wait for
        self.posted: Callable[[int], bool] = lambda queue: False  # has the driver put something there?

    def handle(self, request: Request) -> None:
        """Carry out one request. It is given back when this returns, unless it was deferred (`request.defer()`).

        BackendError and OSError fail the request (`failed`); anything else ends the process, and a successor is
        handed the same request again.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what to do with a request")

    def failed(self, request: Request, error: Exception) -> None:
        """The request could not be carried out: say so in the device's own way. Also of a request that was condemned
        and never came to `handle`. Default: the I/O error of this kind of device, if there is one
        (`devproc.refusal`)."""
        refuse(self.device_id, request)

    def malformed(self, request: Request) -> None:
        """The driver built a chain that cannot be followed (`request.error`). Default: give it back with nothing
        written."""

    def negotiated(self) -> None:
        """The driver accepted `self.driver_features`."""

    def config_bytes(self) -> bytes:
        """The configuration space as it is now."""
        return bytes(self._config_area.view()[: self.Config.size()]) if self.Config and self._config_area else b""

    def config_written(self, offset: int, data: bytes) -> None:
        """The driver wrote the configuration space. Default: nothing in it can be written."""

    def remembered(self) -> dict[str, dict[int, Any]]:
        """What the device must know of earlier requests to answer the next one as it will, as plain tables by name. A
        recording has them, and a replay of it lends them again. Default: nothing."""
        return {}

    def readable(self, on: bool) -> bool:
        """There are rules that stop requests (`devproc.breaks`), or no more: serve everything through `handle`. False:
        the device's own loop sees to that; by default the runtime's takes its place."""
        return on

    def native_loop(self, engine: Any, queues: Any) -> Callable[[], int] | None:
        """A machine-code loop that serves the queues by itself (as `devproc.loop.wait_for_work` does for `handle`),
        or None."""
        return None


class MmioDevice(Device):
    """A device that is not virtio: a window of registers, and one level-triggered interrupt line."""

    mmio_size = 0x1000
    compatible = ""  # the device tree's word for it

    def __init__(self, id: str, properties: Mapping[str, Any], *, backend: str = "", owner: str = "") -> None:
        super().__init__(id, properties, backend=backend, owner=owner)
        self.set_interrupt: Callable[[bool], None] = lambda level: None

    def mmio_read(self, offset: int, size: int) -> int:
        """The value of `size` bytes at `offset`, naturally aligned. Carried out at most once."""
        raise NotImplementedError(f"{type(self).__name__} has no readable registers")

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes at `offset`. Carried out at most once, in order."""
        raise NotImplementedError(f"{type(self).__name__} has no writable registers")
