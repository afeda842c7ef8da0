"""fio of Debian's in Debian guests, on their disk and on no disk at all.

`null_blk` is the kernel's block device that completes every request and moves nothing: fio on it is the same program,
the same system calls, the same block layer, and no device. So its speed under Bulkhead by its speed under QEMU is the
CPU's own ratio for this work, and what the disk's ratio must reach if the path to the device is to add nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.guests import Console
from bench.measure import Figure, Goal, Missing, Run, Sample, alternate, compare
from launcher.images import Images, ImagesError, apt, cpio, modules, root, store
from launcher.images.fio import FIO
from launcher.images.programs import kept, programs_tree

__all__ = ["figures", "prepare", "tools_disk"]

DEADLINE = 120.0
SIZE = 96 << 20
NULL = "null_blk"
LIMIT = "/dev/nullb0"
READ, WRITE = "/dev/vda", "/root/load"  # in the guest; what is written is a file that is there already
READ_IOPS, WRITE_IOPS = 7, 48  # fields of fio's terse output, version 3
TERSE = re.compile(rb"3;fio-[^\r\n]*")
SETUP = f"""
mkdir -p /mnt/fio && mount -r /dev/vdb /mnt/fio && ln -s /mnt/fio/lib/* /lib/ && ln -s /mnt/fio/bin/fio /bin/
insmod /mnt/fio/configfs.ko; insmod /mnt/fio/{NULL}.ko nr_devices=1
dd if=/dev/zero of={WRITE} bs=1M count=64 conv=fsync
"""


@dataclass(frozen=True)
class Load:
    """What fio is told. `like` is the load without a device whose ratio counts as the CPU's own."""

    what: str
    rw: str
    block: str
    depth: int

    @property
    def like(self) -> tuple[str, int]:
        return self.block, self.depth

    def command(self, file: str, seconds: float) -> str:
        """The command line, in one line of terse output."""
        return (
            f"fio --name=load --filename={file} --size=64m --rw={self.rw} --bs={self.block} --iodepth={self.depth} "
            f"--direct=1 --ioengine=libaio --norandommap --thread --time_based --runtime={seconds * 1000:.0f}ms "
            "--output-format=terse --terse-version=3"
        )


LIMITS = (
    Load("CPU: 4 KiB random read, depth 1", "randread", "4k", 1),
    Load("CPU: 4 KiB random read, depth 32", "randread", "4k", 32),
    Load("CPU: 128 KiB sequential read, depth 4", "read", "128k", 4),
)
LOADS = (
    Load("4 KiB random read, depth 1", "randread", "4k", 1),
    Load("4 KiB random read, depth 32", "randread", "4k", 32),
    Load("4 KiB random write, depth 1", "randwrite", "4k", 1),
    Load("4 KiB random write, depth 32", "randwrite", "4k", 32),
    Load("128 KiB sequential read, depth 4", "read", "128k", 4),
    Load("128 KiB sequential write, depth 4", "write", "128k", 4),
)


def tools_disk(images: Images, run: Run) -> Path:
    """A disk with fio, its libraries and null_blk, to be the guest's second. Raises Missing."""

    def progress(what: str, fraction: float | None) -> None:
        run.progress(what)

    def build(place: Path) -> None:
        tree = programs_tree(FIO, progress)
        for module in modules.closure(_modules(images), [NULL]):
            tree[f"{module.name}.ko"] = cpio.regular(module.data)
        root.build(tree, place, SIZE)

    try:
        return kept("fio.ext4", (Path(__file__).read_bytes(), repr(FIO), images.kernel_version), build)
    except ImagesError as error:
        raise Missing(f"no fio for the guest: {error}" + (f" ({error.hint})" if error.hint else "")) from error


def _modules(images: Images) -> dict[str, bytes]:
    """null_blk and what it stands on, as the guest's kernel package has them."""
    archives = store.cache_directory() / "packages" / "archives"
    for package in archives.glob(f"linux-image-{images.kernel_version}_*.deb"):
        return dict(apt.members(package, lambda path: f"/{NULL}.ko" in path or "/configfs.ko" in path))
    raise Missing(f"the package of the guest's kernel is not in {archives}: bulkhead images --clean, bulkhead images")


def prepare(console: Console) -> None:
    """Make fio, null_blk and the file to be written ready in a guest that is at its prompt."""
    line = SETUP.strip().replace("\n", " && ").replace(";", " &&")
    console.ask(f"{{ {line}; }} 2>&-; echo =$?=", b"=0=", DEADLINE)


def figures(run: Run, ours: Console, theirs: Console) -> Iterator[Figure]:
    """The CPU's own ratios, then the loads on the disk, whose goal those are."""
    own: dict[tuple[str, int], Sample] = {}
    for load in LIMITS:
        figure = _compared(run, load, LIMIT, ours, theirs, None)
        assert figure.ratio is not None
        own[load.like] = figure.ratio
        yield figure
    for load in LOADS:
        file = READ if "read" in load.rw else WRITE
        yield _compared(run, load, file, ours, theirs, Goal(">=", float(f"{own[load.like].median:.3g}")))


def _compared(run: Run, load: Load, file: str, ours: Console, theirs: Console, goal: Goal | None) -> Figure:
    seconds = 0.5 if run.quick else 1.5
    command = load.command(file, seconds)
    field = READ_IOPS if "read" in load.rw else WRITE_IOPS
    sides = [partial(_iops, console, command, field) for console in (ours, theirs)]
    values = alternate(*sides, rounds=run.rounds(5), progress=_of(run, load.what))
    note = "" if goal is None else f"the CPU's own ratio is {goal.value:g}"
    return Figure.compared(f"Debian, fio: {load.what}", "IOPS", compare(*values), goal, note)


def _iops(console: Console, command: str, field: int) -> float:
    text = console.ask(f"{command}; echo =$?=", b"=0=", DEADLINE)
    found = TERSE.search(text)
    assert found is not None, text
    return float(found[0].split(b";")[field])


def _of(run: Run, what: str) -> Callable[[str], None]:
    return lambda text: run.progress(f"{what}: {text}")
