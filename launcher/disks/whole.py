"""Files and folders that are there under their names when they are whole, or not at all.

Until then they stand beside it, as `.NAME.PID.part`. An exception takes that away, and so does a signal; what a kill -9
leaves nobody takes for an image.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from types import FrameType

from proto.errors import ConfigError

__all__ = ["signals_interrupt", "whole"]


@contextlib.contextmanager
def whole(path: str) -> Iterator[str]:
    """A name under which to make what is to be at `path`. Raises ConfigError when something came to be there."""
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name}.{os.getpid()}.part")
    try:
        yield part
        if os.path.lexists(path):
            raise ConfigError(f"{path} exists now: somebody else has made it", hint="Choose another name.")
        os.rename(part, path)
    except OSError as error:
        if error.filename == part:
            error.filename = path
        raise
    finally:
        _remove(part)


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that closes, are what Ctrl-C is: an exception, so that nothing half is left."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler == signal.SIG_DFL:
                signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
