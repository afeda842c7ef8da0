"""What is in force for each process of a machine, and what this host could not give: for `ps --sandbox` and `doctor`.

The rows come from the processes' own reports, taken before any code of a device ran, by way of the keeper.
"""

from __future__ import annotations

from typing import Any

from launcher.cli import show
from proto.confine import landlock, namespaces
from proto.errors import ConfigError

__all__ = ["found_on_this_host", "table"]

HEADER = ("ID", "PID", "PROFILE", "NAMESPACES", "FILES", "CALLS", "MEMORY", "NOT IN FORCE")
NUMBERS = ("PID", "MEMORY")
NONE = "-"


def table(processes: list[dict[str, Any]]) -> str:
    """One line a process."""
    return "\n".join(show.table(HEADER, [_row(process) for process in processes], NUMBERS))


def _row(process: dict[str, Any]) -> tuple[str, ...]:
    report = process.get("sandbox") or {}
    given = report.get("in_force", {})
    if report.get("mode") == "off":
        missing = "everything: --sandbox off"
    elif not report:
        missing = "not confined yet" if process["pid"] else NONE
    else:
        missing = "; ".join(f"{what}: {why}" for what, why in report["missing"].items()) or NONE
    return (
        process["id"],
        str(process["pid"] or NONE),
        str(report.get("profile") or NONE),
        " ".join(map(str, given.get("namespaces", []))) or NONE,
        _files(given.get("Landlock")),
        _calls(given.get("system calls")),
        show.size(given.get("limits", {}).get("data")),
        missing,
    )


def _files(rules: Any) -> str:
    return f"{rules['rules']} rules" if isinstance(rules, dict) and "rules" in rules else NONE


def _calls(count: Any) -> str:
    if not isinstance(count, int):
        return NONE
    return str(count) if count > 0 else f"all but {-count}"


def found_on_this_host() -> str:
    """What processes can give up here. Raises ConfigError, saying what they cannot."""
    version = landlock.abi()
    given = {kind: why for kind, why in namespaces.probe().items() if why}
    lacking = [f"{kind} namespaces ({why})" for kind, why in given.items()]
    lacking += [f"Landlock's {what}" for what in landlock.missing(version)] if version else ["Landlock"]
    if lacking:
        raise ConfigError(
            f"devices run without {', '.join(lacking)}",
            hint="A newer kernel, or fewer restrictions around it, has them.",
        )
    return f"seccomp, Landlock {version}, namespaces {' '.join(namespaces.probe())}"
