"""A disk whose every step can be held: what the tests of swaps put in the place of a healthy one.

While the file `hold-STEP` exists beside this one, the device stands still at that step of its life.
"""

from __future__ import annotations

import os
import time
from typing import Any

from devproc.blk.device import BlockDevice

HERE = os.path.dirname(os.path.abspath(__file__))


def hold(step: str) -> None:
    """Stand still while the file is there."""
    while os.path.exists(os.path.join(HERE, f"hold-{step}")):
        time.sleep(0.002)


class Held(BlockDevice):
    """A disk with doors. Not a fast one: requests are handled in Python."""

    tries = 0

    def start(self) -> None:
        hold("again" if self.tries else "start")
        self.tries += 1
        super().start()

    def native_loop(self, engine: Any, queues: Any) -> None:
        return None

    def handle(self, request: Any) -> None:
        hold("handle")
        super().handle(request)

    def save(self) -> bytes:
        hold("save")
        return super().save()

    def load(self, version: int, data: bytes) -> None:
        hold("load")
        super().load(version, data)

    def taken_over(self) -> None:
        hold("taken-over")
        super().taken_over()
