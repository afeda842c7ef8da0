"""Images on disk, so that a unit is compiled once a machine and loaded in milliseconds afterwards.

A file is used only if it is a regular file of this user's that nobody else can write, and its checksum holds; all of
that is asked of the open descriptor whose bytes are then used. Anything else counts as absent, and is built again.
Files are written beside and renamed, so that two builders at once are harmless; the second one waits (at most a
minute) for the first, which spares the work. A directory that is not ours, or cannot be written, means no cache.

Where: $XDG_CACHE_HOME/bulkhead/native, or ~/.cache/bulkhead/native. Files unused for a month are removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["cached", "directory", "find"]

_MAGIC = b"bulkhead native 1\n"
_DIGEST = 32
_MONTH = 30 * 24 * 3600
_PATIENCE = 60.0


def directory() -> Path:
    """Where the cache is."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "bulkhead" / "native"


def find(key: str) -> memoryview | None:
    """The bytes for a key, if they are in the cache and can be trusted."""
    place = _open_directory()
    if place is None:
        return None
    try:
        return _read(place, key)
    finally:
        os.close(place)


def cached(key: str, build: Callable[[], bytes]) -> memoryview:
    """The bytes for a key: from the cache, or built and put there."""
    place = _open_directory()
    if place is None:
        return memoryview(build())
    try:
        found = _read(place, key)
        if found is not None:
            return found
        with _building(place, key):
            found = _read(place, key)
            if found is None:
                found = memoryview(build())
                _write(place, key, found)
            return found
    finally:
        os.close(place)


def _open_directory() -> int | None:
    """A descriptor of the cache directory, made if needed; None when it cannot be trusted or used."""
    path = directory()
    with contextlib.suppress(OSError):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    if _ours(os.fstat(fd)):
        return fd
    os.close(fd)
    return None


def _ours(status: os.stat_result) -> bool:
    """Owned by this user, and writable by nobody else."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST).digest()


def _read(place: int, key: str) -> memoryview | None:
    try:
        fd = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=place)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or not _ours(status):
            return None
        with open(fd, "rb", buffering=0, closefd=False) as file:
            data = memoryview(file.readall())
        with contextlib.suppress(OSError):
            os.utime(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    start = len(_MAGIC) + _DIGEST
    if len(data) < start or data[: len(_MAGIC)] != _MAGIC or _digest(data[start:]) != data[len(_MAGIC) : start]:
        return None
    return data[start:]


def _write(place: int, key: str, content: memoryview) -> None:
    """Put a file in place, whole or not at all. Failing to is no error: the next start builds again."""
    temporary = f"{key}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=place)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(_MAGIC + _digest(content))
                file.write(content)
            os.rename(temporary, key, src_dir_fd=place, dst_dir_fd=place)
        except BaseException:
            os.unlink(temporary, dir_fd=place)
            raise
        _sweep(place)
    except OSError:
        return


def _sweep(place: int) -> None:
    """Remove what nobody used for a month."""
    oldest = time.time() - _MONTH
    for name in os.listdir(place):
        with contextlib.suppress(OSError):
            if os.stat(name, dir_fd=place, follow_symlinks=False).st_mtime < oldest:
                os.unlink(name, dir_fd=place)


@contextlib.contextmanager
def _building(place: int, key: str) -> Iterator[None]:
    """Hold the key's lock while building; after a minute, or without locks, go on without."""
    try:
        fd = os.open(f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=place)
    except OSError:
        yield
        return
    try:
        _lock(fd)
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(f"{key}.lock", dir_fd=place)
        os.close(fd)


def _lock(fd: int) -> None:
    # The kernel has no lock with a deadline, and a stopped builder must not stop us: so ask again now and then.
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:
            return
