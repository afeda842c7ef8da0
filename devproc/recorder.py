"""Recording, in the device: the tap (`proto.tap`) that requests, answers and messages go into while somebody records.

`begin` maps the tap and writes SETUP: what this device is and what has been negotiated, as a replay needs it. From then
on rings write what is popped and given back, whatever loop serves them, and `message` what the session says. Without a
recorder it costs a comparison a request.
"""

from __future__ import annotations

import ctypes
import os
import zlib
from typing import Any

import msgpack

from devproc.device import Device, VirtioDevice
from devproc.queues import Queues
from native.memory import Area
from proto.tap import TAP_HEADER, EventFlag, EventKind, TapReader

__all__ = ["Recorder"]

TABLES_SHARE = 4  # what is remembered may take this part of the tap


class Recorder:
    """The tap of one process, if there is one now."""

    def __init__(self, engine: Any, device: Device, queues: Queues | None, epoch: int) -> None:
        self.active = False
        self._engine = engine
        self._device = device
        self._queues = queues
        self._epoch = epoch
        self._area: Area | None = None

    def begin(self, descriptor: int, status: int) -> None:
        """Write into this tap from now on; the descriptor is closed. One that is no tap is left alone."""
        self.end()
        size = os.fstat(descriptor).st_size
        try:
            if size <= TAP_HEADER:
                return
            area = Area.map_fd(descriptor, size, writable=True, shared=True, live_peer=True)
        finally:
            os.close(descriptor)
        try:
            view = area.view()
            TapReader(view).close()
            view.release()
        except ValueError:
            area.close()
            return
        self._area = area
        self.active = True
        self._write(EventKind.SETUP, 0, 0, msgpack.packb(self._setup(status, size // TABLES_SHARE)))
        if self._queues is not None:
            self._queues.tap(area.address)

    def end(self) -> None:
        """Write nothing more."""
        self.active = False
        if self._queues is not None:
            self._queues.tap(0)
        if self._area is not None:
            self._area.close()
            self._area = None

    def message(self, data: bytes, number: int, *, out: bool) -> None:
        """An encoded message of the session, as it was received or sent."""
        if self.active:
            self._write(EventKind.MESSAGE, EventFlag.OUT if out else 0, number, data)

    def _write(self, kind: EventKind, flags: int, id: int, data: bytes) -> None:
        assert self._area is not None
        kept = ctypes.create_string_buffer(data, len(data))
        self._engine.tap_note(self._area.address, kind, flags, id, ctypes.addressof(kept), len(data))

    def _setup(self, status: int, room: int) -> dict[str, Any]:
        device = self._device
        setup: dict[str, Any] = {"id": device.id, "pid": os.getpid(), "epoch": self._epoch, "status": status}
        if isinstance(device, VirtioDevice):
            setup |= {
                "device_id": int(device.device_id),
                "features": device.driver_features,
                "config": device.config_bytes(),
                "config_generation": device.config_generation,
                "passive": [n for n, queue in enumerate(device.queues) if queue.passive or queue.on_demand],
                "queues": self._queues.sizes() if self._queues is not None else {},
            }
            tables = {name: list(table.items()) for name, table in device.remembered().items()}
            data = zlib.compress(msgpack.packb(tables), 1) if any(tables.values()) else b""
            setup |= {"tables": data} if 0 < len(data) <= room else {}
        return setup
