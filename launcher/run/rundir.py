"""Run directories: where a running machine keeps its sockets and logs, and how what the dead left is swept.

    $XDG_RUNTIME_DIR/bulkhead/          0700; /tmp/bulkhead-UID where there is no XDG_RUNTIME_DIR
        .lock                           held for the moments in which a machine is claimed or swept
        demo/                           one machine; its name is the directory's
            lock                        locked (flock) by the machine's keeper for as long as it lives
            control                     the keeper's socket
            link/                       one ZeroMQ endpoint a device and epoch
            logs/                       one file a process
    $XDG_CACHE_HOME/bulkhead/scratch/   beside the images, for what is large: private copies of them
        .lock
        demo.1f2e3d4c/lock, root.ext4, …

A lock goes with the last process that holds its descriptor, however it dies. So a directory whose lock is free belongs
to nobody: `sweep`, which every command runs first, removes it. Shared memory has a name for microseconds only, between
its creation and its unlinking; a segment older than that is swept too.

Promises: two commands at once never claim the same name or sweep a living machine. Does not: end processes; they end
themselves when their keeper is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from proto.errors import ConfigError

__all__ = ["SEGMENT_PREFIX", "RunDirectory", "machines", "run_base", "scratch_base", "scratch_directory", "sweep"]

SEGMENT_PREFIX = "bulkhead-"
SEGMENT_AGE = 10.0  # seconds; a segment still named after that was left by a process killed in between
LOCK_DEADLINE = 10.0
SOCKET_PATH_LIMIT = 107  # sun_path without its terminator
LONGEST_INSIDE = "/link/" + 24 * "x"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


def run_base() -> Path:
    """Where run directories are; made, and closed to others. Raises ConfigError when it cannot be."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    base = Path(runtime) / "bulkhead" if runtime else Path(f"/tmp/bulkhead-{os.getuid()}")
    _private(base, "XDG_RUNTIME_DIR")
    return base


def scratch_base() -> Path:
    """Where private copies of images are: beside the images, so that a copy can share their blocks."""
    cache = os.environ.get("XDG_CACHE_HOME")
    base = (Path(cache) if cache else Path.home() / ".cache") / "bulkhead" / "scratch"
    _private(base, "XDG_CACHE_HOME")
    return base


def _private(path: Path, variable: str) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise ConfigError(f"{path} belongs to somebody else", hint=f"Set {variable} to a directory of yours.")
        if status.st_mode & 0o077:
            path.chmod(0o700)
    except OSError as error:
        hint = f"Set {variable} to a directory of yours."
        raise ConfigError(f"cannot use {path}: {error.strerror}", hint=hint) from error


class RunDirectory:
    """A claimed name: its run directory, its scratch directory, and the locks on both."""

    def __init__(self, name: str, path: Path, scratch: Path, locks: list[int]) -> None:
        self.name = name
        self.path = path
        self.scratch = scratch
        self.locks = locks  # descriptors; whoever inherits them keeps the directory from being swept

    @classmethod
    def claim(cls, name: str | None) -> RunDirectory:
        """Take `name` (None: the first free of vm1, vm2, …). Raises ConfigError when a machine of that name runs."""
        if name is not None and not NAME.fullmatch(name):
            raise ConfigError(
                f"--name {name}: not a machine name",
                hint="Up to 32 letters, digits, dots, dashes and underscores, the first a letter or digit.",
            )
        try:
            return cls._claim(name)
        except OSError as error:
            raise ConfigError(f"cannot make a run directory: {error.strerror}: {error.filename}") from error

    @classmethod
    def _claim(cls, name: str | None) -> RunDirectory:
        base = run_base()
        with _locked(base / ".lock"):
            name = name or next(n for n in (f"vm{i}" for i in range(1, 10000)) if not _held(base / n / "lock"))
            path = base / name
            if _held(path / "lock"):
                raise ConfigError(
                    f"a machine named {name} is running",
                    hint=f"Choose another --name, or end it: bulkhead stop --machine {name}",
                )
            if len(os.fsencode(str(path) + LONGEST_INSIDE)) > SOCKET_PATH_LIMIT:
                raise ConfigError(f"{path} is too long for the path of a socket", hint="Set a shorter XDG_RUNTIME_DIR.")
            shutil.rmtree(path, ignore_errors=True)
            locks = [_make_locked(path)]
            for part in ("link", "logs"):
                (path / part).mkdir(mode=0o700)
        with _locked(scratch_base() / ".lock"):
            scratch = scratch_base() / f"{name}.{secrets.token_hex(4)}"
            locks.append(_make_locked(scratch))
        return cls(name, path, scratch, locks)

    @property
    def control(self) -> Path:
        """The keeper's socket."""
        return self.path / "control"

    def log(self, process: str) -> Path:
        """The log file of a process."""
        return self.path / "logs" / f"{process}.log"

    def endpoint(self, device: str, epoch: int) -> str:
        """The ZeroMQ endpoint of one epoch of a device."""
        return f"ipc://{self.path}/link/{device}.{epoch}"

    def release(self) -> None:
        """Close the locks; others who inherited them still hold them."""
        while self.locks:
            os.close(self.locks.pop())

    def remove(self) -> None:
        """Remove both directories. Only for who holds the locks."""
        for path in (self.path, self.scratch):
            shutil.rmtree(path, ignore_errors=True)
        self.release()


@contextlib.contextmanager
def scratch_directory(name: str) -> Iterator[Path]:
    """A directory for what several machines use in turn: gone at the end, swept should this process be killed."""
    with _locked(scratch_base() / ".lock"):
        path = scratch_base() / f"{name}.{secrets.token_hex(4)}"
        lock = _make_locked(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def machines() -> list[str]:
    """The names of the machines that run now, sorted."""
    base = run_base()
    with _locked(base / ".lock"):
        return sorted(path.name for path in _directories(base) if _held(path / "lock"))


def sweep() -> None:
    """Remove what dead machines left: run and scratch directories whose lock is free, shared memory still named."""
    for base in (run_base(), scratch_base()):
        with _locked(base / ".lock"):
            for path in _directories(base):
                if not _held(path / "lock"):
                    shutil.rmtree(path, ignore_errors=True)
    _sweep_segments(Path("/dev/shm"))


def _sweep_segments(directory: Path) -> None:
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            if not entry.name.startswith(SEGMENT_PREFIX):
                continue
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if status.st_uid == os.getuid() and time.time() - status.st_ctime > SEGMENT_AGE:
                    os.unlink(entry.path)


def _directories(base: Path) -> Iterator[Path]:
    for entry in os.scandir(base):
        if entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)


def _make_locked(path: Path) -> int:
    """Make a directory with a lock in it, and take the lock: its descriptor."""
    path.mkdir(mode=0o700)
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _held(lock: Path) -> bool:
    """True when a living process holds the lock."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Hold a lock that others hold for moments only. Raises ConfigError when somebody holds it for long."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + LOCK_DEADLINE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(f"another bulkhead command holds {lock} and does not go on") from None
                time.sleep(0.005)
        yield
    finally:
        os.close(descriptor)
