"""`bulkhead ps`: the processes of running machines, as a table, a live table, or JSON.

Pids, states and counters come from the keeper; memory and CPU time are the host's own figures (psutil). Rates are taken
between two looks. The table shows the name of what is behind a device, JSON its whole path; on a terminal that is too
narrow the columns stand closer, and ROLE, which the ID mostly says, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import time
from typing import Any

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.console.terminal import size
from launcher.control import Line, choose_machine, connect, machine_arguments, reach, request
from launcher.inspect import sandbox
from launcher.run.rundir import machines
from proto.channel import Channel
from proto.errors import BulkheadError, ConfigError, DeadlineMissed

__all__ = ["add_arguments", "run", "table_of", "tables"]

GLANCE = 0.2  # seconds between the two looks of a single table
PERIOD = 1.0  # seconds between two looks of a live one
HEADER = ("ID", "ROLE", "PID", "STATE", "EPOCH", "RESTARTS", "MEM", "CPU", "REQ/s", "MB/s", "QUEUE", "BACKEND")
NUMBERS = ("PID", "EPOCH", "RESTARTS", "MEM", "CPU", "REQ/s", "MB/s", "QUEUE")
NONE = "-"
STATE_COLOURS = {
    "running": "green",
    "stuck": "red",
    "quarantined": "red",
    "restarting": "yellow",
    "paused": "yellow",
    "waiting": "yellow",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    machine_arguments(parser)
    parser.add_argument("--watch", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--sandbox", action="store_true", help="what each process has given up, and what it could not")
    parser.add_argument("--json", action="store_true", help="one machine as JSON: machine, qmp, processes")


def run(arguments: argparse.Namespace) -> int:
    """The verb."""
    if arguments.connect and (arguments.watch or arguments.sandbox):
        raise ConfigError("--watch and --sandbox are for machines of this host")
    if arguments.json:
        with reach(arguments) as channel:
            print(json.dumps(as_json(look(channel)), indent=2))
        return ExitCode.OK
    if arguments.connect:
        with reach(arguments) as channel:
            before = look(channel)
            time.sleep(GLANCE)
            print(table_of(before, look(channel), _columns()))
        return ExitCode.OK
    names = [choose_machine(arguments.machine)] if arguments.machine else machines()
    if not names:
        choose_machine(None)  # raises: it knows what to say
    if arguments.sandbox:
        for name in names:
            with connect(name) as channel:
                print(f"machine {name}\n{sandbox.table(request(channel, 'PS')['processes'])}")
        return ExitCode.OK
    if arguments.watch:
        return _watch(names)
    for text in tables(names, _columns()):
        print(text)
    return ExitCode.OK


def _columns() -> int | None:
    """Of the terminal on standard output; None when it is none."""
    found = size(1)
    return found[1] if found else None


def look(channel: Line) -> dict[str, Any]:
    """The keeper's answer to PS, with what the host knows of each process added (not of another host's), and the time
    of the look."""
    seen = request(channel, "PS")
    seen["at"] = time.monotonic()
    for row in seen["processes"]:
        row["memory"], row["cpu"] = _host_figures(row["pid"] if isinstance(channel, Channel) else None)
    return seen


def as_json(seen: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints."""
    return {key: value for key, value in seen.items() if key != "at"}


def _host_figures(pid: int | None) -> tuple[int | None, float | None]:
    """Bytes that only this process has, and seconds of CPU time; None for a process that is gone."""
    import psutil

    if pid is None:
        return None, None
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        return process.memory_full_info().uss, times.user + times.system
    except psutil.Error:
        return None, None


def _watch(names: list[str]) -> int:
    terminal = sys.stdout.isatty()
    channels = {name: connect(name) for name in names}
    news = [connect(name) for name in names]  # whatever happens is shown at once
    for source in news:
        source.send("WATCH")
    before: dict[str, dict[str, Any]] = {}
    try:
        while channels:
            parts = []
            for name, channel in list(channels.items()):
                try:
                    now = look(channel)
                except ConfigError:
                    parts.append(f"machine {name} has ended")
                    del channels[name]
                    continue
                parts.append(table_of(before.get(name, now), now, _columns()))
                before[name] = now
            print(("\x1b[H\x1b[J" if terminal else "") + "\n".join(parts), flush=True)
            if channels:
                select.select(news, [], [], PERIOD)
                news = [source for source in news if _skip(source)]
    except KeyboardInterrupt:
        pass
    return ExitCode.OK


def _skip(source: Channel) -> bool:
    """Take what has come: it only says that it is time to look. False when there will be no more."""
    try:
        while True:
            source.recv(0).close()
    except DeadlineMissed:
        return True
    except BulkheadError:
        return False


def tables(names: list[str], columns: int | None) -> list[str]:
    """One table a machine, its rates over a short glance, to fit into so many columns (None: as wide as it is)."""
    channels = {}
    for name in names:
        channels[name] = connect(name)
    before = {name: look(channel) for name, channel in channels.items()}
    time.sleep(GLANCE)
    texts = [table_of(before[name], look(channel), columns) for name, channel in channels.items()]
    for channel in channels.values():
        channel.close()
    return texts


def table_of(before: dict[str, Any], now: dict[str, Any], columns: int | None) -> str:
    """The table of one machine, from two looks at it, to fit into so many columns (None: as wide as it is)."""
    earlier = {row["id"]: row for row in before["processes"]}
    seconds = now["at"] - before["at"]
    rows = [_row(earlier.get(row["id"], row), row, seconds) for row in now["processes"]]
    lines = _fitting(rows, columns)
    colours = [None, *(STATE_COLOURS.get(row["state"]) for row in now["processes"])]
    text = [
        line.replace(row["state"], show.paint(row["state"], colour, sys.stdout), 1) if colour and row else line
        for line, colour, row in zip(lines, colours, [{}, *now["processes"]], strict=True)
    ]
    parts = [f"machine {now['machine']}", f"{now['phase']} {_duration(now['uptime'])}"]
    if now["phase"] in ("running", "paused"):
        parts.append(f"{now['kips'] / 1000:.0f} MIPS")
    parts.append(now["guest"])
    title = show.paint(" · ".join(filter(None, parts)), "bold", sys.stdout)
    places = [f"{name} {now[name]}" for name in ("serial", "gdb", "qmp", "metrics") if now.get(name)]
    return "\n".join([title, *([f"  {' · '.join(places)}"] if places else []), *text])


def _fitting(rows: list[tuple[str, ...]], columns: int | None) -> list[str]:
    """The table in the widest form that fits; why a process does not run, at a line's end, may be too long for any."""
    lines = show.table(HEADER, rows, NUMBERS)
    role = HEADER.index("ROLE")
    header, *others = [(*row[:role], *row[role + 1 :]) for row in (HEADER, *rows)]
    for narrower in (show.table(HEADER, rows, NUMBERS, gap=1), show.table(header, others, NUMBERS, gap=1)):
        if columns is None or max(map(len, lines)) <= columns:
            break
        lines = narrower
    return lines


def _backend(row: dict[str, Any]) -> str:
    """`file:root.ext4` of `file:/a/long/way/to/root.ext4`."""
    scheme, colon, place = str(row.get("backend") or NONE).partition(":/")
    return f"{scheme}:{os.path.basename(place)}" if colon else scheme


def _row(before: dict[str, Any], now: dict[str, Any], seconds: float) -> tuple[str, ...]:
    device = "requests" in now
    note = f"  ({now['reason']})" if now["reason"] and now["state"] != "running" else ""

    def rate(key: str, scale: float = 1.0) -> float:
        return (now[key] - before[key]) / scale / seconds if seconds > 0 else 0.0

    same = now["pid"] == before["pid"] and now["cpu"] is not None and before["cpu"] is not None and seconds > 0
    return (
        now["id"],
        now["role"],
        _text(now["pid"]),
        now["state"],
        _text(now["epoch"]),
        _text(now["restarts"]),
        show.size(now["memory"]),
        f"{rate('cpu', 0.01):.0f}%" if same else NONE,
        show.si(rate("requests")) if device else NONE,
        f"{rate('bytes', 1e6):.1f}" if device else NONE,
        str(now["queue"]) if device else NONE,
        _backend(now) + note,
    )


def _text(value: int | None) -> str:
    return NONE if value is None else str(value)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    parts = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    shown = [f"{number}{unit}" for number, unit in parts if number][:2]
    return "".join(shown) or "0s"
