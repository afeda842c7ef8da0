"""The options of `bulkhead run`, one table: the command line, TOML files, completion and documentation are made of it.

Names are QEMU's where QEMU has one. In a TOML file the same names are keys. A value that was given keeps where it came
from (`Given`), so that an error can say so and a relative path is taken from the right directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["RUN_OPTIONS", "Given", "Option", "Options"]


@dataclass(frozen=True)
class Option:
    """One option. `kind` is text, number, flag or list (may be given more than once)."""

    name: str
    kind: str
    metavar: str
    help: str
    short: str = ""
    choices: tuple[str, ...] = ()
    in_file: bool = True  # may stand in a TOML file
    complete: str = ""  # what the shell completes with: "file", "device", "machine"
    group: str = "machine"

    @property
    def long(self) -> str:
        """The option as typed."""
        return f"--{self.name}"


@dataclass(frozen=True)
class Given:
    """A value as it was given: the text (or typed TOML value), where, and the directory its paths are relative to."""

    value: Any
    source: str  # "--disk", or "vm.toml: disk"
    base: Path


Options = dict[str, list[Given]]  # by option name; what was given last counts, unless the option is a list

GROUPS = {
    "machine": "machine",
    "boot": "what it starts",
    "devices": "devices",
    "console": "console",
    "run": "running",
}

RUN_OPTIONS = (
    Option("memory", "text", "SIZE", "guest memory: 256M, 1G, or a number of MiB (default 256M)", "-m"),
    Option("smp", "number", "N", "harts, 1 to 8 (default 1)"),
    Option(
        "guest",
        "text",
        "WHICH",
        "the guest when no --kernel is given: debian (fetched once by `bulkhead images`), or bundled; "
        "default: debian if its images are there",
        choices=("debian", "bundled"),
        group="boot",
    ),
    Option("kernel", "text", "FILE", "start this: a Linux Image, an ELF or a flat file", complete="file", group="boot"),
    Option("initrd", "text", "FILE", "initial RAM disk for the kernel", complete="file", group="boot"),
    Option(
        "append",
        "text",
        "TEXT",
        "the kernel's command line; with the Debian guest, added to its own",
        group="boot",
    ),
    Option(
        "bios",
        "text",
        "WHICH",
        "firmware: default (the built-in SBI), none (the kernel starts in M-mode), opensbi (Debian's), or a FILE",
        complete="file",
        group="boot",
    ),
    Option("boot", "text", "disk", "start sector 0 of the first disk", choices=("disk",), group="boot"),
    Option(
        "root",
        "text",
        "FILE",
        "keep the Debian guest's root disk in FILE (made if missing); default: a private copy, gone afterwards",
        complete="file",
        group="boot",
    ),
    Option(
        "disk",
        "list",
        "URI[,ro][,id=NAME]",
        "a disk: a raw image, or qcow2:FILE, snapshot:FILE, http://…, nbd://… and filters before them (docs/disks.md); "
        "ro: read-only; repeatable; the first is vda (with the Debian guest vdb, after the root)",
        complete="file",
        group="devices",
    ),
    Option(
        "net",
        "list",
        "URI[,KEY=VALUE…]",
        "a network card: user (no rights needed; hostfwd=tcp:PORT-GUESTPORT lets the host in), tap:NAME, hub:PATH, "
        "stream:unix:PATH or stream:tcp:HOST:PORT (,server); mac=, mtu=, pairs=, pcap=FILE, and for the Debian guest "
        "ip=dhcp|none|ADDRESS/BITS, gateway=; repeatable",
        group="devices",
    ),
    Option(
        "share",
        "list",
        "DIR,tag=TAG[,KEY=VALUE…]",
        "a directory of the host for the guest, in the Debian guest mounted at /mnt/TAG; proto=9p|virtiofs|v86fs: how "
        "(default 9p); ro: read-only; repeatable",
        complete="file",
        group="devices",
    ),
    Option(
        "console",
        "list",
        "PORT[,name=NAME][,size=COLUMNSxROWS]",
        "a port of a virtio console: stdio (with --serial elsewhere), pty, socket:PATH or file:PATH[,input=FILE]; the "
        "first is hvc0, the others are /dev/vport0p1, …; id=NAME names the device; repeatable",
        group="devices",
    ),
    Option(
        "device",
        "list",
        "X[,KEY=VALUE…]",
        "another device: a name, or ./FILE.py:CLASS; id=NAME names it; `X,help` lists its properties, "
        "`help` the devices; repeatable",
        complete="device",
        group="devices",
    ),
    Option(
        "link",
        "text",
        "HOW",
        "how core and devices wake each other: words (shared memory, and a pipe to wake), or messages (always)",
        choices=("words", "messages"),
        group="devices",
    ),
    Option(
        "serial",
        "text",
        "WHERE",
        "the serial line: stdio, pty, socket:PATH, file:PATH or none (default stdio; socket with --detach)",
        group="console",
    ),
    Option(
        "gdb", "text", "PORT", "let gdb attach to this port on loopback (or HOST:PORT, or a socket's path)", group="run"
    ),
    Option(
        "qmp", "text", "PORT", "serve QMP there, too: a port on loopback, HOST:PORT, or a socket's path", group="run"
    ),
    Option(
        "metrics",
        "text",
        "PORT",
        "serve figures to Prometheus there, likewise: http://localhost:PORT/metrics",
        group="run",
    ),
    Option(
        "faults",
        "text",
        "FILE",
        "rules that fail, delay, drop, change or hold requests of devices (docs/break.md)",
        complete="file",
        group="run",
    ),
    Option("gdb-wait", "flag", "", "with --gdb: run nothing until gdb says so", group="run"),
    Option("name", "text", "NAME", "the machine's name, for other commands (default vm1, vm2, …)", group="run"),
    Option(
        "sandbox",
        "text",
        "MODE",
        "what processes give up: on (what this host can give), require (all, or no start), or off",
        choices=("on", "require", "off"),
        group="run",
    ),
    Option("detach", "flag", "", "leave the machine running and return; `bulkhead stop` ends it", group="run"),
    Option("no-reboot", "flag", "", "end when the guest resets, instead of starting again", group="run"),
    Option(
        "config",
        "text",
        "FILE",
        "read options from a TOML file; those given here count more",
        in_file=False,
        complete="file",
        group="run",
    ),
    Option("dry-run", "flag", "", "print the processes it would start, and start none", in_file=False, group="run"),
    Option("print-map", "flag", "", "print the memory map as a tree, and start nothing", in_file=False, group="run"),
    Option(
        "verbose", "flag", "", "print configuration, memory map and devices first", "-v", in_file=False, group="run"
    ),
)
