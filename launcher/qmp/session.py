"""One client's conversation in QMP: JSON values in, lines of JSON out (QEMU Machine Protocol Specification).

Nothing here waits or touches a socket. A session begins with a greeting and takes only qmp_capabilities until that was
given. Every command is answered, in order, with its `id`; what is no command is answered with an error.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from launcher import __version__
from launcher.qmp.commands import EVENTS, check_arguments, find_command
from proto.errors import BulkheadError, ConfigError

__all__ = ["MOST_BYTES", "Session", "Values", "event_of", "version"]

MOST_BYTES = 1 << 20  # of one value
EVENT_OF = {event.of: event for event in EVENTS}
Line = dict[str, Any]


class Values:
    """Finds whole JSON objects in what arrives, in pieces of any size; between them may be white space."""

    def __init__(self) -> None:
        self._text = b""
        self._depth = 0
        self._at = 0  # looked at so far
        self._quoted = self._escaped = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The text of each object that is complete now. Raises ValueError when one has no end."""
        self._text += data
        while self._at < len(self._text):
            byte = self._text[self._at]
            self._at += 1
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif byte == ord("\\"):
                    self._escaped = True
                elif byte == ord('"'):
                    self._quoted = False
            elif byte == ord('"') and self._depth:
                self._quoted = True
            elif byte in b"{[":
                self._depth += 1
            elif byte in b"}]" and self._depth:
                self._depth -= 1
                if not self._depth:
                    yield self._take()
            elif byte == ord("\n") and not self._depth and (line := self._take().strip()):
                yield line  # which is no object
        if len(self._text) > MOST_BYTES:
            raise ValueError(f"a value of more than {MOST_BYTES} bytes")

    def _take(self) -> bytes:
        text, self._text, self._at = self._text[: self._at], self._text[self._at :], 0
        return text


class Session:
    """One conversation. `act(name, arguments)` carries a command out; it returns the result or raises BulkheadError."""

    def __init__(self, act: Callable[[str, dict[str, Any]], Any]) -> None:
        self.ready = False  # qmp_capabilities was given
        self._act = act

    def greeting(self) -> Line:
        """The first line."""
        return {"QMP": {"version": version(), "capabilities": []}}

    def answer(self, text: bytes) -> Line:
        """The answer to one value that the client has sent."""
        try:
            request = json.loads(text)
        except (ValueError, RecursionError) as error:
            return _error(f"JSON parse error: {error}")
        if not isinstance(request, dict):
            return _error("a request is an object")
        answer = self._carry_out(request)
        return answer | {"id": request["id"]} if "id" in request else answer

    def _carry_out(self, request: dict[str, Any]) -> Line:
        unknown = set(request) - {"execute", "arguments", "id"}
        name, arguments = request.get("execute"), request.get("arguments", {})
        if unknown:
            return _error(f"a request has no member {sorted(unknown)[0]}")
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return _error("a request says execute, a string, and perhaps arguments, an object")
        try:
            command = find_command(name)
            if self.ready is command.early:
                what = "was given already" if self.ready else "comes first"
                return _error(f"qmp_capabilities {what}", "CommandNotFound")
            check_arguments(command, arguments)
            if command.name == "qmp_capabilities":
                if arguments.get("enable"):
                    raise ConfigError(f"there is no capability {arguments['enable'][0]}")
                self.ready = True
                return {"return": {}}
            return {"return": self._act(command.name, arguments)}
        except BulkheadError as error:
            kind = "CommandNotFound" if error.message.startswith("no command ") else "GenericError"
            return _error(f"{error.message}. {error.hint}" if error.hint else error.message, kind)


def event_of(published: dict[str, Any]) -> Line | None:
    """The event that tells what the keeper has published; None when QMP has none for it."""
    event = EVENT_OF.get(published.get("name", ""))
    if event is None:
        return None
    data = {name: value for name, value in published.items() if name not in ("name", "time") and value != ""}
    seconds, rest = divmod(float(published.get("time", time.time())), 1)
    line = {"event": event.name, "timestamp": {"seconds": int(seconds), "microseconds": int(rest * 1e6)}}
    return line | {"data": data} if data else line


def version() -> dict[str, Any]:
    """As query-version and the greeting tell it: QEMU's member, our numbers."""
    major, minor, micro = (int(part) for part in (__version__.split("+")[0] + ".0.0").split(".")[:3])
    return {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": f"bulkhead {__version__}"}


def _error(text: str, kind: str = "GenericError") -> Line:
    return {"error": {"class": kind, "desc": text}}
