"""TinyEMU's split layout, written: `blk.txt`, a file a block, and files of groups of blocks that a boot needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devproc.blk.backend import BlockBackend
from launcher.disks.whole import whole
from proto.errors import ConfigError

__all__ = ["write_split"]


def write_split(
    disk: BlockBackend, folder: Path, block: int, prefetch: list[int], group: int, report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Write the disk into `folder`, which must not exist. The last block is padded with zeroes."""
    blocks = -(-disk.size // block)
    if block & (block - 1) or not 1024 <= block <= 1 << 26:
        raise ConfigError(f"blocks of {block} bytes: a power of two from 1k to 64M is expected")
    if group < 1 or len(set(prefetch)) != len(prefetch) or any(number >= blocks for number in prefetch):
        raise ConfigError(f"--prefetch: different blocks from 0 to {blocks - 1} are expected, in groups of at least 1")
    if folder.exists():
        raise ConfigError(f"{folder} exists already", hint="Remove it first, or choose another name.")
    groups = [prefetch[at : at + group] for at in range(0, len(prefetch), group)]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(str(folder)) as name:
        part = Path(name)
        part.mkdir()
        for number in range(blocks):
            (part / f"blk{number:09}.bin").write_bytes(_block(disk, number, block))
            report(number + 1, blocks)
        for number, members in enumerate(groups):
            if len(members) > 1:
                data = b"".join(_block(disk, member, block) for member in members)
                (part / f"grp{number:09}.bin").write_bytes(data)
        description: dict[str, Any] = {"block_size": block >> 10, "n_block": blocks}
        if prefetch:
            description |= {"prefetch": prefetch, "prefetch_group_len": group}
        (part / "blk.txt").write_text(json.dumps(description) + "\n")
    return {"path": str(folder), "blocks": blocks, "block_size": block, "groups": len(groups)}


def _block(disk: BlockBackend, number: int, size: int) -> bytes:
    there = min(size, disk.size - number * size)
    data = bytearray(there)
    disk.preadv([memoryview(data)], number * size)
    return bytes(data).ljust(size, b"\0")
