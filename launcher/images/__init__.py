"""The Debian guest: an unmodified Debian riscv64 kernel with a busybox userland, fetched through the host's apt.

    images = ensure(progress)                 images.kernel, .initrd, .root, .kernel_version
    Command(["uname", "-a"]).archive()        to append to the initramfs: the guest runs it and powers off

The command line for the kernel is `KERNEL_COMMAND_LINE`, with `ROOT_ON_VDA` for the root on the first disk.
"""

from launcher.images.command import Command
from launcher.images.debian import clean, ensure, ready
from launcher.images.errors import ImagesError
from launcher.images.network import ANY_CARD, GuestCard, network_archive
from launcher.images.shares import GuestShare, shares_archive
from launcher.images.store import Images

__all__ = [
    "ANY_CARD",
    "KERNEL_COMMAND_LINE",
    "ROOT_ON_VDA",
    "Command",
    "GuestCard",
    "GuestShare",
    "Images",
    "ImagesError",
    "clean",
    "ensure",
    "network_archive",
    "ready",
    "shares_archive",
]

KERNEL_COMMAND_LINE = "console=ttyS0 panic=-1"
ROOT_ON_VDA = "root=/dev/vda rw"
