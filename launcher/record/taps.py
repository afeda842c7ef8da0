"""The recorder's end of the taps of a machine: ask the keeper for them, read what comes, end it."""

from __future__ import annotations

import mmap
import os
import select
import time
from typing import Any

from launcher.control import connect, exchange
from proto.errors import ConfigError
from proto.tap import TapReader

__all__ = ["Taps"]

SETTLE = 0.02  # seconds in which an event that was begun before the end is finished


class Taps:
    """The taps of some devices of one machine. Raises ConfigError when the keeper has none for us."""

    def __init__(self, machine: str, ids: list[str], *, size: int, block: bool) -> None:
        self._channel = connect(machine)
        self._maps: dict[str, tuple[mmap.mmap, memoryview, TapReader]] = {}
        self._alive = -1
        try:
            packet = exchange(self._channel, "RECORD", ids=ids, size=size, block=block)
            answer, fds = packet.body, packet.fds
        except BaseException:
            self._channel.close()
            raise
        self.machine: str = answer["machine"]
        self.devices: list[dict[str, Any]] = answer["devices"]
        self._alive = fds.pop("alive")
        for id, fd in fds.items():
            area = mmap.mmap(fd, os.fstat(fd).st_size)
            os.close(fd)
            view = memoryview(area)
            self._maps[id] = (area, view, TapReader(view))

    def read(self) -> list[tuple[str, bytes]]:
        """What is new: whole events, by device."""
        found = []
        for id, (_, _, reader) in self._maps.items():
            try:
                data = reader.read()
            except ValueError as error:
                raise ConfigError(f"{id}: {error}") from error
            if data:
                found.append((id, data))
        return found

    def wait(self, seconds: float) -> bool:
        """Sleep a little. False when the machine has ended."""
        ready, _, _ = select.select([self._channel], [], [], seconds)
        return not ready

    def stop(self) -> list[tuple[str, bytes]]:
        """Have nothing written any more. What there still was."""
        for _, _, reader in self._maps.values():
            reader.stop()
        time.sleep(SETTLE)
        return self.read()

    def close(self) -> None:
        """Let go: the devices forget it."""
        for area, view, reader in self._maps.values():
            reader.close()
            view.release()
            area.close()
        self._maps.clear()
        if self._alive >= 0:
            os.close(self._alive)
            self._alive = -1
        self._channel.close()
