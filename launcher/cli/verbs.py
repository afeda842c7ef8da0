"""The verbs of `bulkhead`, one table: the command line, its help, completion and the documentation are made of it.

A row names the function that adds the verb's arguments and the one that does it; their module is imported only when the
verb is used.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from launcher.machine.options import GROUPS, RUN_OPTIONS

__all__ = ["VERBS", "Verb", "find_verb"]


@dataclass(frozen=True)
class Verb:
    """One verb. `arguments` and `action` are MODULE:FUNCTION, below this package."""

    name: str
    summary: str  # one line, for `bulkhead --help`
    usage: str
    action: str
    arguments: str = ""
    details: str = ""  # for the verb's own help
    examples: tuple[tuple[str, str], ...] = ()
    takes_command: bool = False  # `-- COMMAND` may follow
    sweeps: bool = True  # removes what dead machines left before it begins

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's own arguments."""
        if self.arguments:
            _load(self.arguments)(parser)

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it. Returns the exit code."""
        code: int = _load(self.action)(arguments)
        return code


def _load(where: str) -> Callable[..., Any]:
    module, name = where.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(f"launcher.{module}"), name)
    return loaded


RUN_DETAILS = """\
Starts a RISC-V machine whose devices are processes of their own. Without --kernel, --boot or firmware it
starts the Debian guest, if `bulkhead images` has fetched it, else the bundled one. In the console Ctrl-A x
quits and Ctrl-A h shows help. With COMMAND it boots Debian, runs COMMAND there, prints its output alone and
exits with its status; standard input is COMMAND's (text: a pipe's end arrives as Ctrl-D).

The Debian guest's root disk is a private copy that is gone afterwards: every run starts from the same
system. What shall stay goes to a --disk, or keep the whole root with --root FILE."""

VERBS = (
    Verb(
        "run",
        "start a machine and be its console; or run COMMAND in Linux",
        "bulkhead run [options] [-- COMMAND [ARGUMENT…]]",
        "run.command:run",
        "cli.verbs:run_arguments",
        RUN_DETAILS,
        (
            ("bulkhead run", "a console"),
            ("bulkhead run -- uname -a", "one command in Linux"),
            ("bulkhead run --disk data.img -m 512M --smp 2", "a disk of your own, as vdb"),
            ("bulkhead run --kernel Image --append 'console=ttyS0 root=/dev/vda' --disk root.ext4", "your own Linux"),
            ("bulkhead run --bios none --kernel program.elf", "a bare-metal program"),
            ("bulkhead run --device ./mydev.py:MyDevice,key=value", "a device of your own"),
        ),
        takes_command=True,
    ),
    Verb(
        "demo",
        "show it working: Linux from a disk that lives in another process",
        "bulkhead demo [--guest debian|bundled]",
        "run.demo:run",
        "run.demo:add_arguments",
        "Boots twice, writes and verifies 64 MiB; meanwhile the disk's process is killed five times and its image\n"
        "changes its format. Leaves nothing behind.",
    ),
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
    ),
    Verb(
        "logs",
        "show what the processes of a machine have logged",
        "bulkhead logs [ID] [-f] [--machine NAME]",
        "inspect.logs:run",
        "inspect.logs:add_arguments",
        "ID is a process (core, blk0, …) or keeper. Logs live as long as the machine.",
        (("bulkhead logs blk0 -f", "follow one process"),),
    ),
    Verb(
        "attach",
        "be the console of a machine that was started with --detach",
        "bulkhead attach [--machine NAME] | attach ID [-- COMMAND]",
        "console.attach:run",
        "console.attach:add_arguments",
        "Shows what the guest said meanwhile, then is its console. Ctrl-A d, the terminal's end or a signal leave the\n"
        "machine running; Ctrl-A x ends it. As often as you like, one console at a time.",
        (
            ("bulkhead run --detach --name web", "start one"),
            ("bulkhead attach --machine web", "its console"),
            ("bulkhead attach blk0 -- python -m pdb", "a device under a debugger: the same as `bulkhead debug`"),
        ),
        takes_command=True,
        sweeps=False,
    ),
    Verb(
        "stop",
        "end a machine",
        "bulkhead stop [--machine NAME]",
        "orders.lifecycle:stop",
        "orders.lifecycle:stop_arguments",
        "Like pulling the plug: the guest is not asked. Returns when everything of the machine is gone.",
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
    ),
    Verb(
        "pause",
        "have the guest stand still",
        "bulkhead pause [--machine NAME]",
        "orders.lifecycle:pause",
        "orders.lifecycle:machine_argument",
        "The guest's harts run nothing and its time does not pass; devices and their sessions go on.",
    ),
    Verb(
        "cont",
        "have a paused guest go on",
        "bulkhead cont [--machine NAME]",
        "orders.lifecycle:cont",
        "orders.lifecycle:machine_argument",
        "Also starts devices that wait because of on-crash=pause.",
    ),
    Verb(
        "restart",
        "replace a device's process by a new one; the guest sees a pause",
        "bulkhead restart ID [--machine NAME]",
        "orders.lifecycle:restart",
        "orders.lifecycle:restart_arguments",
        "Requests in flight are finished by the new process. Use it after editing a device of your own.",
        (("bulkhead restart mydev0", "load the edited device"),),
    ),
    Verb(
        "swap",
        "change what is behind a device, or its code, while the guest runs",
        "bulkhead swap ID URI|NAME=VALUE… [--machine NAME] [--json]",
        "orders.swap:run",
        "orders.swap:add_arguments",
        "A disk takes a URI, a network what --net takes, a shared folder a directory, every device PATH.py:Class\n"
        "and properties. The old process serves until the new one is ready; if that does not come up, or does not\n"
        "fit what the guest knows, the old one goes on. A disk that grows is announced to the guest.",
        (
            ("bulkhead swap blk0 qcow2:disk.qcow2", "another image"),
            ("bulkhead swap net0 tap:tap0", "another network"),
            ("bulkhead swap mydev0 ./new.py:MyDevice", "changed code, with the device's state"),
            ("bulkhead swap mydev0 depth=32", "a property"),
        ),
    ),
    Verb(
        "trace",
        "tell what driver and devices say to each other, as it happens",
        "bulkhead trace [ID…] [--filter TEXT] [--summary] [--json] [--connect URI | --listen URI]",
        "trace.cli:run",
        "trace.cli:add_arguments",
        "Every process writes down what it does, always; this shows it, and slows nobody: who is too slow to read it\n"
        "is told what he missed. Ctrl-C ends it. Fields of filters and of JSON: docs/trace.md.",
        (
            ("bulkhead trace blk0 --filter 'latency > 1ms'", "slow requests of a disk"),
            ("bulkhead trace --summary --for 10", "latencies of ten seconds, by operation"),
            ("bulkhead trace core --all --last 100", "the last of everything, now"),
            (
                "bulkhead trace --listen tcp://*:4711 --keys keys",
                "let others look; keys by `bulkhead keys create keys`",
            ),
            ("bulkhead trace --connect tcp://host:4711 --keys keys", "look from there"),
        ),
    ),
    Verb(
        "record",
        "write what driver and devices say, with payload, to a file",
        "bulkhead record ID… -o FILE [--for S] [--until TEXT | --around TEXT [--seconds N]] [--block] [--json]",
        "record.cli:run",
        "record.cli:add_arguments",
        "Until Ctrl-C, the machine's end, or what --for and --until say; goes on while devices die and are swapped.\n"
        "Slows nobody: what is too much is counted as lost. Filters are those of `bulkhead trace`: docs/recording.md.",
        (
            ("bulkhead record blk0 net0 -o boot.rec", "until Ctrl-C"),
            ("bulkhead record blk0 -o r --around 'status == IOERR'", "the ten seconds around the next error"),
            ("bulkhead record blk0 -o r --until 'latency > 1s' --for 60", "up to the first slow request"),
        ),
    ),
    Verb(
        "break",
        "stop, fail, delay, drop or change requests of a device",
        "bulkhead break ID [FILTER] [--action ACTION] [--before complete] [--list] [--clear] [--file FILE]",
        "orders.breaking:rule",
        "orders.breaking:break_arguments",
        "A rule takes requests that match FILTER (all if there is none) when the device has taken them, or before the\n"
        "driver gets them back. Rules outlive a device's process. The rest is in docs/break.md.",
        (
            ("bulkhead break blk0 'op == WRITE and sector < 2048'", "hold them; see `bulkhead held`"),
            ("bulkhead break blk0 'op == FLUSH' --action fail --skip 2 --count 1", "the third flush fails"),
            ("bulkhead break blk0 'sector >= 2048' --action delay=200ms", "a slow place"),
            ("bulkhead break net0 'op == SEND' --action drop --every 10", "lose every tenth frame"),
            ("bulkhead break --list", "rules, and how often each has acted"),
            ("bulkhead break blk0 --clear", ""),
        ),
    ),
    Verb(
        "held",
        "show the requests that rules hold",
        "bulkhead held [ID] [--json]",
        "orders.breaking:held",
        "orders.breaking:held_arguments",
        "`bulkhead queue ID` shows them among the others.",
    ),
    Verb(
        "step",
        "let one held request go on",
        "bulkhead step ID [N]",
        "orders.breaking:step",
        "orders.breaking:step_arguments",
        "The oldest, or the one of that number. The next rule may hold it again: at its completion, for example.",
    ),
    Verb(
        "go",
        "let held requests go on",
        "bulkhead go ID [N|all]",
        "orders.breaking:go",
        "orders.breaking:go_arguments",
    ),
    Verb(
        "drop",
        "answer held requests as done, without doing them",
        "bulkhead drop ID [N|all]",
        "orders.breaking:drop",
        "orders.breaking:go_arguments",
        "A disk says OK and has written nothing; a network card loses the frame.",
    ),
    Verb(
        "fail",
        "answer held requests with an I/O error",
        "bulkhead fail ID [N|all]",
        "orders.breaking:fail",
        "orders.breaking:go_arguments",
    ),
    Verb(
        "change",
        "change bytes of a held request, and let it go on",
        "bulkhead change ID N BYTES@OFFSET",
        "orders.breaking:change",
        "orders.breaking:change_arguments",
        "After pop these are bytes that the device reads (a copy: the guest's memory stays as it is), before complete\n"
        "bytes that the driver reads.",
        (("bulkhead change blk0 4711 00080000@8", "a disk request's sector is bytes 8 to 15 of its header"),),
    ),
    Verb(
        "queue",
        "show a device's rings and requests, and what is wrong with them",
        "bulkhead queue ID [--descriptors] [--json]",
        "inspect.queue:run",
        "inspect.queue:add_arguments",
        "Read from shared memory: it works while the device is dead, hung, held or in quarantine.",
        (("bulkhead queue blk0 --descriptors", "with the buffers of each request"),),
    ),
    Verb(
        "replay",
        "feed a recording to a device without a guest; compare answers",
        "bulkhead replay FILE [SPEC] [--device ID] [--request N] [--speed real|max] [--pdb] [--json]",
        "replay.cli:run",
        "replay.cli:add_arguments",
        "FILE is a recording or a crash bundle. Without SPEC a disk gets an image as the recording shows that it was,\n"
        "and a network card a cable: nothing of yours is touched. SPEC is what --disk takes, a directory, or\n"
        "PATH.py:Class. Exit code 0: the same answers; 1: others, or the device died.",
        (
            ("bulkhead replay boot.rec --device blk0", "the disk of a recording"),
            ("bulkhead replay boot.rec ./mydev.py:MyDevice --request 17 --pdb", "one request under pdb"),
            ("bulkhead replay ~/.local/state/bulkhead/crashes/vm1/20261121-120107.332-blk0", "what killed a device"),
        ),
        sweeps=False,
    ),
    Verb(
        "export",
        "turn a recording into a file for Perfetto, Wireshark, programs",
        "bulkhead export FILE --to perfetto|pcapng|json [-o OUT] [--no-payload]",
        "record.export:run",
        "record.export:add_arguments",
        "pcapng has the frames of network cards, json a line for each request and message. For perfetto FILE may also\n"
        "be what `bulkhead trace --json` wrote. Open it at https://ui.perfetto.dev, which keeps it in the browser.",
        (
            ("bulkhead export boot.rec --to perfetto -o boot.json", ""),
            ("bulkhead export boot.rec --to pcapng -o boot.pcapng", "wireshark boot.pcapng"),
            ("bulkhead export boot.rec --to json --no-payload", ""),
        ),
        sweeps=False,
    ),
    Verb(
        "debug",
        "run a device's process under a debugger in this terminal",
        "bulkhead debug ID [-- COMMAND]",
        "orders.debug:run",
        "orders.debug:add_arguments",
        "Its successor is started by COMMAND (default: python -m pdb), which gets the device's process as its last\n"
        "words; the guest waits while it stands still. When COMMAND ends, the device is supervised as before.",
        (
            ("bulkhead debug blk0", "pdb, at the first line; `c` goes on, Ctrl-C stops it again"),
            ("bulkhead debug blk0 -- python -m pdb -c 'b devproc/blk/device.py:180' -c c", "up to a line"),
            ("bulkhead debug net0 -- gdb --args", "machine code"),
        ),
        takes_command=True,
    ),
    Verb(
        "keys",
        "make the keys with which a machine may be looked at from elsewhere",
        "bulkhead keys create DIR",
        "trace.keys:run",
        "trace.keys:add_arguments",
        "server.secret stays on the machine's host; give viewer.secret and server.public to who may look, and\n"
        "control.secret and server.public to who may also give orders.",
        (("bulkhead keys create keys", "six files in keys/, of which the secrets are yours alone"),),
        sweeps=False,
    ),
    Verb(
        "mirror",
        "copy a disk elsewhere while the guest uses it, then use the copy",
        "bulkhead mirror ID [URI] [--rate SIZE] [--no-pivot] [--cancel] [--machine NAME] [--json]",
        "orders.mirror:run",
        "orders.mirror:add_arguments",
        "A missing image is made, as large as the disk. Ctrl-C cancels: the guest stays on its old disk. If this\n"
        "command is killed the mirror goes on, and the same command again joins it; so does ID alone.",
        (
            ("bulkhead mirror blk0 qcow2:new.qcow2", "change place and format"),
            ("bulkhead mirror blk0 backup.img --no-pivot", "both stay equal until it is cancelled"),
            ("bulkhead mirror blk0 --cancel", ""),
        ),
    ),
    Verb(
        "chaos",
        "faults at random under a working guest: nothing may get lost",
        "bulkhead chaos [--seed N] [--minutes M | --kills N --swaps N] [--only WORDS] [--guest NAME] [--report FILE]",
        "chaos.cli:run",
        "chaos.cli:add_arguments",
        "Starts machines of its own. Faults: signals, hangs, exceptions, a death at each step of the ring's code,\n"
        "restarts, swaps, mirrors. Work: disks that are verified, ext4, SQLite, git on shares, TCP. The same seed\n"
        "gives the same faults. Exit code 0 only if nothing was lost, doubled or corrupted.",
        (
            ("bulkhead chaos --minutes 10", ""),
            ("bulkhead chaos --seed 7 --only disk,kill,step --guest bundled", "the disk of the bundled guest alone"),
            ("bulkhead chaos --kills 1000 --swaps 200 --report chaos.md", "until there were as many"),
        ),
    ),
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
    ),
    Verb(
        "images",
        "fetch, check or remove the Debian guest",
        "bulkhead images [--update | --verify | --clean] [--json]",
        "images.cli:run",
        "images.cli:add_arguments",
        "Uses the host's own apt with private lists; signatures are checked; nothing on the host changes.",
    ),
    Verb(
        "serve",
        "serve a disk, a folder or a device to a machine on another host",
        "bulkhead serve URI | --share DIR,tag=TAG | --device X  --keys DIR [--listen tcp://HOST:PORT]",
        "serve:run",
        "serve:add_arguments",
        "The other host has control.secret and server.public of the keys. It gets the bytes of requests, never\n"
        "anything of this host but the device, one machine at a time (docs/relay.md).",
        (
            ("bulkhead keys create keys", "once"),
            ("bulkhead serve disk.img --keys keys", "a disk, at port 5757"),
            ("bulkhead run --disk remote:keys=keys://server:5757", "on the other host"),
        ),
        sweeps=False,
    ),
    Verb(
        "disk",
        "make, copy, look at, check, split, commit and resize disk images",
        "bulkhead disk ACTION [WORD…] [options]",
        "disks.cli:run",
        "disks.cli:add_arguments",
        "A disk is a path or a URI (docs/disks.md); nothing that exists is overwritten. `check` exits with 2 for\n"
        "errors and 3 for leaked clusters, as qemu-img does.",
        (
            ("bulkhead disk create data.img 1G", "an empty raw image"),
            ("bulkhead disk create qcow2:today.qcow2 --backing base.img", "what is written goes to today.qcow2"),
            ("bulkhead disk convert disk.qcow2 disk.img", "to raw"),
            ("bulkhead disk check disk.qcow2 --repair", ""),
            ("bulkhead disk commit snapshot:overlay=o:disk.img", "keep what a snapshot holds"),
            ("bulkhead disk split disk.img public/disk", "for a web server: http://…/disk/blk.txt"),
        ),
        sweeps=False,
    ),
    Verb(
        "doctor",
        "say what this host lacks, and what to do",
        "bulkhead doctor [--json]",
        "cli.doctor:run",
        "cli.doctor:add_arguments",
        sweeps=False,
    ),
    Verb(
        "completion",
        "print a completion script for the shell",
        "bulkhead completion bash|zsh|fish",
        "cli.completion:run",
        "cli.completion:add_arguments",
        examples=(
            ('eval "$(bulkhead completion bash)"', "in ~/.bashrc"),
            ("bulkhead completion zsh > ~/.zfunc/_bulkhead", "where fpath has ~/.zfunc"),
            ("bulkhead completion fish > ~/.config/fish/completions/bulkhead.fish", ""),
        ),
        sweeps=False,
    ),
    Verb("version", "print the version", "bulkhead version", "cli.main:print_version", sweeps=False),
)


def find_verb(name: str) -> Verb | None:
    """The verb of that name."""
    return next((verb for verb in VERBS if verb.name == name), None)


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`, from their table."""
    groups = {key: parser.add_argument_group(title) for key, title in GROUPS.items()}
    for option in RUN_OPTIONS:
        names = [option.short, option.long] if option.short else [option.long]
        destination = option.name.replace("-", "_")
        if option.kind == "flag":
            groups[option.group].add_argument(*names, dest=destination, action="store_true", help=option.help)
        else:
            action = "append" if option.kind == "list" else "store"
            groups[option.group].add_argument(
                *names, dest=destination, action=action, metavar=option.metavar, help=option.help.replace("%", "%%")
            )
