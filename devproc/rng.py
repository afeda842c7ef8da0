"""virtio-rng (virtio 1.2, 5.4): fills every buffer the driver offers with random bytes from the host."""

from __future__ import annotations

import os

from devproc.device import Queue, VirtioDevice
from devproc.request import Request
from proto.virtio import DeviceId


class Entropy(VirtioDevice):
    """Random bytes from the host's kernel."""

    device_id = DeviceId.ENTROPY
    queues = (Queue("requests", size=64),)

    def handle(self, request: Request) -> None:
        request.write(os.urandom(request.writable))
