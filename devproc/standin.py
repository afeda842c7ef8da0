"""What stands in for a device in quarantine: it needs no backend and none of the device's code, and says no.

Every request is given back with the I/O error of its kind of device (`devproc.refusal`), so that the guest's programs
get EIO and do not hang. To the guest it is the same device: START's `standin` says what it took it for (device id,
queues, features, configuration space). A driver that stops, resets or probes again finds it as it was.

    disks, shares    EIO
    network cards    the link is down; what is sent is dropped, nothing comes, orders are refused
    entropy          random bytes of the host all the same: virtio-rng has no error, and an answer without bytes leaves
                     Linux's driver without a request for ever
    others           requests come back with nothing written, but for buffers that wait for something to come
    registers        (a device that is not virtio) read as all ones; writes are lost; the interrupt is low
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from devproc.device import Device, MmioDevice, Queue, VirtioDevice
from devproc.refusal import refuse
from devproc.request import Request
from proto.virtio import DeviceId, NetFeature, NetStatus, bit

__all__ = ["make_standin"]

NET_STATUS = 6  # 5.1.4: where `status` is in the configuration space


def make_standin(id: str, seen: Mapping[str, Any]) -> Device:
    """The stand-in for what a guest has seen: `device_id`, `queues` (their largest sizes), `features`, `config`,
    `config_generation`, `mmio_size`, and `passive`, the queues whose buffers wait for something."""
    if not seen["device_id"]:
        return _Registers(id, seen)
    kinds = {DeviceId.NET: _Card, DeviceId.ENTROPY: _Entropy}
    return kinds.get(seen["device_id"], _Refusing)(id, seen)


class _Refusing(VirtioDevice):
    """Gives every request back with an error."""

    def __init__(self, id: str, seen: Mapping[str, Any]) -> None:
        super().__init__(id, {})
        passive = set(seen.get("passive", ()))
        self.device_id = seen["device_id"]
        self.features = seen["features"]
        self.queues = tuple(
            Queue(f"queue{index}", size, on_demand=index in passive) for index, size in enumerate(seen["queues"])
        )
        self.config_generation = seen["config_generation"]
        self._seen = bytes(seen["config"])

    def config_bytes(self) -> bytes:
        return self._seen

    def handle(self, request: Request) -> None:
        refuse(self.device_id, request)

    def malformed(self, request: Request) -> None:
        refuse(self.device_id, request)


class _Card(_Refusing):
    """A network card without a cable."""

    def __init__(self, id: str, seen: Mapping[str, Any]) -> None:
        super().__init__(id, seen)
        self.queues = tuple(
            Queue(queue.name, queue.size, in_order=True, passive=index % 2 == 0, on_demand=index % 2 == 0)
            for index, queue in enumerate(self.queues)
        )
        if self.features & bit(NetFeature.STATUS) and len(self._seen) > NET_STATUS:
            status = self._seen[NET_STATUS] & ~NetStatus.LINK_UP
            self._seen = self._seen[:NET_STATUS] + bytes([status]) + self._seen[NET_STATUS + 1 :]

    def negotiated(self) -> None:
        """5.1.2: the control queue is the one after the pairs; the others with an even number receive."""
        pairs = (len(self.queues) - 1) // 2 if self.driver_features & bit(NetFeature.MQ) else 1
        for index in range(0, len(self.queues), 2):
            self.want(index, index == 2 * pairs)


class _Entropy(_Refusing):
    """The host's random bytes."""

    def handle(self, request: Request) -> None:
        request.write(os.urandom(request.writable))


class _Registers(MmioDevice):
    """Nobody answers at these addresses."""

    def __init__(self, id: str, seen: Mapping[str, Any]) -> None:
        super().__init__(id, {})
        self.mmio_size = seen["mmio_size"]

    def mmio_read(self, offset: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Lost."""
