"""A small Linux userland made of one static busybox: for the initramfs and for the root image alike.

busybox is one program under many names; the names are read out of the program itself, where they are stored as one run
of zero-terminated strings, so nothing of the other architecture has to be run here.
"""

from __future__ import annotations

from importlib import resources

from launcher.images.cpio import Entry, device, directory, link, regular
from launcher.images.errors import ImagesError

__all__ = ["applets", "script", "tree"]

DIRECTORIES = ("bin", "dev", "etc", "lib", "mnt", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "var")

ETC = {
    "hostname": "bulkhead\n",
    "passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "group": "root:x:0:\n",
    "hosts": "127.0.0.1 localhost\n127.0.1.1 bulkhead\n",
    "profile": "export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/root PS1='\\h:\\w# '\n",
}


def tree(busybox: bytes) -> dict[str, Entry]:
    """Directories, busybox under all its names, /etc, and the init that both kinds of system end up in."""
    entries = {name: directory() for name in DIRECTORIES}
    entries["sbin"] = link("bin")
    entries["usr/sbin"] = link("bin")
    entries["tmp"] = directory(0o1777)
    entries["root"] = directory(0o700)
    entries["dev/console"] = device(5, 1)
    entries["dev/null"] = device(1, 3, 0o666)
    entries["bin/busybox"] = regular(busybox, 0o755)
    for name in applets(busybox):
        if name not in ("busybox", "init", "linuxrc"):
            entries[f"bin/{name}"] = link("busybox")
    entries["bin/init"] = regular(script("init.sh"), 0o755)
    for name, text in ETC.items():
        entries[f"etc/{name}"] = regular(text)
    return entries


def script(name: str) -> bytes:
    """A shell script of this package that runs in the guest."""
    return resources.files("launcher.images").joinpath("guest", name).read_bytes()


def applets(busybox: bytes) -> list[str]:
    """The names a busybox answers to, in the order it stores them: sorted, from "[" on. Raises ImagesError."""
    start = busybox.find(b"[\0[[\0")
    end = busybox.find(b"\0\0", start)
    if start < 0 or end < 0:
        raise ImagesError("busybox does not say which programs it is", hint="bulkhead images --clean")
    return busybox[start:end].decode("ascii").split("\0")
