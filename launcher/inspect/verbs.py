"""Looking at machines: the verbs."""

from launcher.cli.verb import Verb

__all__ = ["VERBS"]

VERBS = (
    Verb(
        "ps",
        "show the processes of running machines",
        "bulkhead ps [--machine NAME] [--watch | --sandbox] [--json]",
        "inspect.ps:run",
        "inspect.ps:add_arguments",
        "MEM is what the process has for itself; guest memory counts where it is used alone: in the core.",
        (
            ("bulkhead ps --watch", "a live table"),
            ("bulkhead ps --sandbox", "what each process has given up"),
            ("bulkhead ps --json", "for programs"),
        ),
        group="look",
    ),
    Verb(
        "logs",
        "show what the processes of a machine have logged",
        "bulkhead logs [ID] [-f] [--machine NAME]",
        "inspect.logs:run",
        "inspect.logs:add_arguments",
        "ID is a process (core, blk0, …) or keeper. Logs live as long as the machine.",
        (("bulkhead logs blk0 -f", "follow one process"),),
        group="look",
        completes="processes",
    ),
    Verb(
        "crashes",
        "list, show or remove what crashes of devices have left",
        "bulkhead crashes [ID] [--machine NAME] [--json] [--clean]",
        "inspect.crashes:run",
        "inspect.crashes:add_arguments",
        "Each crash leaves a bundle: what died and how, what it had in flight, its log, its last trace records.\n"
        "ID is a bundle's name or the end of one, or `last`. They are in $XDG_STATE_HOME/bulkhead/crashes.",
        (("bulkhead crashes", "a table"), ("bulkhead crashes last", "the latest one, in full")),
        sweeps=False,
        group="look",
    ),
    Verb(
        "queue",
        "show a device's rings and requests, and what is wrong with them",
        "bulkhead queue ID [--descriptors] [--json]",
        "inspect.queue:run",
        "inspect.queue:add_arguments",
        "Read from shared memory: it works while the device is dead, hung, held or in quarantine.",
        (("bulkhead queue blk0 --descriptors", "with the buffers of each request"),),
        group="look",
        completes="processes",
    ),
)
