"""Every error the project raises, as one taxonomy: who failed, where, and what to do about it.

Each error carries a sentence for a person and, as attributes, what a program wants to know: `device`, `queue`,
`head`, `value` (whichever apply) and `hint`, a second sentence that says what to do. `str(error)` is the sentence
alone, and `error.describe()` adds the context and the hint. Nothing here is ever raised for what a guest does to
itself inside a ring: that is data (see `proto.ring.ChainError`) and is answered, not raised.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BackendGone",
    "BulkheadError",
    "ChannelClosed",
    "ConfigError",
    "DeadlineMissed",
    "DeviceGone",
    "GuestError",
    "ImageLocked",
    "ProtocolError",
    "StateError",
]


class BulkheadError(Exception):
    """Base of all errors of this project."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        device: str | None = None,
        queue: int | None = None,
        head: int | None = None,
        value: object = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.device = device
        self.queue = queue
        self.head = head
        self.value = value

    def describe(self) -> str:
        """The sentence, the context that is known, and the hint on a line of its own."""
        context = [
            f"{name} {value}"
            for name, value in (("device", self.device), ("queue", self.queue), ("head", self.head))
            if value is not None
        ]
        line = f"{self.message} ({', '.join(context)})" if context else self.message
        return f"{line}\n{self.hint}" if self.hint else line


class ConfigError(BulkheadError):
    """What was asked for cannot be: an unknown option, a missing image, a value out of range. The user can mend it."""


class ImageLocked(ConfigError):
    """An image is in use by another process, which may let it go."""


class GuestError(BulkheadError):
    """The guest's driver broke the rules of a device in a way that concerns more than one request."""


class BackendError(BulkheadError):
    """What stands behind a device (a file, a server, a tap) refused or failed an operation; `errno` says how."""

    def __init__(self, message: str, *, errno: int = 0, **context: object) -> None:
        super().__init__(message, **context)  # type: ignore[arg-type]
        self.errno = errno


class BackendGone(BackendError):
    """What stands behind a device is no longer reachable at all; later requests will fail as well."""


class ProtocolError(BulkheadError):
    """A peer sent something that the protocol does not allow; `field` names the offending part."""

    def __init__(self, message: str, *, field: str = "", **context: object) -> None:
        super().__init__(message, **context)  # type: ignore[arg-type]
        self.field = field


class StateError(ProtocolError):
    """A well-formed message that the session's present state does not allow."""


class ChannelClosed(BulkheadError):
    """The other end of a channel has gone: its process has ended, or is about to."""


class DeviceGone(BulkheadError):
    """A device process ended, or was fenced, while something waited for it."""


class DeadlineMissed(BulkheadError):
    """A wait reached its deadline. What was waited for may still happen; its outcome is unknown."""
