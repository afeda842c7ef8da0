"""Tellings as a trace that Perfetto (https://ui.perfetto.dev) and chrome://tracing open: the JSON trace-event format.

Each device is a process. Requests that overlap lie on tracks beside each other: a request goes to the first track of
its queue that is free when it begins. What is no request (a start, a death, a message) is an instant.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

__all__ = ["write_perfetto"]

HIDDEN = frozenset({"time", "ended", "machine", "device", "kind", "type", "words", "call"})


def write_perfetto(output: TextIO, tellings: Iterable[Mapping[str, Any]]) -> int:
    """Write them. Returns how many there were. Raises OSError."""
    processes: dict[tuple[str, str], int] = {}
    tracks: dict[tuple[int, int], list[float]] = {}  # process and queue → when each track is free
    numbers: dict[tuple[int, int, int], int] = {}  # process, queue, track → thread
    events: list[dict[str, Any]] = []
    count = 0
    for telling in sorted(tellings, key=lambda telling: telling["time"]):
        key = (telling.get("machine", ""), telling["device"])
        process = processes.setdefault(key, len(processes) + 1)
        if telling.get("type") == "request":
            queue = telling.get("queue") or 0
            track = _track(tracks.setdefault((process, queue), []), telling)
            thread = numbers.setdefault((process, queue, track), len(numbers) + 1)
            events.append(_slice(telling, process, thread))
        else:
            events.append(_instant(telling, process))
        count += 1
    heads = [_named("process_name", number, 0, "/".join(filter(None, key))) for key, number in processes.items()]
    heads += [
        _named("thread_name", process, thread, f"queue {queue}" + (f" · {track + 1}" if track else ""))
        for (process, queue, track), thread in numbers.items()
    ]
    heads += [
        {
            "ph": "M",
            "name": "thread_sort_index",
            "pid": process,
            "tid": thread,
            "args": {"sort_index": 1000 * queue + track},
        }
        for (process, queue, track), thread in numbers.items()
    ]
    output.write('{"displayTimeUnit":"ns","traceEvents":[\n')
    output.write(",\n".join(json.dumps(event) for event in heads + events))
    output.write("\n]}\n")
    return count


def _track(free: list[float], telling: Mapping[str, Any]) -> int:
    """The first track that is free by then; it is taken until the request ends."""
    end = max(_end(telling), telling["time"])
    for number, until in enumerate(free):
        if until <= telling["time"]:
            free[number] = end
            return number
    free.append(end)
    return len(free) - 1


def _end(telling: Mapping[str, Any]) -> float:
    ended: float = telling.get("ended") or telling["time"] + (telling.get("latency") or 0.0)
    return ended


def _slice(telling: Mapping[str, Any], process: int, thread: int) -> dict[str, Any]:
    begin = telling["time"]
    name = (
        f"{telling.get('op', 'REQUEST')} {telling['sector']}" if "sector" in telling else telling.get("op", "REQUEST")
    )
    event = {"ph": "X", "name": name, "cat": telling.get("kind") or "device", "pid": process, "tid": thread}
    event |= {"ts": begin * 1e6, "dur": max(0.0, _end(telling) - begin) * 1e6, "args": _arguments(telling)}
    return event if telling.get("status") == "OK" else event | {"cname": "terrible"}


def _instant(telling: Mapping[str, Any], process: int) -> dict[str, Any]:
    name = telling.get("op") or telling.get("type", "event")
    event = {"ph": "i", "s": "p", "name": name, "cat": telling.get("type", "event"), "pid": process, "tid": 0}
    return event | {"ts": telling["time"] * 1e6, "args": _arguments(telling)}


def _arguments(telling: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in telling.items() if name not in HIDDEN and value is not None}


def _named(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}
