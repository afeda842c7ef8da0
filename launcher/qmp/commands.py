"""The commands of QMP, one table: name, what it does, arguments, result.

Types are those of QEMU's schema: str, int, number, bool, any, and in brackets an array. Names are QEMU's own where it
has the command; the others begin with `device-`, `machine-` or `crash-`.
"""

from __future__ import annotations

from dataclasses import dataclass

from proto.errors import ConfigError
from proto.suggest import did_you_mean

__all__ = ["COMMANDS", "EVENTS", "Argument", "Command", "Event", "Member", "check_arguments", "find_command"]


@dataclass(frozen=True)
class Member:
    """A member of a result or an event."""

    name: str
    type: str
    text: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Argument(Member):
    """An argument of a command."""


@dataclass(frozen=True)
class Command:
    """One command. `returns` is a type, or the members of an object; `many`: an array of such objects."""

    name: str
    text: str
    arguments: tuple[Argument, ...] = ()
    returns: str | tuple[Member, ...] = ()
    many: bool = False
    verb: str = ""  # of the command line that does the same
    early: bool = False  # allowed before qmp_capabilities


@dataclass(frozen=True)
class Event:
    """One event; `of` is the keeper's event that it tells."""

    name: str
    of: str
    text: str
    members: tuple[Member, ...] = ()


ID = Argument("id", "str", "the device: blk0, net0, …")
DEVICE = Argument("device", "str", "the disk: blk0, …")
PATH = Argument("path", "str", "an object: /machine/devices/blk0")
ONE = Argument("request", "str", "its number, or QUEUE:NUMBER", optional=True)
SOME = Argument("request", "str", "its number, QUEUE:NUMBER, or all (default)", optional=True)
KEYS = (Member("requests", "[str]", "QUEUE:NUMBER of each"),)
HELD = (
    Member("id", "str", "the device"),
    Member("request", "str", "QUEUE:NUMBER"),
    Member("what", "str", "operation and place"),
    Member("at", "str", "pop or complete"),
    Member("rule", "int"),
    Member("seconds", "number", "for how long"),
)

COMMANDS = (
    Command(
        "qmp_capabilities",
        "Begin: the first command of a session. There is nothing to enable.",
        (Argument("enable", "[str]", "capabilities; none is offered", optional=True),),
        early=True,
    ),
    Command("query-commands", "The commands.", (), (Member("name", "str"),), many=True),
    Command("query-qmp-schema", "Commands, events and their types, for programs (QAPI introspection).", (), "[any]"),
    Command("query-version", "The version of Bulkhead.", (), (Member("qemu", "any"), Member("package", "str"))),
    Command("query-name", "The machine's name.", (), (Member("name", "str"),)),
    Command(
        "query-status",
        "Whether the guest runs.",
        (),
        (Member("running", "bool"), Member("status", "str", "running, paused, prelaunch or shutdown")),
    ),
    Command(
        "query-cpus-fast",
        "The harts.",
        (),
        (
            Member("cpu-index", "int"),
            Member("thread-id", "int", "the core's process"),
            Member("qom-path", "str"),
            Member("target", "str"),
        ),
        many=True,
    ),
    Command("query-memory-size-summary", "The guest's memory, in bytes.", (), (Member("base-memory", "int"),)),
    Command(
        "query-block",
        "The disks, and what is behind them.",
        (),
        (
            Member("device", "str"),
            Member("qdev", "str", "its path in the tree"),
            Member("type", "str"),
            Member("locked", "bool"),
            Member("removable", "bool"),
            Member("inserted", "any", "file: the URI of the backend; ro; drv"),
        ),
        many=True,
    ),
    Command(
        "query-processes",
        "The processes, as `bulkhead ps` shows them.",
        (),
        "[any]",
        verb="ps",
    ),
    Command("stop", "The guest stands still.", verb="pause"),
    Command("cont", "The guest goes on.", verb="cont"),
    Command("quit", "End the machine, as by pulling the plug.", verb="stop"),
    Command("system_reset", "Start the guest again, in new memory."),
    Command("system_powerdown", "Ask the guest to shut down: its kernel flushes its disks and powers off."),
    Command(
        "device-restart",
        "Replace a device's process; returns when the new one serves.",
        (ID,),
        (Member("pid", "int"), Member("epoch", "int")),
        verb="restart",
    ),
    Command(
        "device-swap",
        "Put something else behind a device, or other properties or code; returns when it serves.",
        (
            ID,
            Argument("uri", "str", "the new backend", optional=True),
            Argument("device", "str", "the device's code: a name, or FILE.py:CLASS", optional=True),
            Argument("properties", "any", "an object: properties to change", optional=True),
        ),
        (Member("pause-ms", "number", "how long the guest's requests waited"), Member("epoch", "int")),
        verb="swap",
    ),
    Command(
        "block-mirror",
        "Begin to copy a disk to another place while the guest uses it; BLOCK_JOB_READY says that both are equal.",
        (
            DEVICE,
            Argument("target", "str", "the copy, a URI: an image that is there and as large"),
            Argument("speed", "int", "copy at most so many bytes a second", optional=True),
            Argument("pivot", "bool", "use the copy as soon as both are equal (default true)", optional=True),
        ),
        verb="mirror",
    ),
    Command(
        "block-commit",
        "Begin to write an overlay to what it stands on while the guest uses it; as block-mirror with that as target.",
        (
            DEVICE,
            Argument("speed", "int", "copy at most so many bytes a second", optional=True),
            Argument("pivot", "bool", "use what is below as soon as both are equal (default true)", optional=True),
        ),
        verb="commit",
    ),
    Command(
        "query-jobs",
        "The same as query-block-jobs, as QEMU tells all its jobs.",
        (),
        (
            Member("id", "str", "the disk"),
            Member("type", "str", "mirror or commit"),
            Member("status", "str"),
            Member("current-progress", "int", "bytes that are equal"),
            Member("total-progress", "int", "bytes of the disk"),
            Member("error", "str", optional=True),
        ),
        many=True,
    ),
    Command(
        "query-block-jobs",
        "The disks that are being copied, or were last.",
        (),
        (
            Member("device", "str"),
            Member("type", "str", "mirror or commit"),
            Member("status", "str", "copying, equal, pivoting, done, cancelled, failed, …"),
            Member("len", "int", "bytes of the disk"),
            Member("offset", "int", "bytes that are equal"),
            Member("speed", "int"),
            Member("error", "str"),
        ),
        many=True,
    ),
    Command("block-job-cancel", "End a copy that is under way; the disk stays what it was.", (DEVICE,)),
    Command("block-job-complete", "Use the copy, or what is below, as soon as both are equal.", (DEVICE,)),
    Command(
        "block-job-set-speed",
        "Another limit for a copy that is under way.",
        (DEVICE, Argument("speed", "int", "bytes a second")),
    ),
    Command(
        "device-break",
        "Stop, fail, delay, drop or change requests of a device from now on (docs/break.md).",
        (
            ID,
            Argument("match", "str", "a filter: op == WRITE and sector < 2048; default all", optional=True),
            Argument("at", "str", "pop (default) or complete", optional=True),
            Argument("action", "str", "hold (default), fail, drop, delay=200ms, set=BYTES@OFFSET", optional=True),
            Argument("skip", "int", optional=True),
            Argument("every", "int", optional=True),
            Argument("count", "int", optional=True),
            Argument("probability", "number", optional=True),
            Argument("seed", "int", optional=True),
        ),
        (Member("rule", "int", "its number"), Member("text", "str", "for people")),
        verb="break",
    ),
    Command(
        "device-break-clear",
        "Forget rules; what they hold goes on.",
        (
            Argument("id", "str", "the device; default all", optional=True),
            Argument("rule", "int", "only this one", optional=True),
        ),
        (Member("removed", "int", "how many there were"),),
        verb="break",
    ),
    Command(
        "query-breaks",
        "The rules, and how often each has matched and acted.",
        (),
        (
            Member("id", "str", "the device"),
            Member("rule", "int"),
            Member("text", "str", "for people"),
            Member("matched", "int"),
            Member("acted", "int"),
            Member("in-force", "bool"),
        ),
        many=True,
        verb="break",
    ),
    Command("query-held", "The requests that rules hold.", (Argument("id", "str", "the device", optional=True),),
            HELD, many=True, verb="held"),
    Command("device-step", "Let one held request go on: the oldest, or this one.", (ID, ONE), KEYS, verb="step"),
    Command("device-go", "Let held requests go on.", (ID, SOME), KEYS, verb="go"),
    Command("device-drop", "Answer held requests as done, without doing them.", (ID, SOME), KEYS, verb="drop"),
    Command("device-fail", "Answer held requests with the device's I/O error.", (ID, SOME), KEYS, verb="fail"),
    Command(
        "device-change",
        "Change bytes of held requests, and let them go on.",
        (ID, Argument("request", "str", "its number, QUEUE:NUMBER, or all"), Argument("change", "str", "BYTES@OFFSET")),
        KEYS,
        verb="change",
    ),
    Command(
        "query-queues",
        "A device's rings, the requests in them, and what is wrong with them, as `bulkhead queue --json` shows them.",
        (ID,),
        "any",
        verb="queue",
    ),
    Command("qom-list", "The properties and children of an object.", (PATH,),
            (Member("name", "str"), Member("type", "str")), many=True),
    Command("qom-get", "The value of a property.", (PATH, Argument("property", "str")), "any"),
    Command(
        "qom-set",
        "Change a property; of a device or its backend that is a swap.",
        (PATH, Argument("property", "str"), Argument("value", "any")),
    ),
    Command(
        "human-monitor-command",
        "A command of the monitor, as text.",
        (Argument("command-line", "str"), Argument("cpu-index", "int", "hart of `info registers`", optional=True)),
        "str",
    ),
)  # fmt: skip

WHO = Member("id", "str", "the device")
PID = Member("pid", "int")
JOB = (WHO, Member("type", "str", "mirror or commit"), Member("target", "str", "the URI of the copy"))

EVENTS = (
    Event("STOP", "GUEST_PAUSED", "The guest stands still."),
    Event("RESUME", "GUEST_RESUMED", "The guest goes on."),
    Event("RESET", "GUEST_RESET", "The guest starts again."),
    Event("SHUTDOWN", "ENDING", "The machine ends.", (Member("reason", "str"),)),
    Event("DEVICE_STARTED", "DEVICE_STARTED", "A device serves, for the first time.", (WHO, PID)),
    Event("DEVICE_DIED", "DEVICE_DIED", "A device's process is dead.", (WHO, Member("what", "str", "how it ended"))),
    Event("DEVICE_RESTARTED", "DEVICE_RESTARTED", "Its successor serves.", (WHO, PID, Member("ms", "number"))),
    Event("DEVICE_HUNG", "DEVICE_HUNG", "A device makes no progress and will be killed.", (WHO,)),
    Event("DEVICE_STUCK", "DEVICE_STUCK", "A device's process cannot be killed.", (WHO,)),
    Event("DEVICE_QUARANTINED", "DEVICE_QUARANTINED", "It died too often: its requests get I/O errors.", (WHO,)),
    Event("DEVICE_SWAPPED", "DEVICE_SWAPPED", "Something else is behind a device.", (WHO,)),
    Event("REQUEST_POISONED", "REQUEST_POISONED", "One request killed its device again and again.", (WHO,)),
    Event("MIRROR_PROGRESS", "MIRROR_PROGRESS", "A disk is being copied.", (WHO,)),
    Event("BLOCK_JOB_READY", "MIRROR_READY", "A copy of a disk is complete, or an overlay is in what is below.", JOB),
    Event("BLOCK_JOB_COMPLETED", "MIRROR_ENDED", "A copy or commit has ended: without an error, it is used.",
          (*JOB, Member("error", "str", optional=True))),
    Event("BLOCK_JOB_CANCELLED", "MIRROR_CANCELLED", "A copy or commit was cancelled; the disk is what it was.", JOB),
)  # fmt: skip

TYPES = {
    "str": (str,),
    "int": (int,),
    "number": (int, float),
    "bool": (bool,),
    "any": (object,),
}


def find_command(name: str) -> Command:
    """The command of that name. Raises ConfigError that suggests the right one."""
    for command in COMMANDS:
        if command.name == name:
            return command
    raise ConfigError(f"no command {name}{did_you_mean(name, [command.name for command in COMMANDS])}")


def check_arguments(command: Command, given: dict[str, object]) -> None:
    """Every argument is there that must be, has its type, and no other is. Raises ConfigError that names it."""
    known = {argument.name: argument for argument in command.arguments}
    for name, value in given.items():
        if name not in known:
            raise ConfigError(f"{command.name} has no argument {name}{did_you_mean(name, known)}")
        if not _fits(value, known[name].type):
            raise ConfigError(f"{command.name}: {name} must be of type {known[name].type}")
    for argument in command.arguments:
        if not argument.optional and argument.name not in given:
            raise ConfigError(f"{command.name} needs {argument.name}")


def _fits(value: object, type: str) -> bool:
    if type.startswith("["):
        return isinstance(value, list) and all(_fits(item, type[1:-1]) for item in value)
    if isinstance(value, bool) and type in ("int", "number"):
        return False
    return isinstance(value, TYPES[type])
