"""`bulkhead trace`: arguments, and the loop that shows what comes.

The loop asks each machine's rings what is new, lets a `Follower` make requests of it, and shows those that pass. A
viewer that is too slow (a terminal that stands still) misses records, says how many, and slows nobody.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.control import choose_machine
from launcher.trace.lines import as_json, as_line
from launcher.trace.requests import FIELDS, Follower
from launcher.trace.rings import LocalRings
from launcher.trace.summary import Summary
from proto.errors import ConfigError
from proto.filters import Filter, parse
from proto.suggest import did_you_mean
from proto.trace import TraceRecord

__all__ = ["Rings", "add_arguments", "run"]

PERIOD = 0.02  # seconds between two looks while there is nothing
SHOWN = ("request", "process")  # without --type and --all


class Rings(Protocol):
    """Where records of one machine come from."""

    machine: str
    rings: list[dict[str, Any]]
    ended: bool

    @property
    def missed(self) -> Mapping[str, int]: ...

    def now(self) -> int: ...

    def wall(self, monotonic: int) -> float: ...

    def poll(self) -> list[tuple[str, list[TraceRecord]]]: ...

    def close(self) -> None: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("ids", metavar="ID", nargs="*", help="only these devices: blk0, core, keeper, …")
    parser.add_argument("--filter", metavar="TEXT", help="only what passes: 'latency > 1ms and op == WRITE'")
    parser.add_argument("--type", metavar="TYPE", action="append", help="what: request, process, mmio, …; repeatable")
    parser.add_argument("--all", action="store_true", help="everything, not only requests, starts and deaths")
    parser.add_argument("--summary", action="store_true", help="only latencies by device and operation, at the end")
    parser.add_argument("--json", action="store_true", help="one JSON object a line; with --summary, one list")
    parser.add_argument("--count", metavar="N", type=int, help="end after N lines")
    parser.add_argument("--last", metavar="N", type=int, help="what the rings still have: its last N lines; then end")
    parser.add_argument("--for", dest="seconds", metavar="SECONDS", type=float, help="end after so long")
    parser.add_argument("--machine", metavar="NAME", action="append", help="the machine; repeatable")
    parser.add_argument("--connect", metavar="URI", action="append", help="a tap: tcp://HOST:PORT; repeatable")
    parser.add_argument("--listen", metavar="URI", help="let others look over tcp://HOST:PORT, until the machine ends")
    parser.add_argument("--silence", metavar="URI", help="end what --listen began")
    parser.add_argument("--keys", metavar="DIR", type=Path, help="keys of `bulkhead keys create`, for both")
    parser.add_argument("--no-payload", action="store_true", help="without the guest's own bytes")


def run(arguments: argparse.Namespace) -> int:
    """The verb."""
    if arguments.listen or arguments.silence:
        from launcher.trace.remote import listen, silence

        return (listen if arguments.listen else silence)(arguments)
    known = {*FIELDS}
    chosen = parse(arguments.filter, known) if arguments.filter else None
    view = View(arguments, chosen)
    sources = _open(arguments)
    try:
        return view.follow(sources)
    except KeyboardInterrupt:
        return view.end()
    except BrokenPipeError:  # whoever read this has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.OK
    finally:
        for source in sources:
            source.close()


def _open(arguments: argparse.Namespace) -> list[Rings]:
    from_start = arguments.last is not None
    sources: list[Rings] = []
    if arguments.connect:
        from launcher.trace.remote import RemoteRings

        for uri in arguments.connect:
            sources.append(RemoteRings(uri, arguments.keys, payload=not arguments.no_payload, from_start=from_start))
    if arguments.machine or not arguments.connect:
        for name in arguments.machine or [None]:
            sources.append(LocalRings(choose_machine(name), from_start=from_start))
    known = [ring["id"] for source in sources for ring in source.rings]
    for id in arguments.ids:
        if id not in known:
            names = ", ".join(dict.fromkeys(known))
            raise ConfigError(f"there is no process {id}{did_you_mean(id, known)}", hint=f"There are: {names}.")
    return sources


class View:
    """What is shown of what comes."""

    def __init__(self, arguments: argparse.Namespace, chosen: Filter | None) -> None:
        self._ids = frozenset(arguments.ids)
        self._types = frozenset(arguments.type or SHOWN)
        self._all = arguments.all
        self._filter = chosen
        self._json = arguments.json
        self._payload = not arguments.no_payload
        self._summary = Summary()
        self._only_summary = arguments.summary
        self._count = arguments.count
        self._last: deque[Mapping[str, Any]] | None = None
        if arguments.last is not None:
            self._last = deque(maxlen=max(0, arguments.last))
        self._deadline = None if arguments.seconds is None else time.monotonic() + arguments.seconds
        self._several = False
        self._shown = 0
        self._missed: dict[tuple[int, str], int] = {}
        self._write: Callable[[str], Any] = sys.stdout.write

    def follow(self, sources: list[Rings]) -> int:
        """Until there is nothing more to come."""
        self._several = len(sources) > 1
        followers = [Follower(source.machine, source.rings, source.wall) for source in sources]
        begun = [source.now() for source in sources]
        while True:
            busy, behind = False, False
            for number, (source, follower) in enumerate(zip(sources, followers, strict=True)):
                news = source.poll()
                follower.describe(source.rings)
                for ring, records in news:
                    follower.feed(ring, records)
                    behind = behind or records[-1].time < begun[number]
                busy = busy or bool(news)
                self._take(follower.settle(None if source.ended and not news else source.now()))
                self._say_missed(number, source)
            sys.stdout.flush()
            if self._last is not None and not behind:
                for follower in followers:
                    self._take(follower.settle())
                return self.end()
            over = self._deadline is not None and time.monotonic() > self._deadline
            if over or self._is_full() or (not busy and all(source.ended for source in sources)):
                return self.end()
            if not busy:
                time.sleep(PERIOD)

    def _is_full(self) -> bool:
        return self._count is not None and self._shown >= self._count

    def _take(self, tellings: list[dict[str, Any]]) -> None:
        for telling in tellings:
            if self._is_full():
                return
            if not self._passes(telling):
                continue
            self._summary.add(telling)
            self._shown += 1
            if self._last is not None:
                self._last.append(telling)
            elif not self._only_summary:
                self._print(telling)

    def _passes(self, telling: Mapping[str, Any]) -> bool:
        if self._ids and telling["device"] not in self._ids:
            return False
        if not self._all and telling["type"] not in self._types:
            return False
        return self._filter is None or self._filter.matches(telling)

    def _print(self, telling: Mapping[str, Any]) -> None:
        text = as_json(telling) if self._json else as_line(telling, machines=self._several)
        self._write(f"{text}\n")

    def _say_missed(self, number: int, source: Rings) -> None:
        for ring, missed in source.missed.items():
            news = missed - self._missed.get((number, ring), 0)
            if not news or (self._last is not None):
                continue
            self._missed[number, ring] = missed
            if self._json and not self._only_summary:
                self._write(
                    json.dumps({"machine": source.machine, "device": ring, "type": "missed", "count": news}) + "\n"
                )
            else:
                show.line(sys.stderr, f"{ring}: missed {news:,} records")

    def end(self) -> int:
        """What is said last."""
        if self._last is not None and not self._only_summary:
            self._shown = len(self._last)
            for telling in self._last:
                self._print(telling)
        if self._only_summary:
            rows = self._summary.as_list()
            self._write(json.dumps(rows, indent=2) + "\n" if self._json else self._summary.text() + "\n")
        elif not self._json:
            missed = sum(self._missed.values())
            tail = f", missed {missed:,} records" if missed else ""
            show.line(sys.stderr, f"{self._shown:,} lines{tail}")
        sys.stdout.flush()
        return ExitCode.OK
