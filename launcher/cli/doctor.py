"""`bulkhead doctor`: what this host lacks, and what to do about it.

A check is a function that returns what it found, or raises ConfigError with a hint. Those marked essential must hold
for any machine to start; the others cost a feature.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata

from launcher.cli import show
from launcher.cli.exitcodes import ExitCode
from launcher.inspect.sandbox import found_on_this_host
from launcher.machine.bundled import bundled_guest
from launcher.run.rundir import machines, run_base, scratch_base, sweep
from proto.errors import BulkheadError, ConfigError

__all__ = ["CHECKS", "add_arguments", "run"]

MIB = 1 << 20
COMFORTABLE = 256 * MIB  # of shared memory: one machine of the default size
CACHE_SPACE = 600 * MIB
OLDEST_KERNEL = (5, 4)  # pidfd_open
OLDEST_PYTHON = (3, 11)
MODULES = ("zmq", "msgpack", "psutil", "llvmlite")
DISTRIBUTIONS = {"zmq": "pyzmq"}


@dataclass(frozen=True)
class Check:
    """One row."""

    name: str
    find: Callable[[], str]
    essential: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("--json", action="store_true", help="a list of {name, state, found, hint}")


def run(arguments: argparse.Namespace) -> int:
    """The verb: `bulkhead`'s error code when something essential is missing."""
    rows = [_examine(check) for check in CHECKS]
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        marks = {"ok": ("ok", "green"), "missing": ("--", "yellow"), "broken": ("!!", "red")}
        for row in rows:
            mark, colour = marks[row["state"]]
            print(f"{show.paint(mark, colour, sys.stdout)}  {row['name']:<14}{row['found']}")
            if row["hint"]:
                print(f"    {'':<14}{row['hint']}")
    return ExitCode.ERROR if any(row["state"] == "broken" for row in rows) else ExitCode.OK


def _examine(check: Check) -> dict[str, str]:
    try:
        return {"name": check.name, "state": "ok", "found": check.find(), "hint": ""}
    except BulkheadError as error:
        state = "broken" if check.essential else "missing"
        return {"name": check.name, "state": state, "found": error.message, "hint": error.hint}


def _python() -> str:
    if sys.version_info < OLDEST_PYTHON:
        raise ConfigError(f"Python {platform.python_version()} is too old", hint="Install Python 3.11 or later.")
    return f"{platform.python_version()} at {sys.executable}"


def _system() -> str:
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())
    if platform.system() != "Linux":
        raise ConfigError(f"{platform.system()} is not supported", hint="Bulkhead runs on Linux.")
    if release < OLDEST_KERNEL:
        raise ConfigError(f"Linux {platform.release()} has no pidfds", hint="Linux 5.4 or later is needed.")
    if platform.machine() not in ("x86_64", "aarch64"):
        raise ConfigError(f"no machine code can be made for {platform.machine()}", hint="Use x86-64 or aarch64.")
    return f"Linux {platform.release()} on {platform.machine()}, {os.cpu_count()} CPUs"


def _modules() -> str:
    found = []
    for module in MODULES:
        name = DISTRIBUTIONS.get(module, module)
        try:
            importlib.import_module(module)
            found.append(f"{name} {metadata.version(name)}")
        except ImportError as error:
            raise ConfigError(f"{name} is missing: {error}", hint=f"{sys.executable} -m pip install {name}") from error
    return ", ".join(found)


def _shared_memory() -> str:
    try:
        free = os.statvfs("/dev/shm")
    except OSError as error:
        raise ConfigError("/dev/shm is not there", hint="mount -t tmpfs tmpfs /dev/shm") from error
    available = free.f_bavail * free.f_frsize
    if available < COMFORTABLE:
        raise ConfigError(
            f"/dev/shm has {available // MIB} MiB left; a machine takes its memory from there",
            hint="mount -o remount,size=2G /dev/shm (in a container: --shm-size=2g), or use less: bulkhead run -m 64M",
        )
    return f"/dev/shm has {available // MIB} MiB left"


def _memory() -> str:
    with open("/proc/meminfo") as lines:
        values = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines}
    available = values["MemAvailable"]
    if available * MIB < COMFORTABLE:
        raise ConfigError(f"{available} MiB are available", hint="End something, or use less: bulkhead run -m 64M")
    return f"{available} of {values['MemTotal']} MiB available"


def _run_directory() -> str:
    sweep()
    running = machines()
    return f"{run_base()}, {len(running)} machine{'' if len(running) == 1 else 's'} running"


def _cache() -> str:
    base = scratch_base().parent
    free = os.statvfs(base)
    available = free.f_bavail * free.f_frsize
    if available < CACHE_SPACE:
        raise ConfigError(
            f"{base} has {available // MIB} MiB left; the Debian guest takes about {CACHE_SPACE // MIB}",
            hint="Make room, or set XDG_CACHE_HOME to a directory that has it.",
        )
    return f"{base}, {available // MIB} MiB left"


def _file_locks() -> str:
    limit = os.sysconf("SC_OPEN_MAX")
    if limit < 256:
        raise ConfigError(f"a process may open {limit} files", hint="ulimit -n 1024")
    return f"{limit} files a process"


def _bundled() -> str:
    return str(bundled_guest())


def _debian() -> str:
    from launcher.images import ready

    images = ready()
    if images is None:
        raise ConfigError("the Debian guest's images are not there", hint="Fetch them (about 115 MB): bulkhead images")
    return f"Debian {images.kernel_version}"


def _tools() -> str:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    wanted = {"apt-get": "a Debian or Ubuntu host", "dpkg-deb": "dpkg", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs"}
    missing = {tool: package for tool, package in wanted.items() if shutil.which(tool, path=path) is None}
    if missing:
        raise ConfigError(
            f"`bulkhead images` needs {', '.join(missing)}",
            hint=f"Install {', '.join(sorted(set(missing.values())))}; the bundled guest works without.",
        )
    return ", ".join(wanted)


CHECKS = (
    Check("python", _python),
    Check("host", _system),
    Check("packages", _modules),
    Check("shared memory", _shared_memory),
    Check("memory", _memory),
    Check("run directory", _run_directory),
    Check("cache", _cache, essential=False),
    Check("open files", _file_locks),
    Check("sandbox", found_on_this_host, essential=False),
    Check("bundled guest", _bundled, essential=False),
    Check("image tools", _tools, essential=False),
    Check("debian guest", _debian, essential=False),
)
