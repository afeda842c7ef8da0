"""Control by QMP, for programs and people: the verbs."""

from launcher.cli.verb import Verb

__all__ = ["VERBS"]

VERBS = (
    Verb(
        "qmp",
        "control a machine by QMP, QEMU's machine protocol",
        "bulkhead qmp [COMMAND [NAME=VALUE…] | --stdio] [--machine NAME]",
        "qmp.cli:qmp",
        "qmp.cli:qmp_arguments",
        "Every machine serves QMP at `qmp` in its run directory, as `bulkhead ps` shows; docs/qmp.md has the commands.",
        (
            ("bulkhead qmp query-status", ""),
            ("bulkhead qmp qom-list path=/machine/devices", "the tree of machine, devices and backends"),
            ("bulkhead qmp device-swap id=blk0 uri=qcow2:other.qcow2", ""),
        ),
        sweeps=False,
        group="remote",
    ),
    Verb(
        "monitor",
        "look into a machine: registers, memory, the tree of devices",
        "bulkhead monitor [WORD…] [--machine NAME]",
        "qmp.cli:monitor",
        "qmp.cli:monitor_arguments",
        "The prompt that Ctrl-A c gives at the console. Every QMP command can be typed, too. Ctrl-D leaves.",
        (
            ("bulkhead monitor info registers", "of hart 0"),
            ("bulkhead monitor xp/4xw 0x80200000", "guest memory by physical address"),
        ),
        sweeps=False,
        group="look",
    ),
)
