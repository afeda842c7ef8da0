"""Typed properties of a device or backend: declared once, parsed from text, listed by `--device X,help`.

    class Mailbox(MmioDevice):
        depth = Property(int, 16, "words that the FIFO holds", minimum=1, maximum=1024)

On an instance, `self.depth` is the value. Values come as text from the command line or typed from a TOML file; a
wrong one is a ConfigError that names the property, the value and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from proto.errors import ConfigError

__all__ = ["REQUIRED", "FilePath", "Property", "Size", "parse_properties", "properties_of", "property_help"]


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Any = _Required()


class Size(int):
    """The type of a property that is a number of bytes: `4k`, `16M`, `1G`, or plain digits."""


class FilePath(str):
    """The type of a property that names a file of the host; the launcher makes it absolute."""


_WORDS = {"on": True, "yes": True, "true": True, "1": True, "off": False, "no": False, "false": False, "0": False}
_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40}
_NAMES = {str: "text", int: "number", float: "number", bool: "on|off", Size: "size", FilePath: "file"}


class Property:
    """One property: its type (str, int, bool or Size), its default (or REQUIRED), and one sentence."""

    def __init__(
        self,
        type: type,
        default: Any = REQUIRED,
        help: str = "",
        *,
        minimum: int | None = None,
        maximum: int | None = None,
        choices: tuple[Any, ...] = (),
    ) -> None:
        self.type = type
        self.default = default
        self.help = help
        self.minimum = minimum
        self.maximum = maximum
        self.choices = choices
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else instance.__dict__.get(self.name, self.default)

    def parse(self, value: Any) -> Any:
        """The value as the declared type. Raises ConfigError."""
        try:
            parsed = _PARSERS[self.type](value)
        except (ValueError, TypeError, KeyError):
            raise ConfigError(f"{self.name}={value}: expected {self.expected()}", value=value) from None
        if self.choices and parsed not in self.choices:
            raise ConfigError(f"{self.name}={value}: expected {self.expected()}", value=value)
        low, high = self.minimum, self.maximum
        if (low is not None and parsed < low) or (high is not None and parsed > high):
            raise ConfigError(f"{self.name}={value}: expected {self.expected()}", value=value)
        return parsed

    def expected(self) -> str:
        """What a value looks like, for help and for errors."""
        if self.choices:
            return "|".join(map(str, self.choices))
        text = _NAMES[self.type]
        if self.minimum is not None and self.maximum is not None:
            return f"{text} from {self.minimum} to {self.maximum}"
        if self.minimum is not None:
            return f"{text}, at least {self.minimum}"
        return f"{text}, at most {self.maximum}" if self.maximum is not None else text


def _parse_int(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError
    return value if isinstance(value, int) else int(value, 0)


def _parse_float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _parse_size(value: Any) -> int:
    if isinstance(value, str) and value[-1:].lower() in _UNITS:
        return int(value[:-1], 0) << _UNITS[value[-1].lower()]
    return _parse_int(value)


def _parse_bool(value: Any) -> bool:
    return value if isinstance(value, bool) else _WORDS[value.lower()]


def _parse_str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


_PARSERS: dict[type, Callable[[Any], Any]] = {
    str: _parse_str,
    int: _parse_int,
    float: _parse_float,
    bool: _parse_bool,
    Size: _parse_size,
    FilePath: _parse_str,
}


def properties_of(cls: type) -> dict[str, Property]:
    """Every property a class declares or inherits, by name, in the order of declaration."""
    found: dict[str, Property] = {}
    for base in reversed(cls.__mro__):
        found.update({name: value for name, value in vars(base).items() if isinstance(value, Property)})
    return found


def parse_properties(cls: type, given: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """All values for an instance of `cls`: those given, parsed, and the defaults. Raises ConfigError for an unknown
    name (suggesting the right one), a wrong value, or a required one that is missing. `owner` is how the user named
    it."""
    known = properties_of(cls)
    for name in given:
        if name not in known:
            raise ConfigError(f"{owner} has no property {name!r}", hint=_suggest(name, known), value=name)
    missing = [name for name, prop in known.items() if prop.default is REQUIRED and name not in given]
    if missing:
        raise ConfigError(
            f"{owner} needs {missing[0]}=…: {known[missing[0]].help}",
            hint=f"`--device {owner},help` lists its properties.",
        )
    return {name: prop.parse(given[name]) if name in given else prop.default for name, prop in known.items()}


def property_help(cls: type, owner: str) -> str:
    """What `--device X,help` prints."""
    first = (cls.__doc__ or "").strip().split("\n")[0]
    lines = [f"{owner}: {first}" if first else owner]
    rows = [
        (
            name,
            prop.expected(),
            "required" if prop.default is REQUIRED else f"default {_shown(prop.default)}",
            prop.help,
        )
        for name, prop in properties_of(cls).items()
    ]
    if not rows:
        lines.append("  no properties")
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        lines.append("  " + "  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]).rstrip())
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else repr(value) if value == "" else str(value)


def _suggest(name: str, known: Mapping[str, Property]) -> str:
    import difflib  # only when there is something to complain about: it is slow to import

    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"Did you mean {close[0]}?"
    return f"It has: {', '.join(known)}." if known else "It has none."
