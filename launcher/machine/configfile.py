"""A machine in a TOML file: the options of `bulkhead run`, under the same names.

    name = "web"
    memory = "512M"
    append = "quiet"

    [[disk]]
    uri = "data.img"        # relative to this file
    ro = true

    [[device]]
    device = "rng"
    id = "rng0"

A disk or a device may also be the text of the option: `disk = ["data.img,ro"]`. An unknown key is an error that
suggests the right one.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from launcher.machine.options import RUN_OPTIONS, Given, Option, Options
from proto.errors import ConfigError
from proto.suggest import did_you_mean, one_of

__all__ = ["read_config", "read_toml"]

_KEYS = {option.name: option for option in RUN_OPTIONS if option.in_file}


def read_toml(path: Path) -> dict[str, Any]:
    """A file's tables. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {(error.strerror or '').lower()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def read_config(path: Path) -> Options:
    """The options in a file. Raises ConfigError with file, key and what is wrong."""
    options: Options = {}
    for key, value in read_toml(path).items():
        option = _KEYS.get(key)
        if option is None:
            hint = "It can only be given on the command line." if key in {o.name for o in RUN_OPTIONS} else ""
            raise ConfigError(f"{path}: no key {key}{did_you_mean(key, _KEYS)}", hint=hint)
        source, base = f"{path}: {key}", path.absolute().parent
        options[key] = [Given(item, source, base) for item in _checked(option, value, source)]
    return options


def _checked(option: Option, value: Any, source: str) -> list[Any]:
    """The values of one key, each of the right type."""
    if option.kind == "flag":
        if not isinstance(value, bool):
            raise ConfigError(f"{source} = {value!r}: expected true or false")
        return [value] if value else []
    if option.kind == "list":
        items = value if isinstance(value, list) else [value]
        for item in items:
            if not isinstance(item, (str, dict)):
                raise ConfigError(f"{source}: expected text or a table, got {item!r}")
        return items
    number = isinstance(value, int) and not isinstance(value, bool)
    if option.kind == "number" and not number:
        raise ConfigError(f"{source} = {value!r}: expected a number")
    if not (isinstance(value, str) or number):
        raise ConfigError(f"{source} = {value!r}: expected text")
    if option.choices and value not in option.choices:
        suggestion = did_you_mean(str(value), option.choices)
        raise ConfigError(f"{source} = {value!r}: expected {one_of(option.choices)}{suggestion}")
    return [value]
