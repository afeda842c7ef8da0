"""Kernel modules for a small system: which ones are needed, and the two indexes that modprobe reads.

A module says in its own .modinfo section what it depends on ("depends=jbd2,mbcache"), what has to be loaded before it
although no symbol says so ("softdep=pre: crypto-crc32c"), and for what it should be loaded
("alias=virtio:d00000002v*"). Modules are taken as the distribution signed them, only uncompressed, so that the guest's
kernel need not do it.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from launcher.images.cpio import Entry, directory, regular
from launcher.images.errors import ImagesError

__all__ = ["Module", "closure", "name_of", "tree"]


@dataclass(frozen=True)
class Module:
    """One module: its uncompressed file, and what its .modinfo says."""

    name: str
    data: bytes
    depends: tuple[str, ...]
    softdeps: tuple[str, ...]
    aliases: tuple[str, ...]

    @classmethod
    def read(cls, path: str, stored: bytes) -> Module:
        """From a file as packaged: NAME.ko, .ko.xz or .ko.gz. Raises ImagesError for anything else."""
        suffix = PurePosixPath(path).name.partition(".ko")[2]
        match suffix:
            case "":
                data = stored
            case ".xz":
                data = lzma.decompress(stored)
            case ".gz":
                data = zlib.decompress(stored, wbits=31)
            case _:
                raise ImagesError(f"module {path}: compressed in a way that is not known here ({suffix})")
        info = _modinfo(data)
        depends = [name_of(part) for value in info.get("depends", ()) for part in value.split(",") if part]
        softdeps = [part for value in info.get("softdep", ()) for part in _before(value)]
        return cls(name_of(path), data, tuple(depends), tuple(softdeps), tuple(info.get("alias", ())))


def closure(available: Mapping[str, bytes], wanted: Iterable[str]) -> list[Module]:
    """The wanted modules and all their symbols need, each after what it depends on. `available` is path → stored bytes.

    Raises ImagesError where one is not available: whether something is built in is for the caller to know."""
    paths = {name_of(path): path for path in available}
    order: dict[str, Module] = {}

    def visit(name: str, needed_by: str) -> None:
        name = name.replace("-", "_")
        if name in order:
            return
        if name not in paths:
            raise ImagesError(f"the kernel package has no module {name}, needed by {needed_by}")
        module = Module.read(paths[name], available[paths[name]])
        for dependency in module.depends:
            visit(dependency, name)
        order[name] = module

    for name in wanted:
        visit(name, "the guest")
    return list(order.values())


def tree(modules: Iterable[Module], version: str) -> dict[str, Entry]:
    """lib/modules/VERSION with the modules, modules.dep and modules.alias as depmod writes them."""
    modules = list(modules)
    root = f"lib/modules/{version}"
    by_name = {module.name: module for module in modules}
    entries = {"lib/modules": directory(), root: directory()}
    for module in modules:
        entries[f"{root}/{module.name}.ko"] = regular(module.data)
    dependencies = [
        f"{module.name}.ko: {' '.join(f'{name}.ko' for name in _all_before(module, by_name))}".rstrip() + "\n"
        for module in modules
    ]
    aliases = [f"alias {alias} {module.name}\n" for module in modules for alias in module.aliases]
    entries[f"{root}/modules.dep"] = regular("".join(dependencies))
    entries[f"{root}/modules.alias"] = regular("".join(aliases))
    return entries


def _all_before(module: Module, by_name: Mapping[str, Module]) -> list[str]:
    """What modprobe loads before a module, as modules.dep lists it: the last one is loaded first."""
    found: list[str] = []

    def visit(one: Module) -> None:
        soft = [name for alias in one.softdeps for name, owner in by_name.items() if alias in (name, *owner.aliases)]
        for name in (*one.depends, *soft):
            if name not in found:
                visit(by_name[name])
                found.append(name)

    visit(module)
    return found[::-1]


def name_of(path: str) -> str:
    """The name the kernel knows a module file by."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


def _before(softdep: str) -> list[str]:
    """The names after "pre:" in a softdep line ("pre: a b post: c")."""
    found: list[str] = []
    kind = ""
    for word in softdep.split():
        if word.endswith(":"):
            kind = word
        elif kind == "pre:":
            found.append(word)
    return found


def _modinfo(elf: bytes) -> dict[str, list[str]]:
    """The key=value strings of a 64-bit little-endian ELF file's .modinfo section."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ImagesError("a kernel module is not a 64-bit little-endian ELF file")
    (section_table,) = struct.unpack_from("<Q", elf, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, section_table + index * entry_size) for index in range(count)]
    names = headers[names_index][4]
    info: dict[str, list[str]] = {}
    for name, _kind, _flags, _address, offset, size in headers:
        if elf.startswith(b".modinfo\0", names + name):
            for item in elf[offset : offset + size].split(b"\0"):
                key, equals, value = item.decode(errors="replace").partition("=")
                if equals:
                    info.setdefault(key, []).append(value)
    return info
