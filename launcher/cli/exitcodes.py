"""Exit codes of `bulkhead`, one table: what the command returns, what `--help` and the documentation list.

`bulkhead run -- COMMAND` returns COMMAND's own status, which may be any of 0..255; the codes of bulkhead itself are at
the upper end of what commands do not use.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["MEANINGS", "ExitCode", "exit_code", "help_text"]


class ExitCode(IntEnum):
    """How a command ended, other than with the guest's own status."""

    OK = 0
    UNFINISHED = 122
    PANIC = 123
    KILLED = 124
    ERROR = 125


MEANINGS = {
    ExitCode.OK: "all went well; the guest powered off, or was left with Ctrl-A x",
    ExitCode.UNFINISHED: "the guest stopped before COMMAND had ended",
    ExitCode.PANIC: "the guest's kernel panicked",
    ExitCode.KILLED: "killed: by a signal, `bulkhead stop`, or Ctrl-A x while COMMAND ran",
    ExitCode.ERROR: "bulkhead failed: a wrong option, a missing image, a process that crashed",
}

# How the keeper says that a machine ended, other than by the guest's own code.
_REASONS = {
    "poweroff": ExitCode.OK,
    "reset": ExitCode.OK,
    "quit": ExitCode.OK,
    "panic": ExitCode.PANIC,
    "stopped": ExitCode.KILLED,
    "killed": ExitCode.KILLED,
}


def exit_code(reason: str, code: int = 0) -> int:
    """The exit code for a machine that ended with `reason`; `code` is what the guest wrote to its test finisher.

    A finisher code that does not fit into eight bits keeps its low ones, but never becomes 0.
    """
    if reason == "finisher":
        return code & 0xFF or int(code != 0)
    return _REASONS.get(reason, ExitCode.ERROR)


def help_text() -> str:
    """The table as `--help` shows it."""
    rows = [f"  {'N':<5}COMMAND's status, or the code the guest wrote to its test finisher"]
    rows += [f"  {code.value:<5}{meaning}" for code, meaning in MEANINGS.items()]
    return "exit codes:\n" + "\n".join(rows)
