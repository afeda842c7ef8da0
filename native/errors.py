"""What can go wrong below everything else.

Arithmetic that does not fit raises Python's own classes, in the Python run and in debug builds alike: OverflowError
(overflow, lost bits, a conversion that does not fit), ValueError (a shift count as wide as the type),
ZeroDivisionError, IndexError and AssertionError. The classes here are for everything else.
"""

__all__ = [
    "CompileError",
    "LinkError",
    "LivePeer",
    "MisalignedAccess",
    "NativeError",
    "WildAccess",
]


class NativeError(Exception):
    """Base of the errors of `native`."""


class CompileError(NativeError):
    """Python that the compiler does not take: names the file, the line and the construct."""

    def __init__(self, message: str, filename: str = "", line: int = 0) -> None:
        super().__init__(f"{filename}:{line}: {message}" if filename else message)
        self.message = message
        self.filename = filename
        self.line = line


class LinkError(NativeError):
    """An object file with something the loader does not know: a relocation, a section, an undefined symbol."""


class WildAccess(NativeError):
    """The Python run touched memory outside every registered area, or wrote where it may only read."""


class LivePeer(NativeError):
    """The Python run touched memory another running party has mapped; Python has no fences, so it refuses."""


class MisalignedAccess(NativeError):
    """An access that must be naturally aligned was not."""
