"""Rules in a TOML file, for `run --faults` and `break --file`: the same faults again, every time.

    [[rule]]
    device = "blk0"
    match = "op == FLUSH"
    action = "fail"
    skip = 2                # the first two pass,
    count = 1               # and only the third fails

Keys are the fields of `proto.faults.Rule`; `before = "complete"` is another word for `at = "complete"`.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from launcher.machine.configfile import read_toml
from proto.errors import ConfigError
from proto.faults import Rule
from proto.suggest import did_you_mean

__all__ = ["read_faults"]

_OURS = frozenset({"slot", "delay", "data", "offset"})  # said in other words: as part of the action


def read_faults(path: Path, devices: Collection[str] | None = None) -> tuple[Rule, ...]:
    """The rules of a file. Raises ConfigError with the file and the rule; with `devices`, also for one of another
    device."""
    values = read_toml(path)
    rows = values.pop("rule", [])
    if values or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        extra = next(iter(values), "rule")
        raise ConfigError(f"{path}: {extra}: expected [[rule]] tables and nothing else", hint="See: docs/break.md")
    if not rows:
        raise ConfigError(f"{path}: no rules in it", hint="Begin one with: [[rule]]")
    return tuple(_rule(row, f"{path}: rule {number}", devices) for number, row in enumerate(rows, 1))


def _rule(row: dict[str, object], where: str, devices: Collection[str] | None) -> Rule:
    values = dict(row)
    for word in ("before", "after"):
        if word in values:
            values["at"] = values.pop(word)
    for name in _OURS & set(values):
        raise ConfigError(f"{where}: no key {name}", hint='Say it with the action: action = "delay=200ms", "set ff@8".')
    rule = Rule.parse(values, where)
    if devices is not None and rule.device not in devices:
        hint = f"It has: {', '.join(devices)}." if devices else "It has none."
        raise ConfigError(
            f"{where}: the machine has no device {rule.device}{did_you_mean(rule.device, devices)}", hint=hint
        )
    return rule
