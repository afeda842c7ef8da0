"""What happens to a machine, told to whoever watches: EVENT{name, id, time, …} packets on control connections.

    DEVICE_STARTED    {pid, epoch}                      it serves, for the first time since the machine started
    DEVICE_DIED       {pid, epoch, what, restarts}      its process is dead, and nobody ordered that
    DEVICE_RESTARTED  {pid, epoch, ms}                  a successor serves, so long after the death
    DEVICE_HUNG       {pid, what}                       it will be killed
    DEVICE_STUCK      {pid, what}                       it cannot be killed
    GUEST_RESET, CLIENT_GONE, ENDING {reason, code}     of the whole machine: `id` is empty

and those that other parts of the keeper publish. `time` is seconds since 1970. Nobody waits for a watcher: one that
does not read loses events, and is told how many, LOST{count}, before the next one that it gets.
"""

from __future__ import annotations

import time
from typing import Any

from proto.channel import Channel
from proto.errors import ChannelClosed

__all__ = ["Events"]


class Events:
    """Who watches, and how much each has missed."""

    def __init__(self) -> None:
        self._missed: dict[Channel, int] = {}

    def publish(self, name: str, id: str = "", **data: Any) -> None:
        """Tell every watcher. Never blocks."""
        event = {**data, "name": name, "id": id, "time": time.time()}
        for channel in list(self._missed):
            self._tell(channel, event)

    def watch(self, channel: Channel) -> None:
        """From now on this connection, which does not block, gets all events."""
        self._missed.setdefault(channel, 0)

    def forget(self, channel: Channel) -> None:
        """The connection is about to be closed."""
        self._missed.pop(channel, None)

    def _tell(self, channel: Channel, event: dict[str, Any]) -> None:
        try:
            if self._missed[channel]:
                channel.send("LOST", {"count": self._missed[channel]})
                self._missed[channel] = 0
            channel.send("EVENT", event)
        except BlockingIOError:
            self._missed[channel] += 1
        except ChannelClosed:
            self.forget(channel)  # its end-of-file closes it
