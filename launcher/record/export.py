"""`bulkhead export`: a recording as a file that other programs open. Also what `bulkhead trace --json` wrote, for
Perfetto."""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher import __version__
from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.record.pcapng import cards_of, write_pcapng
from launcher.record.perfetto import write_perfetto
from launcher.record.words import requests_by_device, telling_of
from proto.errors import BulkheadError, ConfigError
from proto.messages import decode
from proto.recording import MAGIC, Recorded, RecordingReader
from proto.tap import EventFlag, EventKind

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "file", metavar="FILE", help="a recording, or for perfetto the lines of `bulkhead trace --json`"
    )
    parser.add_argument("--to", metavar="FORMAT", required=True, choices=sorted(_WRITERS), help="perfetto|pcapng|json")
    parser.add_argument("-o", "--output", metavar="OUT", default="-", help="where to; standard output: - (the default)")
    parser.add_argument("--no-payload", action="store_true", help="json: without what was read and written")


def run(arguments: argparse.Namespace) -> int:
    """The verb."""
    try:
        count = _WRITERS[arguments.to](arguments)
    except BrokenPipeError:  # whoever read this has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.OK
    except OSError as error:
        where = error.filename or arguments.output
        raise ConfigError(f"{where}: {(error.strerror or str(error)).lower()}") from error
    show.line(sys.stderr, f"{count:,} {_WHAT[arguments.to]}")
    return ExitCode.OK


def _perfetto(arguments: argparse.Namespace) -> int:
    tellings = _tellings(arguments.file) if _is_recording(arguments.file) else _traced(arguments.file)
    found = list(tellings)
    with _output(arguments.output) as output:
        return write_perfetto(output, found)


def _pcapng(arguments: argparse.Namespace) -> int:
    with _open(arguments.file) as reader:
        cards = cards_of(reader.devices, requests_by_device(reader))
        if not cards:
            names = ", ".join(device["id"] for device in reader.devices)
            raise ConfigError(f"{arguments.file} has no network card", hint=f"It has: {names}.")
        _say_cut(reader)
        wall = reader.meta.get("wall", 0)
    if arguments.output == "-":
        return write_pcapng(sys.stdout.buffer, cards, wall, f"bulkhead {__version__}")
    with open(arguments.output, "wb") as file:
        return write_pcapng(file, cards, wall, f"bulkhead {__version__}")


def _json(arguments: argparse.Namespace) -> int:
    count = 0
    with _open(arguments.file) as reader, _output(arguments.output) as output:
        for line in sorted(_lines(reader, payload=not arguments.no_payload), key=lambda line: line["time"]):
            output.write(json.dumps(line) + "\n")
            count += 1
        _say_cut(reader)
    return count


def _lines(reader: RecordingReader, *, payload: bool) -> Iterator[dict[str, Any]]:
    """Requests, messages and losses, in no order."""
    devices = {device["id"]: device for device in reader.devices}
    wall, machine = reader.meta.get("wall", 0), reader.meta.get("machine", "")
    for recorded in reader.events():
        if recorded.event.kind in (EventKind.MESSAGE, EventKind.LOST):
            yield _event(recorded, wall)
    for id, requests in requests_by_device(reader).items():
        for request in requests:
            line = telling_of(devices[id], request, wall, machine)
            line["buffers"] = {"readable": list(request.sizes), "writable": list(request.room)}
            line["used"] = request.done.a if request.done is not None else None
            if payload:
                line["read"] = base64.b64encode(request.readable).decode()
                line["written"] = base64.b64encode(request.written).decode()
            yield line


def _event(recorded: Recorded, wall: int) -> dict[str, Any]:
    event = recorded.event
    line: dict[str, Any] = {"time": (event.time + wall) / 1e9, "device": recorded.device}
    if event.kind == EventKind.LOST:
        return line | {"type": "missed", "count": event.a, "bytes": event.b}
    line |= {"type": "message", "from": "device" if event.flags & EventFlag.OUT else "core", "id": event.id}
    try:
        message = decode(event.payload)
    except BulkheadError:
        return line
    return line | {"message": message.name, "reply": message.reply, "error": message.error}


def _tellings(path: str) -> Iterator[dict[str, Any]]:
    with _open(path) as reader:
        devices = {device["id"]: device for device in reader.devices}
        wall, machine = reader.meta.get("wall", 0), reader.meta.get("machine", "")
        for id, requests in requests_by_device(reader).items():
            for request in requests:
                if request.done is not None:
                    yield telling_of(devices[id], request, wall, machine)
        _say_cut(reader)


def _traced(path: str) -> Iterator[Mapping[str, Any]]:
    """Lines of `bulkhead trace --json`."""
    text = sys.stdin.read() if path == "-" else Path(path).read_text(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            telling = json.loads(line)
            time, device = float(telling["time"]), str(telling["device"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, KeyError) and "count" in telling:
                continue  # what a viewer has missed
            raise ConfigError(
                f"{path} is neither a recording nor a trace: line {number}",
                hint="A trace is what `bulkhead trace --json` writes.",
            ) from error
        yield {**telling, "time": time, "device": device}


def _is_recording(path: str) -> bool:
    if path == "-":
        return False
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _open(path: str) -> RecordingReader:
    """Raises ConfigError, OSError."""
    try:
        return RecordingReader(path)
    except BulkheadError as error:
        raise ConfigError(error.message, hint="`bulkhead record` makes recordings.") from error


def _say_cut(reader: RecordingReader) -> None:
    if reader.cut:
        show.complain(f"{reader.path}: {reader.cut}")


def _output(path: str) -> Any:
    return open(path, "w") if path != "-" else open(1, "w", closefd=False)


_WRITERS: dict[str, Callable[[argparse.Namespace], int]] = {"perfetto": _perfetto, "pcapng": _pcapng, "json": _json}
_WHAT = {"perfetto": "requests and events", "pcapng": "frames", "json": "lines"}
