"""Shared memory that the keeper makes: guest RAM, dirty maps, control pages, in-flight tables.

A segment is a `multiprocessing.shared_memory` segment whose name is unlinked at once, so that nothing can leak: what
remains is a descriptor, passed on to those who map it. Its pages are allocated before anybody uses them: a /dev/shm
that is too small is an error here, never a SIGBUS later. The keeper maps only the small ones it looks into.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any

from launcher.run.rundir import SEGMENT_PREFIX
from native.memory import Area
from proto.errors import ConfigError

__all__ = ["Segment"]

MIB = 1 << 20


class Segment:
    """One nameless shared segment; owns its descriptor and, once asked for, its mapping."""

    def __init__(self, size: int, what: str) -> None:
        """Make `size` zeroed bytes. Raises ConfigError when /dev/shm or the host's memory has no room for them."""
        self.size = size
        self._area: Area | None = None
        _check_room(size, what)
        try:
            shared = _create(size)
        except OSError as error:
            raise _no_room(size, what, os.strerror(error.errno or 0)) from error
        try:
            self.fd = os.dup(shared._fd)  # type: ignore[attr-defined]
        finally:
            shared.close()
            with _untracked():
                shared.unlink()
        try:
            os.posix_fallocate(self.fd, 0, size)
        except OSError as error:
            os.close(self.fd)
            raise _no_room(size, what, os.strerror(error.errno or 0)) from error

    def view(self) -> memoryview:
        """The bytes, writable, mapped into this process on first use."""
        if self._area is None:
            self._area = Area.map_fd(self.fd, self.size)
        return self._area.view()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[int]:
        """A descriptor through which the segment can only be mapped for reading."""
        descriptor = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Unmap and let go; the memory is freed when the last process that mapped it has ended."""
        if self._area is not None:
            self._area.close()
            self._area = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _create(size: int) -> SharedMemory:
    name = f"{SEGMENT_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    options: dict[str, Any] = {"track": False} if sys.version_info >= (3, 13) else {}
    with _untracked():
        return SharedMemory(name, create=True, size=size, **options)


@contextlib.contextmanager
def _untracked() -> Iterator[None]:
    """Keep multiprocessing's resource tracker (a process of its own) out of it, where `track=False` does not yet."""
    saved = resource_tracker.register, resource_tracker.unregister
    resource_tracker.register = resource_tracker.unregister = lambda *_: None
    try:
        yield
    finally:
        resource_tracker.register, resource_tracker.unregister = saved


def _check_room(size: int, what: str) -> None:
    with contextlib.suppress(OSError):
        free = os.statvfs("/dev/shm")
        if free.f_bavail * free.f_frsize < size:
            raise _no_room(size, what, f"{free.f_bavail * free.f_frsize // MIB} MiB are free")
        available = _available_memory()
        if available is not None and available < size:
            raise ConfigError(
                f"{what} needs {-(-size // MIB)} MiB of memory; this host has {available // MIB} MiB left",
                hint="Give the guest less with -m, or end something else.",
            )


def _available_memory() -> int | None:
    with open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _no_room(size: int, what: str, why: str) -> ConfigError:
    return ConfigError(
        f"/dev/shm has no room for {what} of {-(-size // MIB)} MiB: {why}",
        hint="Give the guest less with -m, or make it larger: mount -o remount,size=8G /dev/shm",
    )
