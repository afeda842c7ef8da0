"""What the devices of all file-system protocols share: the tree behind them, and the tag that names it."""

from __future__ import annotations

import re

from devproc.device import Device
from devproc.fs.host import HostTree
from devproc.fs.memory import MemoryTree, kept_tree
from devproc.fs.readonly import ReadOnly
from devproc.fs.tree import Tree
from proto.errors import ConfigError

__all__ = ["MEMORY", "TAG_MAX", "check_tag", "open_tree"]

MEMORY = "memory:"  # instead of a directory
TAG_MAX = 32
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}")


def open_tree(backend: str, read_only: bool, device: Device | None = None) -> Tree:
    """The tree of a directory of the host, or for MEMORY of one in memory, which the supervisor holds for the device.
    Raises ConfigError."""
    tree: Tree
    if backend == MEMORY:
        memory = kept_tree(device) if device is not None else MemoryTree()
        memory.forget_nameless()
        tree = memory
    else:
        tree = HostTree(backend)
    return ReadOnly(tree) if read_only else tree


def check_tag(tag: str) -> bytes:
    """A tag as the guest reads it. Raises ConfigError."""
    if not _TAG.fullmatch(tag):
        raise ConfigError(
            f"tag={tag}: not a tag", hint="Up to 31 letters, digits, dots, dashes and underscores.", value=tag
        )
    return tag.encode()
