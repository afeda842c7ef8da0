"""A Debian mirror in a directory, with packages small enough to build a hundred times: what `ensure` needs, no network.

Everything apt checks is real: packages by dpkg-deb, checksums, and a signature by a key of the test's own.
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

KERNEL_VERSION = "6.12.1-riscv64"
KERNEL = b"raw kernel image" * 100
APPLETS = ["[", "[[", "ash", "cat", "init", "ls", "sh"]
BUSYBOX = b"\x7fELF rest of the program " + "\0".join(APPLETS).encode() + b"\0\0more"


def module(**info: str | list[str]) -> bytes:
    """A kernel module as far as .modinfo goes: an ELF file with that section and the one that names sections."""
    strings = [
        f"{key}={item}" for key, value in info.items() for item in ([value] if isinstance(value, str) else value)
    ]
    modinfo = b"\0".join(text.encode() for text in strings) + b"\0"
    names = b"\0.modinfo\0.shstrtab\0"
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    table = 64 + len(modinfo) + len(names)
    struct.pack_into("<Q", header, 0x28, table)
    struct.pack_into("<HHH", header, 0x3A, 64, 3, 2)
    sections = [
        bytes(64),
        struct.pack("<IIQQQQ", 1, 1, 0, 0, 64, len(modinfo)).ljust(64, b"\0"),
        struct.pack("<IIQQQQ", 10, 3, 0, 0, 64 + len(modinfo), len(names)).ljust(64, b"\0"),
    ]
    return bytes(header) + modinfo + names + b"".join(sections)


MODULES = {
    "drivers/virtio/virtio_mmio.ko": module(name="virtio_mmio", depends=""),
    "drivers/block/virtio_blk.ko": module(name="virtio_blk", depends="", alias="virtio:d00000002v*"),
    "drivers/char/hw_random/virtio-rng.ko": module(name="virtio_rng", depends="", alias="virtio:d00000004v*"),
    "drivers/net/virtio_net.ko": module(name="virtio_net", depends="net_failover", alias="virtio:d00000001v*"),
    "drivers/net/net_failover.ko": module(name="net_failover", depends="failover"),
    "net/core/failover.ko": module(name="failover", depends=""),
    "crypto/crc32c_generic.ko": module(name="crc32c_generic", depends="", alias=["crc32c", "crypto-crc32c"]),
    "fs/mbcache.ko": module(name="mbcache", depends=""),
    "fs/jbd2/jbd2.ko": module(name="jbd2", depends="", softdep="pre: crypto-crc32c"),
    "fs/ext4/ext4.ko": module(name="ext4", depends="jbd2,mbcache", softdep="pre: crypto-crc32c", alias="fs-ext4"),
    "fs/9p/9p.ko": module(name="9p", depends="9pnet,netfs", alias="fs-9p"),
    "fs/netfs/netfs.ko": module(name="netfs", depends=""),
    "net/9p/9pnet.ko": module(name="9pnet", depends=""),
    "net/9p/9pnet_virtio.ko": module(name="9pnet_virtio", depends="9pnet", alias="virtio:d00000009v*"),
    "fs/xfs/xfs.ko": module(name="xfs", depends="something_else"),
}

PACKAGES: dict[str, tuple[str, dict[str, bytes]]] = {  # name → (dependencies, files)
    "linux-image-riscv64": (f"linux-image-{KERNEL_VERSION} (= 1)", {}),
    f"linux-image-{KERNEL_VERSION}": (
        "kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120) | linux-initramfs-tool",
        {f"boot/vmlinux-{KERNEL_VERSION}": KERNEL}
        | {f"usr/lib/modules/{KERNEL_VERSION}/kernel/{path}": data for path, data in MODULES.items()},
    ),
    "busybox-static": ("", {"usr/bin/busybox": BUSYBOX}),
    "opensbi": ("", {"usr/lib/riscv64-linux-gnu/opensbi/generic/fw_jump.bin": b"firmware"}),
    "u-boot-qemu": (
        "",
        {
            "usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin": b"s mode",
            "usr/lib/u-boot/qemu-riscv64/u-boot.bin": b"m mode",
        },
    ),
}


@dataclass
class Key:
    """A signing key in a home of its own, and the public half as a keyring file."""

    home: Path
    keyring: Path

    @classmethod
    def make(cls, home: Path) -> Key:
        home.mkdir(mode=0o700)
        identity = f"{home.name} <{home.name}@example.org>"
        _gpg(home, "--quick-generate-key", "--passphrase", "", identity, "ed25519", "sign", "never")
        keyring = home / "keyring.gpg"
        keyring.write_bytes(_gpg(home, "--export"))
        return cls(home, keyring)

    def sign(self, release: bytes) -> bytes:
        return _gpg(self.home, "--clearsign", input=release)

    def close(self) -> None:
        """End the agent that gpg started for this home."""
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=False, capture_output=True)


def publish(
    root: Path,
    suite: str,
    key: Key,
    architecture: str = "riscv64",
    packages: dict[str, tuple[str, dict[str, bytes]]] = PACKAGES,
) -> None:
    """Add a release with these packages to the mirror."""
    stanzas = []
    for name, (depends, files) in packages.items():
        path = _package(root, name, depends, files, architecture)
        data = path.read_bytes()
        relation = f"Depends: {depends}\n" if depends else ""
        stanzas.append(
            f"Package: {name}\nVersion: 1\nArchitecture: {architecture}\nMaintainer: a test\n{relation}"
            f"Filename: {path.relative_to(root)}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
            f"Description: {name}\n"
        )
    index = "\n".join(stanzas).encode()
    place = root / "dists" / suite
    (place / "main" / f"binary-{architecture}").mkdir(parents=True, exist_ok=True)
    name = f"main/binary-{architecture}/Packages"
    (place / name).write_bytes(index)
    release = (
        f"Origin: Debian\nSuite: {suite}\nCodename: {suite}\nDate: Sat, 01 Jan 2022 00:00:00 UTC\n"
        f"Architectures: {architecture}\nComponents: main\nSHA256:\n"
        f" {hashlib.sha256(index).hexdigest()} {len(index)} {name}\n"
    )
    (place / "InRelease").write_bytes(key.sign(release.encode()))


def _package(root: Path, name: str, depends: str, files: dict[str, bytes], architecture: str) -> Path:
    tree = root / "build" / name
    for path, data in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    (tree / "DEBIAN").mkdir(parents=True)
    relation = f"Depends: {depends}\n" if depends else ""
    control = f"Package: {name}\nVersion: 1\nArchitecture: {architecture}\nMaintainer: a test\n{relation}"
    (tree / "DEBIAN" / "control").write_text(f"{control}Description: {name}\n")
    path = root / "pool" / f"{name}_1_{architecture}.deb"
    path.parent.mkdir(exist_ok=True)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tree), str(path)], check=True, capture_output=True
    )
    return path


def _gpg(home: Path, *arguments: str, input: bytes = b"") -> bytes:
    command = ["gpg", "--batch", "--quiet", "--homedir", str(home), "--pinentry-mode", "loopback", *arguments]
    return subprocess.run(
        command, input=input, check=True, capture_output=True, env={**os.environ, "LC_ALL": "C"}
    ).stdout
