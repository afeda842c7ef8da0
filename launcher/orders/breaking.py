"""`bulkhead break`, `held`, `step`, `go`, `drop`, `fail` and `change`: stop requests of a device, look, and say what
becomes of them.

Rules live in the keeper; these commands come and go (`launcher.orders.rules` is what they do). With --connect they act
on a machine elsewhere.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.control import machine_arguments, reach, request
from launcher.orders import rules
from launcher.orders.faultfile import read_faults
from proto.errors import ConfigError
from proto.faults import FIELDS, Rule, parse_change

__all__ = [
    "break_arguments",
    "change",
    "change_arguments",
    "drop",
    "fail",
    "go",
    "go_arguments",
    "held",
    "held_arguments",
    "rule",
    "step",
    "step_arguments",
]


def break_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `break`."""
    add = parser.add_argument
    add("id", metavar="ID", nargs="?", help="the device: blk0, net0, …")
    add("match", metavar="FILTER", nargs="?", help=f"which requests (default: all); fields: {', '.join(FIELDS)}")
    stage = parser.add_mutually_exclusive_group()
    stage.add_argument("--after", choices=["pop"], metavar="pop", help="before the device sees it (default)")
    stage.add_argument("--before", choices=["complete"], metavar="complete", help="before the driver gets it back")
    add("--action", metavar="ACTION", default="hold", help="hold (default), fail, drop, delay=MS, set=BYTES@OFFSET")
    add("--skip", type=int, metavar="N", help="so many matches pass first")
    add("--every", type=int, metavar="N", help="of the following, each Nth")
    add("--count", type=int, metavar="N", help="at most so many")
    add("--probability", type=float, metavar="P", help="each of those with this probability, 0 to 1")
    add("--seed", type=int, metavar="N", help="of the probability: the same one chooses the same (default 0)")
    add("--file", metavar="FILE", help="take rules from a TOML file (docs/break.md)")
    add("--list", action="store_true", help="show all rules, and how often each has matched and acted")
    add("--clear", action="store_true", help="forget the rules of ID, or all; what they hold goes on")
    add("--rule", type=int, metavar="N", help="with --clear: only this one")
    add("--json", action="store_true", help="for programs")
    machine_arguments(parser)


def rule(arguments: argparse.Namespace) -> int:
    """The verb `break`."""
    if arguments.rule is not None and not (arguments.clear and arguments.id):
        raise ConfigError("--rule goes with --clear and a device", hint="bulkhead break blk0 --clear --rule 1")
    with reach(arguments) as line:
        if arguments.clear:
            rules.clear(line, arguments.id or "", arguments.rule)
        elif not arguments.list:
            mine = rules.add(line, _rules(arguments))
            print(json.dumps(mine, indent=2) if arguments.json else "\n".join(map(_line, mine)))
            return ExitCode.OK
        seen = request(line, "BREAKS")
        rows = [row for row in seen["rules"] if arguments.id in (None, row["device"])]
        if arguments.json:
            print(json.dumps({"rules": rows}, indent=2))
        elif arguments.list:
            print("\n".join(_table_of_rules(rows)) if rows else "no rules")
    return ExitCode.OK


def _rules(arguments: argparse.Namespace) -> list[Rule]:
    if arguments.file:
        if arguments.id or arguments.match:
            raise ConfigError("--file has devices and filters in it", hint="Leave ID and FILTER out.")
        return list(read_faults(Path(arguments.file).expanduser()))
    if not arguments.id:
        raise ConfigError("break of which device?", hint="For example: bulkhead break blk0 'op == WRITE'")
    values: dict[str, Any] = {"device": arguments.id, "match": arguments.match or "", "action": arguments.action}
    values["at"] = arguments.before or arguments.after or "pop"
    for name in ("skip", "every", "count", "probability", "seed"):
        if (value := getattr(arguments, name)) is not None:
            values[name] = value
    return [Rule.parse(values)]


def _line(row: dict[str, Any]) -> str:
    return f"{row['device']} rule {row['number']}: {row['text']}"


def _table_of_rules(rows: list[dict[str, Any]]) -> list[str]:
    header = ("ID", "RULE", "MATCHED", "ACTED", "WHAT")
    cells = [(row["device"], str(row["number"]), str(row["matched"]), str(row["taken"]), _text(row)) for row in rows]
    return show.table(header, cells, ("RULE", "MATCHED", "ACTED"))


def _text(row: dict[str, Any]) -> str:
    return str(row["text"]) if row["in_force"] else f"{row['text']}  (not yet: its process does not serve)"


# -- what is held ------------------------------------------------------------------------------------------------------


def held_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `held`."""
    parser.add_argument("id", metavar="ID", nargs="?", help="the device (default: all)")
    parser.add_argument("--json", action="store_true", help="for programs")
    machine_arguments(parser)


def held(arguments: argparse.Namespace) -> int:
    """The verb `held`."""
    with reach(arguments) as line:
        seen = request(line, "BREAKS")
    rows = [row for row in seen["held"] if arguments.id in (None, row["device"])]
    now = seen["now"]
    if arguments.json:
        print(
            json.dumps({"held": [{**row, "for": now - row["since"]} for row in rows], "more": seen["more"]}, indent=2)
        )
        return ExitCode.OK
    if not rows:
        print("nothing is held")
        return ExitCode.OK
    header = ("ID", "QUEUE", "REQUEST", "WHAT", "AT", "RULE", "FOR", "")
    cells = [
        (
            row["device"],
            str(row["queue"]),
            str(row["number"]),
            f"{row['op']} {row['words']}".strip(),
            row["at"],
            str(row["rule"] + 1),
            f"{now - row['since']:.1f} s",
            f"goes on in {max(0.0, row['due'] - now):.1f} s" if row["due"] else "",
        )
        for row in rows
    ]
    print("\n".join(line.rstrip() for line in show.table(header, cells, ("QUEUE", "REQUEST", "RULE"))))
    if seen["more"]:
        print(f"and {seen['more']} more")
    return ExitCode.OK


# -- what becomes of it ------------------------------------------------------------------------------------------------


def go_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `go`, `drop` and `fail`."""
    parser.add_argument("id", metavar="ID", help="the device")
    parser.add_argument(
        "request", metavar="N", nargs="?", default="all", help="the request's number, QUEUE:NUMBER, or all (default)"
    )
    machine_arguments(parser)


def step_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `step`."""
    parser.add_argument("id", metavar="ID", help="the device")
    parser.add_argument(
        "request", metavar="N", nargs="?", default="first", help="the request's number (default: the oldest)"
    )
    machine_arguments(parser)


def change_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `change`."""
    parser.add_argument("id", metavar="ID", help="the device")
    parser.add_argument("request", metavar="N", help="the request's number, QUEUE:NUMBER, or all")
    parser.add_argument("change", metavar="BYTES@OFFSET", help="hexadecimal, and where; -1 is the last byte")
    machine_arguments(parser)


def go(arguments: argparse.Namespace) -> int:
    """The verb `go`."""
    return _order(arguments, "go")


def step(arguments: argparse.Namespace) -> int:
    """The verb `step`: one goes on."""
    return _order(arguments, "go")


def drop(arguments: argparse.Namespace) -> int:
    """The verb `drop`."""
    return _order(arguments, "drop")


def fail(arguments: argparse.Namespace) -> int:
    """The verb `fail`."""
    return _order(arguments, "fail")


def change(arguments: argparse.Namespace) -> int:
    """The verb `change`: with other bytes in it, it goes on."""
    data, offset = parse_change(arguments.change)
    return _order(arguments, "change", data=data, offset=offset)


def _order(arguments: argparse.Namespace, then: str, **more: Any) -> int:
    with reach(arguments) as line:
        rules.order(line, arguments.id, then, arguments.request, **more)
    return ExitCode.OK
