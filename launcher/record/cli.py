"""`bulkhead record`: arguments, and the loop that brings what devices write into a file.

    taps ── read ──▶ (Watch: does a request pass?) ──▶ Around (until one does) or the file

Nothing here can slow the guest, but for --block: a device that finds no room counts what it loses.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import struct
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from launcher import __version__
from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.control import choose_machine
from launcher.machine.options import Given
from launcher.machine.values import parse_size
from launcher.record.taps import Taps
from launcher.record.trigger import Around, Watch
from launcher.trace.requests import FIELDS
from proto.errors import ConfigError
from proto.filters import parse
from proto.recording import RecordingWriter
from proto.tap import EventKind

__all__ = ["add_arguments", "run"]

PERIOD = 0.005  # seconds between two looks while there is nothing
AROUND = 10.0
_HEAD = struct.Struct("<IH")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("ids", metavar="ID", nargs="+", help="the devices: blk0, net0, …")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the recording; it must not be there yet")
    parser.add_argument("--for", dest="time", metavar="SECONDS", type=float, help="end after so long")
    parser.add_argument("--until", metavar="TEXT", help="end after the first request that passes this filter")
    parser.add_argument("--around", metavar="TEXT", help="keep only what is around the first request that passes")
    parser.add_argument("--seconds", type=float, default=AROUND, help="with --around: so long before and after; 10")
    parser.add_argument("--limit", metavar="SIZE", default="256M", help="with --around: memory for it; 256M")
    parser.add_argument("--buffer", metavar="SIZE", default="32M", help="a device's room for what is not yet fetched")
    parser.add_argument("--block", action="store_true", help="let devices wait for room, at most 100 ms a request")
    parser.add_argument("--machine", metavar="NAME", help="the machine")
    parser.add_argument("--json", action="store_true", help="say what was recorded as JSON")


def run(arguments: argparse.Namespace) -> int:
    """The verb."""
    if arguments.until and arguments.around:
        raise ConfigError("--until and --around: one of them", hint="--around ends by itself.")
    text = arguments.until or arguments.around
    chosen = parse(text, {*FIELDS}) if text else None
    size, limit = _size("--buffer", arguments.buffer), _size("--limit", arguments.limit)
    machine = choose_machine(arguments.machine)
    with ExitStack() as undo:
        file = _create(arguments.output)
        undo.callback(file.close)
        undo.callback(lambda: _remove_if_empty(arguments.output))
        taps = Taps(
            machine, list(dict.fromkeys(arguments.ids)), size=1 << (size - 1).bit_length(), block=arguments.block
        )
        undo.callback(taps.close)
        session = Session(taps, file, arguments, limit)
        if chosen is not None:
            session.watch = Watch(chosen, taps.devices, session.wall)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        summary = session.run()
    print(json.dumps(summary, indent=2) if arguments.json else _words(arguments.output, summary))
    return ExitCode.OK


def _size(option: str, value: str) -> int:
    return parse_size(Given(value, option, Path.cwd()))


def _create(path: str) -> Any:
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already", hint="Give another name, or remove it.") from error
    except OSError as error:
        raise ConfigError(f"cannot make {path}: {(error.strerror or '').lower()}") from error


def _remove_if_empty(path: str) -> None:
    """Nothing was written: leave nothing behind."""
    if os.path.getsize(path) == 0:
        os.unlink(path)


class Session:
    """One recording, from its taps to its file."""

    def __init__(self, taps: Taps, file: Any, arguments: argparse.Namespace, limit: int) -> None:
        self.wall = time.time_ns() - time.monotonic_ns()
        self.watch: Watch | None = None
        self._taps = taps
        self._file = file
        self._writer: RecordingWriter | None = None
        self._around = Around(arguments.seconds, limit, time.monotonic) if arguments.around else None
        self._until = bool(arguments.until)
        self._after = arguments.seconds
        self._deadline = None if arguments.time is None else time.monotonic() + arguments.time
        self._counts = {device["id"]: {"requests": 0, "answers": 0, "lost": 0, "bytes": 0} for device in taps.devices}

    def run(self) -> dict[str, Any]:
        """Until it is over; what was recorded. Raises ConfigError when the file cannot be written."""
        if self._around is None:
            self._begin()
        try:
            how = "recording" if self._around is None else "waiting for what shall be kept"
            show.line(sys.stderr, f"{', '.join(self._counts)}: {how}; Ctrl-C ends it")
            reason = self._follow()
        except KeyboardInterrupt:
            reason = "interrupted"
        for device, data in self._taps.stop():
            self._take(device, data)
        summary: dict[str, Any] = {"reason": reason, "devices": self._counts}
        if self.watch is not None:
            summary["matched"] = self.watch.matched and _plain(self.watch.matched)
        if self._around is not None:
            summary["dropped"] = self._around.dropped
        if self._writer is not None:
            self._write(lambda writer: writer.end(summary))
            summary["bytes"] = self._writer.size
        return summary

    def _follow(self) -> str:
        """Returns why it ended."""
        while True:
            news = self._taps.read()
            for device, data in news:
                if self._take(device, data) and self._matched():
                    return "matched"
            if self._deadline is not None and time.monotonic() > self._deadline:
                return "time" if self.watch is None or self.watch.matched is None or self._until else "matched"
            if not news and not self._taps.wait(PERIOD):
                return "machine ended"

    def _take(self, device: str, data: bytes) -> bool:
        """Keep or write what came. True when a request in it passes the filter."""
        matched = self.watch is not None and self.watch.sees(device, data)
        if self._around is not None and self._writer is None:
            self._around.add(device, data)
        else:
            self._store(device, data)
        return matched

    def _matched(self) -> bool:
        """A request has passed. True when that is the end."""
        if self._until:
            return True
        if self._around is not None and self._writer is None:
            self._begin()
            for device, data in self._around.take():
                self._store(device, data)
            end = time.monotonic() + self._after
            self._deadline = end
        return False

    def _store(self, device: str, data: bytes) -> None:
        self._count(device, data)
        self._write(lambda writer: writer.events(device, data))

    def _begin(self) -> None:
        meta = {
            "bulkhead": __version__,
            "machine": self._taps.machine,
            "created": time.time(),
            "wall": self.wall,
            "devices": self._taps.devices,
        }
        try:
            self._writer = RecordingWriter(self._file, meta)
        except OSError as error:
            raise ConfigError(f"cannot write the recording: {(error.strerror or '').lower()}") from error

    def _write(self, action: Any) -> None:
        try:
            action(self._writer)
        except OSError as error:
            why = (error.strerror or "").lower()
            raise ConfigError(f"cannot write the recording: {why}", hint="What it has is kept.") from error

    def _count(self, device: str, data: bytes) -> None:
        """Only headers are looked at: this is the loop that must keep up."""
        counts = self._counts[device]
        counts["bytes"] += len(data)
        at = 0
        while at < len(data):
            size, kind = _HEAD.unpack_from(data, at)
            if kind == EventKind.POP:
                counts["requests"] += 1
            elif kind == EventKind.DONE:
                counts["answers"] += 1
            elif kind == EventKind.LOST:
                counts["lost"] += int.from_bytes(data[at + 32 : at + 40], "little")
            at += max(size, 8)


def _plain(telling: Any) -> dict[str, Any]:
    return {key: value for key, value in telling.items() if isinstance(value, (str, int, float))}


def _words(path: str, summary: dict[str, Any]) -> str:
    if "bytes" not in summary:
        return f"no request passed ({summary['reason']}); nothing was written"
    parts = []
    for id, counts in summary["devices"].items():
        lost = f", {counts['lost']:,} events lost" if counts["lost"] else ""
        parts.append(f"{id}: {counts['requests']:,} requests{lost}")
    return f"{path}: {show.si(summary['bytes'])} bytes, {'; '.join(parts)}"
