"""What the guests do under chaos, in rounds, and how each round is checked.

A guest is a table of devices (`targets`), the options that start it (`arguments`), and `round`: do the work of one
round, and return what was verified as {name: text}, or raise Lost; Stopped when `going` says that it is
enough. `check_images` looks at the disks from the host between rounds, with the same outcome.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from launcher.chaos.machines import Lost, Running
from launcher.chaos.plan import Target
from launcher.chaos.tools import tools_disk
from launcher.chaos.transfers import Transfers
from launcher.images import root
from launcher.images.apt import Progress
from proto.errors import ConfigError

__all__ = ["GUESTS", "Bundled", "Debian", "Guest"]

MIB = 1 << 20
BOOT = 240.0  # seconds
ROUND = 600.0  # a host under load is slow; a guest that hangs is found all the same
RESULT = re.compile(r"chaos: result (\S+) (\d+) ?(.*)")
WRONG = re.compile(r"disk \d+: |(?!fstest: \d+ steps)(fstest|mv): ")  # what the bundled guest says then
LEAKS = 3  # of qemu-img: clusters that a killed process had taken and not yet used; space, not data
FITS_DISK = frozenset({"swap", "mirror"})


class Stopped(Exception):
    """The user wants no more."""


class Debian:
    """Linux: fio with verification, ext4 and SQLite, git on two kinds of shares, TCP, entropy."""

    name = "debian"
    targets = (
        Target("blk0", "disk", frozenset({"swap"})),
        Target("blk1", "disk"),
        Target("blk2", "disk", frozenset({"step", "swap"})),
        Target("blk3", "disk", FITS_DISK),
        Target("fs0", "fs", frozenset({"swap"})),
        Target("fs1", "fs", frozenset({"swap"})),
        Target("net0", "net", frozenset({"swap", "cut"})),
        Target("rng0", "rng"),
    )

    def __init__(self, folder: Path, seed: int, progress: Progress) -> None:
        from launcher.images import ensure

        ensure(progress)
        self._folder, self._seed = folder, seed
        self._tools = tools_disk(progress)
        self._transfers = Transfers()
        for name, mebibytes in (("verify", 24), ("data", 64)):
            with open(folder / f"{name}.img", "wb") as file:
                file.truncate(mebibytes * MIB)
        mke2fs = [root.find_tool("mke2fs"), "-q", "-F", "-t", "ext4", str(folder / "data.img")]
        subprocess.run(mke2fs, check=True, capture_output=True)
        for name in ("nine", "fuse"):
            (folder / name).mkdir()

    def arguments(self) -> list[str]:
        folder, off = self._folder, "crash-limit=off"
        words = [str(self._seed % (1 << 31)), str(self._transfers.down), str(self._transfers.up)]
        begin = "mkdir -p /mnt/tools /mnt/data; mount -r /dev/vdb /mnt/tools; exec sh /mnt/tools/round.sh"
        begin = f"{begin} {' '.join(words)}"
        disks = [f"{self._tools},ro,{off}", f"{folder}/verify.img,{off}", f"{folder}/data.img,{off}"]
        shares = [f"{folder}/nine,tag=nine,{off}", f"{folder}/fuse,tag=fuse,proto=virtiofs,{off}"]
        given = [("--disk", disks), ("--share", shares), ("--net", [f"user,{off}"]), ("--device", [f"rng,{off}"])]
        return [
            *(word for name, values in given for value in values for word in (name, value)),
            "--",
            "sh",
            "-c",
            begin,
        ]

    def await_ready(self, machine: Running) -> None:
        self._until(machine, "chaos: ready", BOOT, lambda: True)

    def round(self, machine: Running, number: int, size: int, going: Callable[[], bool]) -> dict[str, str]:
        self._transfers.size = size * 4 * MIB
        cuts = machine.cuts
        machine.type(f"round {number} {size}\n")
        found: dict[str, str] = {}
        for name, status, text in self._until(machine, f"chaos: done {number}", ROUND, going):
            if status != "0":
                raise Lost(f"{self.name}, round {number}: {name}: {text.strip() or f'status {status}'}")
            found[name] = text.strip()
        for name, sums, mebibytes in (
            ("tcp-down", self._transfers.sent, size * 4),
            ("tcp-up", self._transfers.received, size),
        ):
            found[name] = self._check_transfer(f"{self.name}, round {number}: {name}", found[name], sums, mebibytes)
        broken = max(text.count("again") for text in (found["tcp-down"], found["tcp-up"]))
        if broken and machine.cuts == cuts:
            raise Lost(f"{self.name}, round {number}: a connection broke, and nobody had cut it")
        return found

    def _check_transfer(self, where: str, said: str, sums: list[str], mebibytes: int) -> str:
        """What the guest says: the sum of the transfer that was whole, and how many had been begun."""
        sum_, tries = [*said.split(), "", "0"][:2]
        if sum_ not in sums:
            raise Lost(f"{where}: the sums differ: {said} in the guest, {sums[-3:]}")
        again = f", begun again {int(tries) - 1} times" if int(tries) > 1 else ""
        return f"{mebibytes} MiB, sha256 equal{again}"

    def _until(
        self, machine: Running, end: str, timeout: float, going: Callable[[], bool]
    ) -> list[tuple[str, str, str]]:
        results: list[tuple[str, str, str]] = []
        deadline = time.monotonic() + timeout
        while (line := machine.line(0.2)) != end:
            if not going():
                raise Stopped
            if line is not None and (match := RESULT.fullmatch(line)):
                results.append((match[1], match[2], match[3]))
            elif time.monotonic() > deadline:
                done = ", ".join(name for name, _, _ in results) or "nothing"
                raise Lost(f"{self.name}: no {end!r} within {timeout:.0f} s; done: {done}", hint=machine.last_words())
        return results

    def check_images(self, backend: Callable[[str], str]) -> dict[str, str]:
        scheme, _, path = backend("blk3").partition(":")
        found = {"e2fsck": "clean"}
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            image = f"{folder}/data"
            _tool("cp", "--sparse=always", path, image)  # the device has it locked
            if scheme == "qcow2":
                leaks = _tool("qemu-img", "check", "-q", "-f", "qcow2", image, harmless=(LEAKS,))
                _tool("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, f"{folder}/raw")
                image = f"{folder}/raw"
                found["qemu-img check"] = "no error, leaked clusters" if leaks else "clean"
            _tool(root.find_tool("e2fsck"), "-fn", image)
        return found

    def close(self) -> None:
        self._transfers.close()


class Bundled:
    """The bundled guest: write and verify a disk, and `fstest` on v86fs, one after the other."""

    name = "bundled"
    targets = (Target("blk0", "disk", frozenset({"step", "swap"})), Target("fs0", "fs", frozenset({"swap"})))

    def __init__(self, folder: Path, seed: int, progress: Progress) -> None:
        self._folder, self._seed = folder, seed
        with open(folder / "bundled.img", "wb") as file:
            file.truncate(32 * MIB)
        (folder / "v86fs").mkdir()

    def arguments(self) -> list[str]:
        off = "crash-limit=off"
        disk, share = f"{self._folder}/bundled.img,{off}", f"{self._folder}/v86fs,tag=work,proto=v86fs,{off}"
        return ["--guest", "bundled", "--append", "cmd=echo,chaos:,ready", "--disk", disk, "--share", share]

    def await_ready(self, machine: Running) -> None:
        self._until(machine, "chaos: ready", BOOT, lambda: True)

    def round(self, machine: Running, number: int, size: int, going: Callable[[], bool]) -> dict[str, str]:
        seed = self._seed % 100_000 + number
        found = {}
        for name, command, end in (
            ("write", f"fill {size * 8} {seed}", r"filled .*"),
            ("v86fs", f"fstest {seed} {size * 100}", r"fstest: .*all as it must be"),
            ("read back", f"check {size * 8} {seed}", r"checked .*"),
        ):
            machine.type(f"{command}\r")
            found[name] = self._until(machine, end, ROUND, going)
        machine.type(f"mv fstest done{number}\r")  # the next one begins with nothing
        machine.type("echo,chaos:,next\r".replace(",", " "))
        self._until(machine, "chaos: next", ROUND, going)
        shutil.rmtree(self._folder / "v86fs" / f"done{number}")
        return found

    def _until(self, machine: Running, wanted: str, timeout: float, going: Callable[[], bool]) -> str:
        deadline = time.monotonic() + timeout
        while True:
            line = machine.line(0.2)
            if not going():
                raise Stopped
            if line is not None and re.fullmatch(wanted, line):
                return line
            if line is not None and WRONG.match(line):
                raise Lost(f"{self.name}: {line}")
            if line is None and time.monotonic() > deadline:
                raise Lost(f"{self.name}: no {wanted!r} within {timeout:.0f} s", hint=machine.last_words())

    def check_images(self, backend: Callable[[str], str]) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass


Guest: TypeAlias = Debian | Bundled
GUESTS: dict[str, type[Guest]] = {"debian": Debian, "bundled": Bundled}


def _tool(*command: str, harmless: tuple[int, ...] = ()) -> int:
    """Its exit status: 0, or one of the harmless ones. Raises Lost with what it says otherwise."""
    if shutil.which(command[0]) is None:
        raise ConfigError(f"this host has no {command[0]}", hint="apt-get install qemu-utils")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode and result.returncode not in harmless:
        raise Lost(f"{shlex.join(command)}: {(result.stdout + result.stderr).strip()[-600:]}")
    return result.returncode
