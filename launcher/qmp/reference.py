"""The reference part of docs/qmp.md, made of the table: `python -m launcher.qmp.reference docs/qmp.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from launcher.qmp.commands import COMMANDS, EVENTS, Command, Event, Member

__all__ = ["reference", "rewrite"]

BEGIN, END = "<!-- begin commands -->\n", "<!-- end commands -->\n"


def reference() -> str:
    """Commands and events as Markdown tables."""
    commands = "".join(line + "\n" for command in COMMANDS for line in _command(command))
    events = "".join(line + "\n" for event in EVENTS for line in _event(event))
    head = "| command | what it does | arguments | returns |\n| --- | --- | --- | --- |\n"
    return f"{head}{commands}\n| event | when | members |\n| --- | --- | --- |\n{events}"


def _command(command: Command) -> Iterator[str]:
    verb = f" (`bulkhead {command.verb}`)" if command.verb else ""
    arguments = ", ".join(_member(argument) for argument in command.arguments)
    if isinstance(command.returns, str):
        returns = f"`{command.returns}`"
    else:
        returns = ("an array of " if command.many else "") + ", ".join(_member(member) for member in command.returns)
    yield f"| `{command.name}` | {command.text}{verb} | {arguments} | {returns} |"


def _event(event: Event) -> Iterator[str]:
    yield f"| `{event.name}` | {event.text} | {', '.join(_member(member) for member in event.members)} |"


def _member(member: Member) -> str:
    text = f": {member.text}" if member.text else ""
    return f"`{member.name}` {member.type}{' (optional)' if member.optional else ''}{text}"


def rewrite(page: Path) -> None:
    """Put the reference between its marks."""
    text = page.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    page.write_text(text[:begin] + reference() + text[end:])


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]))
