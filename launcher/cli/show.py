"""What people see besides the guest: errors, tables, the first lines of a run, progress. Colour only on a terminal."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from collections.abc import Sequence
from typing import Any, TextIO

from launcher.machine.description import Machine

__all__ = [
    "Progress",
    "complain",
    "cut",
    "description",
    "line",
    "memory_map",
    "paint",
    "process_line",
    "processes",
    "si",
    "size",
    "summary",
    "table",
]

PREFIX = "bulkhead: "
COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}
PERIOD = 0.05  # seconds between two drawings of a progress line
BAR = 16  # characters
WIDEST_STEP = 52  # characters of what is being done: with the bar it fits into 80


def paint(text: str, colour: str, stream: TextIO) -> str:
    """`text` in a colour, if `stream` is a terminal that wants one."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def complain(message: str, hint: str = "") -> None:
    """An error: one line, and what to do about it below."""
    lines = [paint(PREFIX, "red", sys.stderr) + message, *(" " * len(PREFIX) + row for row in hint.splitlines())]
    try:
        sys.stderr.write("".join(f"{text}\n" for text in lines))
        sys.stderr.flush()
    except OSError:  # the terminal has gone; what is in the buffer must not fail again at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def cut(text: str, stream: TextIO) -> str:
    """A line of a table no wider than the terminal that `stream` is; anything else gets all of it."""
    with contextlib.suppress(OSError, ValueError):
        columns = os.get_terminal_size(stream.fileno()).columns
        return text if not columns or len(text) <= columns else f"{text[: columns - 1]}…"
    return text


def line(stream: TextIO, text: str, end: str = "\n") -> None:
    """One line, also while the terminal is raw; a terminal that has gone is not an error."""
    with contextlib.suppress(OSError):
        stream.write(paint(text, "dim", stream) + end)
        stream.flush()


def size(number: int | None) -> str:
    """Bytes as people read them: 11M, 271M, 1.2G."""
    if number is None:
        return "-"
    value = float(number)
    for unit in ("", "K", "M", "G"):
        if value < 1000:
            return f"{value:.0f}{unit}" if value >= 10 or not unit else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}T"


def si(number: float) -> str:
    """A count with a space every three digits."""
    return f"{number:,.0f}".replace(",", " ")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = (), gap: int = 2) -> list[str]:
    """Columns `gap` spaces apart; those named in `right` are aligned to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(header, row, widths, strict=True)
        ]
        lines.append((" " * gap).join(cells).rstrip())
    return lines


# -- a machine ---------------------------------------------------------------------------------------------------------


def summary(machine: Machine) -> str:
    """The machine in half a line."""
    harts = "1 hart" if machine.harts == 1 else f"{machine.harts} harts"
    return f"{machine.guest} · {machine.memory >> 20} MiB · {harts}"


def process_line(keeper: int, rows: list[dict[str, Any]]) -> str:
    """The processes of a machine that has started, in one line."""
    parts = [f"keeper {keeper}"]
    for row in rows:
        backend = os.path.basename(row.get("backend", "").removeprefix("file:"))
        parts.append(f"{row['id']} {row['pid']}{' ' + backend if backend else ''}")
    return "  " + "   ".join(parts)


def processes(machine: Machine) -> str:
    """What would be started: one process a row."""
    rows = [
        ("keeper", "keeper", "launcher.keeper", "", "supervises; holds memory, control pages and in-flight tables"),
        ("core", "core", "core.main", "", _core_words(machine)),
    ]
    places = machine.places()
    for device in machine.devices:
        place = places[device.id]
        where = f"slot {place['slot']}" if place["slot"] is not None else f"{place['address']:#x}"
        rows.append((device.id, device.role, "devproc.main", f"{where}, irq {place['irq']}", device.describe()))
    return "\n".join(table(("ID", "ROLE", "MODULE", "PLACE", "WHAT"), rows))


def _core_words(machine: Machine) -> str:
    words = [summary(machine)]
    for name in ("kernel", "initrd", "append"):
        if getattr(machine, name):
            words.append(
                f"{name} {getattr(machine, name)!r}" if name == "append" else f"{name} {getattr(machine, name)}"
            )
    return ", ".join(words)


def description(machine: Machine) -> str:
    """Configuration, processes and memory map, for `-v`."""
    shown = {
        "name": machine.name,
        "guest": machine.guest,
        "memory": f"{machine.memory >> 20} MiB",
        "harts": machine.harts,
        "bios": machine.bios,
        "kernel": machine.kernel,
        "initrd": machine.initrd,
        "append": machine.append,
        "boot": machine.boot,
        "serial": ":".join(
            filter(None, ("stdio" if machine.serial.kind == "fd" else machine.serial.kind, machine.serial.path))
        ),
        "link": machine.link,
        "reset": "starts again" if machine.reboot else "ends the machine",
        "host": f"{platform.machine()}, Python {platform.python_version()}, {os.cpu_count()} CPUs",
    }
    lines = [f"{name:<8} {value}" for name, value in shown.items() if value != ""]
    return "\n".join(
        [
            "configuration",
            *_indented(lines),
            "",
            "devices",
            *_indented(processes(machine).splitlines()),
            "",
            "memory map",
            *_indented(memory_map(machine).splitlines()),
        ]
    )


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {text}" for text in lines]


def memory_map(machine: Machine) -> str:
    """The board's memory map as a tree."""
    from core.board import virt
    from core.board.map import render_tree

    places = machine.places()
    slots, windows = [], []
    for device in machine.devices:
        place = places[device.id]
        if device.kind == "virtio":
            slots.append(virt.Slot(place["slot"], device.id))
        else:
            windows.append(virt.WindowRange(device.id, place["address"], place["size"], place["irq"]))
    board = virt.Machine(memory=machine.memory, harts=machine.harts, slots=tuple(slots), windows=tuple(windows))
    return render_tree(virt.memory_map(board))


def _short(what: str) -> str:
    return what if len(what) <= WIDEST_STEP else f"{what[: WIDEST_STEP - 1].rstrip(' ,')}…"


class Progress:
    """One line at the bottom of a terminal, gone afterwards; one line a step where there is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._shown = ""
        self._drawn_at = 0.0

    def __call__(self, what: str, fraction: float | None) -> None:
        """Say what is being done, and how far it is (0..1), where that is known."""
        now = time.monotonic()
        if what == self._shown and (not self._terminal or (now - self._drawn_at < PERIOD and fraction != 1.0)):
            return
        self._shown, self._drawn_at = what, now
        bar = ""
        if fraction is not None and self._terminal:
            done = round(fraction * BAR)
            bar = f"  {'█' * done}{'░' * (BAR - done)} {fraction:4.0%}"
        with contextlib.suppress(OSError):
            self._stream.write(f"\r\x1b[K  {_short(what)}{bar}" if self._terminal else f"{what} …\n")
            self._stream.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._terminal and self._shown:
            self._shown = ""
            with contextlib.suppress(OSError):
                self._stream.write("\r\x1b[K")
                self._stream.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
