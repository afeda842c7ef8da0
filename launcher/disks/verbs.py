"""Disk images: the verbs."""

from launcher.cli.verb import Verb

__all__ = ["VERBS"]

VERBS = (
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
        completes="create convert info check split commit discard resize / files",
        group="host",
    ),
)
