"""Crash bundles: what is kept of each crash of a device, in the user's state directory.

    $XDG_STATE_HOME/bulkhead/crashes/MACHINE/        ~/.local/state where there is no XDG_STATE_HOME; 0700
        20261121-120107.332-blk0/
            crash.json        what died and how, and what it had in flight
            log.txt           the end of its log, with the traceback if it wrote one
            trace.json        the last records of its trace ring
            request.msgpack   the request that was to blame, when it was found (`saved_request`)

A machine keeps KEPT bundles and KEPT_BYTES, the oldest go first. Bundles outlive their machine; `bulkhead crashes
--clean` removes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack

from proto.errors import ConfigError

__all__ = ["Bundle", "bundles", "clean", "crash_base", "load_request", "saved_request", "write_bundle"]

KEPT = 50
KEPT_BYTES = 64 << 20
FORMAT, VERSION = "bulkhead-request", 1


class Bundle:
    """One, as it was found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name
        self.machine = path.parent.name
        self.crash: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            self.crash = json.loads((path / "crash.json").read_text())

    def text(self, name: str) -> str:
        """One of its files; empty when it has none of that name."""
        with contextlib.suppress(OSError):
            return (self.path / name).read_text(errors="replace")
        return ""

    def files(self) -> list[str]:
        """What it has."""
        with contextlib.suppress(OSError):
            return sorted(entry.name for entry in os.scandir(self.path))
        return []

    def size(self) -> int:
        """Bytes."""
        with contextlib.suppress(OSError):
            return sum(entry.stat().st_size for entry in os.scandir(self.path))
        return 0


def crash_base() -> Path:
    """Where bundles are."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "bulkhead" / "crashes"


def bundles(machine: str | None = None) -> list[Bundle]:
    """All of a machine, or of all machines, oldest first."""
    found = [
        Bundle(entry)
        for directory in _directories(crash_base())
        if machine in (None, directory.name)
        for entry in _directories(directory)
        if not entry.name.startswith(".")
    ]
    return sorted(found, key=lambda bundle: bundle.id)


def write_bundle(machine: str, name: str, files: Mapping[str, bytes]) -> Path:
    """Write one, whole or not at all, and let the oldest go. Raises OSError, and ConfigError when the place is not the
    user's."""
    directory = crash_base() / machine
    for path in (crash_base(), directory):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise ConfigError(f"{path} belongs to somebody else", hint="Set XDG_STATE_HOME to a directory of yours.")
        path.chmod(0o700)
    path = directory / name
    number = 1
    while path.exists():
        number += 1
        path = directory / f"{name}.{number}"
    unfinished = directory / f".{path.name}.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    for file, data in files.items():
        descriptor = os.open(unfinished / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as output:
            output.write(data)
    unfinished.rename(path)
    _prune(machine)
    return path


def clean(machine: str | None = None) -> int:
    """Remove them. Returns how many there were."""
    found = bundles(machine)
    for bundle in found:
        shutil.rmtree(bundle.path, ignore_errors=True)
    for directory in _directories(crash_base()):
        with contextlib.suppress(OSError):
            directory.rmdir()
    return len(found)


def saved_request(request: Mapping[str, Any]) -> bytes:
    """A request as a file: a msgpack map of format, version, sha256 and body, which is msgpack again. docs/crashes.md
    has its fields."""
    body: bytes = msgpack.packb(dict(request))
    whole = {"format": FORMAT, "version": VERSION, "sha256": hashlib.sha256(body).hexdigest(), "body": body}
    packed: bytes = msgpack.packb(whole)
    return packed


def load_request(path: Path) -> dict[str, Any]:
    """What `saved_request` made. Raises ConfigError when the file is not one, or is damaged."""
    try:
        whole = msgpack.unpackb(path.read_bytes())
        format, version, body = whole["format"], whole["version"], whole["body"]
        if format != FORMAT or version != VERSION:
            raise ConfigError(f"{path} is {format} version {version}; this reads {FORMAT} version {VERSION}")
        if hashlib.sha256(body).hexdigest() != whole["sha256"]:
            raise ConfigError(f"{path} is damaged: its checksum is another")
        request: dict[str, Any] = msgpack.unpackb(body)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {(error.strerror or '').lower()}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} is no saved request: {error}") from error
    return request


def _prune(machine: str) -> None:
    kept = size = 0
    for bundle in reversed(bundles(machine)):
        kept, size = kept + 1, size + bundle.size()
        if kept > KEPT or (size > KEPT_BYTES and kept > 1):
            shutil.rmtree(bundle.path, ignore_errors=True)


def _directories(path: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [Path(entry.path) for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)]
    return []
