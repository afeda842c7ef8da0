"""The monitor: commands for people, typed at the console (Ctrl-A c), `bulkhead monitor`, or human-monitor-command.

QEMU's names where it has the command. Every QMP command can be typed, too: `device-swap id=blk0 uri=qcow2:b.qcow2`.
"""

from __future__ import annotations

import json
import shlex
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from launcher.machine.description import Machine
from launcher.qmp.commands import COMMANDS, Command, check_arguments, find_command
from launcher.qmp.tree import draw
from proto.errors import BulkheadError, ConfigError
from proto.suggest import did_you_mean

if TYPE_CHECKING:
    from launcher.qmp.actions import Actions

__all__ = ["Monitor", "parse_words"]

UNITS = {"b": 1, "h": 2, "w": 4, "g": 8}
FORMATS = {"x": "0x{:0{}x}", "d": "{}", "u": "{}", "o": "{:#o}", "c": "{!r}"}
CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
MOST_BYTES = 4096  # of one x or xp
PRIVILEGES = {0: "U", 1: "S", 3: "M"}


class Monitor:
    """One operator. `run` takes a line and gives the text to show."""

    def __init__(self, actions: Actions, hart: int = 0) -> None:
        self._actions = actions
        self._hart = hart

    def run(self, line: str) -> str:
        """Carry out one line; mistakes are told as text. What comes back is "" or ends in a newline."""
        try:
            return self.carry_out(line)
        except BulkheadError as error:
            return f"{error.message}\n" + (f"{error.hint}\n" if error.hint else "")

    def carry_out(self, line: str) -> str:
        """The same, but mistakes are raised, as BulkheadError."""
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return self._run(words) if words else ""

    def _run(self, words: list[str]) -> str:
        name, _, suffix = words[0].partition("/")
        if name in ("x", "xp"):
            return self._examine(name, suffix, words[1:])
        known = self._COMMANDS.get(words[0])
        if known is not None:
            return known[1](self, words[1:])
        names = [*self._COMMANDS, *(command.name for command in COMMANDS)]
        if words[0] not in names:
            raise ConfigError(f"no command {words[0]}{did_you_mean(words[0], names)}", hint="help lists them")
        command = find_command(words[0])
        result = self._actions.act(command.name, parse_words(command, words[1:]))
        return json.dumps(result, indent=2) + "\n" if result not in ({}, None) else ""

    # -- information -----------------------------------------------------------------------------------------------

    def _info(self, words: list[str]) -> str:
        topic = words[0] if words else ""
        if topic not in self._INFO:
            lines = "".join(f"info {name:<12} {text}\n" for name, (text, _) in self._INFO.items())
            return lines if not topic else f"no info {topic}{did_you_mean(topic, self._INFO)}\n{lines}"
        return self._INFO[topic][1](self, words[1:])

    def _status(self, words: list[str]) -> str:
        return f"VM status: {self._actions.act('query-status', {})['status']}\n"

    def _name(self, words: list[str]) -> str:
        return f"{self._actions.act('query-name', {})['name']}\n"

    def _version(self, words: list[str]) -> str:
        return f"{self._actions.act('query-version', {})['package']}\n"

    def _cpus(self, words: list[str]) -> str:
        harts = [(hart["cpu-index"], hart["qom-path"]) for hart in self._actions.act("query-cpus-fast", {})]
        return "".join(f"{'*' if number == self._hart else ' '} CPU #{number}: {path}\n" for number, path in harts)

    def _block(self, words: list[str]) -> str:
        rows = self._actions.act("query-block", {})
        lines = (
            f"{row['device']}: {row['inserted']['file']}{' (read-only)' * row['inserted']['ro']}\n" for row in rows
        )
        return "".join(lines) or "no disks\n"

    def _registers(self, words: list[str]) -> str:
        seen = self._actions.inspect(what="registers", hart=self._hart)
        values = dict(seen["registers"])
        lines = [seen["state"], f" pc       {values.pop('pc'):016x}   mode {PRIVILEGES.get(values.pop('priv'), '?')}"]
        items = [f" {name:<8} {value:016x}" for name, value in values.items()]
        width = 3
        lines += ["".join(items[at : at + width]) for at in range(0, len(items), width)]
        return "\n".join(lines) + "\n"

    def _mtree(self, words: list[str]) -> str:
        from launcher.cli.show import memory_map

        return memory_map(Machine.from_dict(self._actions.describe())).rstrip() + "\n"

    def _qom_tree(self, words: list[str]) -> str:
        return "\n".join(draw(self._actions.tree())) + "\n"

    def _processes(self, words: list[str]) -> str:
        rows = self._actions.act("query-processes", {})
        return "".join(f"{row['id']:<10} {row['pid'] or '-':>8} {row['state']}\n" for row in rows)

    # -- memory ----------------------------------------------------------------------------------------------------

    def _examine(self, name: str, suffix: str, words: list[str]) -> str:
        """x/COUNT FORMAT UNIT ADDRESS, as in QEMU and gdb: x/4xw 0x80200000."""
        if len(words) != 1:
            raise ConfigError(f"{name}/FMT ADDRESS", hint="for example: xp/4xw 0x80200000")
        count, form, unit = _format(suffix)
        address = _number(words[0])
        size = min(count * unit, MOST_BYTES)
        seen = self._actions.inspect(what="memory", hart=self._hart, address=address, size=size, physical=name == "xp")
        data: bytes = seen["data"]
        lines = []
        for at in range(0, len(data) - unit + 1, 16):
            row = data[at : at + 16]
            row = row[: len(row) // unit * unit]
            shown = [_shown(value, form, unit) for (value,) in struct.iter_unpack(f"<{CODES[unit]}", row)]
            lines.append(f"{address + at:016x}: {' '.join(shown)}\n")
        return "".join(lines)

    def _cpu(self, words: list[str]) -> str:
        harts = self._actions.describe()["harts"]
        if len(words) != 1 or not words[0].isdigit() or int(words[0]) >= harts:
            raise ConfigError(f"cpu INDEX: 0 to {harts - 1}")
        self._hart = int(words[0])
        return ""

    def _help(self, words: list[str]) -> str:
        own = [(name, text) for name, (text, _) in self._COMMANDS.items()]
        own.append(("x, xp", "memory by virtual or physical address: xp/4xw 0x80200000"))
        lines = [f"{name:<26} {text}" for name, text in own]
        lines += [f"{command.name:<26} {command.text}" for command in COMMANDS if command.name not in self._COMMANDS]
        return "\n".join(lines) + "\n"

    _INFO: dict[str, tuple[str, Callable[[Monitor, list[str]], str]]] = {
        "status": ("whether the guest runs", _status),
        "registers": ("of the current hart (`cpu N` chooses)", _registers),
        "mtree": ("the memory map", _mtree),
        "qom-tree": ("machine, devices and backends as a tree", _qom_tree),
        "block": ("disks and what is behind them", _block),
        "cpus": ("the harts", _cpus),
        "processes": ("the processes of the machine", _processes),
        "name": ("of the machine", _name),
        "version": ("of Bulkhead", _version),
    }
    _COMMANDS: dict[str, tuple[str, Callable[[Monitor, list[str]], str]]] = {
        "help": ("this list", _help),
        "info": ("about the machine; `info` alone lists the topics", _info),
        "cpu": ("choose the hart that x and `info registers` speak of", _cpu),
    }


def parse_words(command: Command, words: list[str]) -> dict[str, Any]:
    """Arguments as they are typed: NAME=VALUE, or values in the table's order. Raises ConfigError."""
    names = [argument.name for argument in command.arguments]
    types = {argument.name: argument.type for argument in command.arguments}
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in names:
            free = [name for name in names if name not in found]
            if equals and name.replace("-", "").isalnum() and "/" not in name and ":" not in name and not free:
                raise ConfigError(f"{command.name} has no argument {name}{did_you_mean(name, names)}")
            if not free:
                raise ConfigError(f"{command.name} takes {len(names) or 'no'} argument{'s' * (len(names) != 1)}")
            name, value = free[0], word
        found[name] = _typed(command.name, name, types[name], value)
    check_arguments(command, found)
    return found


def _typed(command: str, name: str, type: str, text: str) -> Any:
    if type == "str":
        return text
    try:
        return json.loads(text)
    except ValueError:
        if type == "any":
            return text
        raise ConfigError(f"{command}: {name}={text}: expected {type}") from None


def _format(suffix: str) -> tuple[int, str, int]:
    """Count, format letter and bytes a unit of /4xw; what is left out is 1, x, w."""
    digits = suffix[: len(suffix) - len(suffix.lstrip("0123456789"))]
    form, unit = "x", 4
    for letter in suffix[len(digits) :]:
        if letter in UNITS:
            unit = UNITS[letter]
        elif letter in FORMATS:
            form = letter
        else:
            raise ConfigError(
                f"/{suffix}: no format {letter}", hint="COUNT, then one of x d u o c, then one of b h w g"
            )
    return int(digits or 1), form, unit


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ConfigError(f"{text} is no address") from None


def _shown(value: int, form: str, unit: int) -> str:
    if form == "d" and value >> (8 * unit - 1):
        value -= 1 << (8 * unit)
    if form == "c":
        return repr(chr(value & 0xFF))
    return FORMATS[form].format(value, 2 * unit) if form == "x" else FORMATS[form].format(value)
