"""From a relocatable ELF object to an image: everything the loader needs, and nothing it has to think about.

Only a fixed set of library functions is known; any other undefined symbol, relocation or kind of section is a
LinkError, when the unit is built.
"""

from __future__ import annotations

import json
import struct
from array import array
from dataclasses import dataclass, field

from native.errors import LinkError
from native.image import LIBRARY, Image
from native.memory import PAGE
from native.relocations import MACHINES, Machine

__all__ = ["link"]

_KNOWN = frozenset(name for names in LIBRARY.values() for name in names)

SHT_PROGBITS, SHT_SYMTAB, SHT_RELA, SHT_NOBITS = 1, 2, 4, 8
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_TLS = 1, 2, 4, 0x400
SHN_UNDEF, SHN_ABS, SHN_COMMON = 0, 0xFFF1, 0xFFF2
STT_FUNC = 2
_IGNORED = (".eh_frame",)


@dataclass
class _Section:
    number: int
    name: str
    type: int
    flags: int
    content: bytes
    size: int
    info: int
    align: int
    offset: int = -1  # in the image


@dataclass
class _Symbol:
    name: str
    kind: int
    section: int
    value: int
    size: int


@dataclass
class _Relocation:
    section: _Section
    offset: int
    kind: int
    symbol: _Symbol
    addend: int


@dataclass
class _Object:
    """The parts of an ELF64 file that matter here."""

    machine: Machine
    sections: list[_Section]
    symbols: list[_Symbol] = field(default_factory=list)


def _read(data: bytes) -> _Object:
    if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 16)[0] != 1:
        raise LinkError("not a relocatable little-endian ELF64 file")
    number = struct.unpack_from("<H", data, 18)[0]
    if number not in MACHINES:
        raise LinkError(f"ELF machine {number} is not known")
    table = struct.unpack_from("<Q", data, 40)[0]
    entry, count, names = struct.unpack_from("<HHH", data, 58)
    heads = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry) for i in range(count)]
    strings = heads[names][4]
    sections = []
    for i, (name, kind, flags, _, offset, size, _, info, align, _) in enumerate(heads):
        content = b"" if kind == SHT_NOBITS else data[offset : offset + size]
        sections.append(_Section(i, _string(data, strings + name), kind, flags, content, size, info, max(align, 1)))
    read = _Object(MACHINES[number], sections)
    for i, section in enumerate(sections):
        if section.type == SHT_SYMTAB:
            base = heads[heads[i][6]][4]
            for name, info, _, where, value, size in struct.iter_unpack("<IBBHQQ", section.content):
                read.symbols.append(_Symbol(_string(data, base + name), info & 15, where, value, size))
    return read


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


class _Linker:
    def __init__(self, read: _Object) -> None:
        self.object = read
        self.machine = read.machine
        self.content = bytearray()
        self.relative: list[int] = []
        self.imports: dict[str, int] = {}
        self.stubs: dict[str, int] = {}
        self.words: dict[tuple[int, int], int] = {}  # section and value -> offset of the word that holds the address

    def link(self) -> Image:
        groups: list[list[_Section]] = [[], [], []]
        for section in self.object.sections:
            if section.flags & SHF_ALLOC and not section.name.startswith(_IGNORED) and section.size:
                groups[self.group(section)].append(section)
        relocations = self.relocations()
        code_size = self.place_code(groups[0], relocations)
        constant_size = self.place_constants(groups[1], relocations)
        data_start = len(self.content)
        data_size = self.place_data(groups[2])
        self.write_stubs()
        for relocation in relocations:
            self.relocate(relocation)
        del self.content[max([data_start, *(s.offset + s.size for s in groups[2] if s.type != SHT_NOBITS)]) :]
        return self.image(code_size, constant_size, data_size)

    def group(self, section: _Section) -> int:
        """0 code, 1 constants, 2 writable data."""
        if section.type not in (SHT_PROGBITS, SHT_NOBITS) or section.flags & SHF_TLS:
            raise LinkError(f"section {section.name} of type {section.type} is not supported")
        if section.flags & SHF_EXECINSTR:
            return 0
        if not section.flags & SHF_WRITE or section.name.startswith(".data.rel.ro"):
            return 1
        if not section.name.startswith((".data", ".bss")):
            raise LinkError(f"section {section.name} is not supported")
        return 2

    def relocations(self) -> list[_Relocation]:
        found = []
        for table in self.object.sections:
            target = self.object.sections[table.info] if table.type == SHT_RELA else None
            if target is None or not target.flags & SHF_ALLOC or target.name.startswith(_IGNORED):
                continue
            for offset, info, addend in struct.iter_unpack("<QQq", table.content):
                found.append(_Relocation(target, offset, info & 0xFFFFFFFF, self.object.symbols[info >> 32], addend))
        return found

    def place_code(self, sections: list[_Section], relocations: list[_Relocation]) -> int:
        """Code, then a stub for every library function."""
        self.put(sections)
        for symbol in (r.symbol for r in relocations):
            if symbol.section == SHN_UNDEF and symbol.name not in self.stubs:
                if symbol.name not in _KNOWN:
                    raise LinkError(f"undefined symbol {symbol.name}: not in this unit, and no known library function")
                self.pad(16)
                self.stubs[symbol.name] = len(self.content)
                self.content += bytes(16)
        return self.finish(0)

    def place_constants(self, sections: list[_Section], relocations: list[_Relocation]) -> int:
        """Constants, then the words through which code reaches what is far away."""
        start = len(self.content)
        self.put(sections)
        self.pad(8)
        for name in self.stubs:
            self.imports[name] = len(self.content)
            self.content += bytes(8)
        for relocation in relocations:
            where = (relocation.symbol.section, relocation.symbol.value)
            own = relocation.symbol.section != SHN_UNDEF
            if own and relocation.kind in self.machine.through_word and where not in self.words:
                self.words[where] = len(self.content)
                self.content += bytes(8)
        return self.finish(start)

    def place_data(self, sections: list[_Section]) -> int:
        start = len(self.content)
        self.put(sorted(sections, key=lambda s: s.type == SHT_NOBITS))
        return self.finish(start)

    def put(self, sections: list[_Section]) -> None:
        for section in sections:
            self.pad(section.align)
            section.offset = len(self.content)
            self.content += section.content if section.type != SHT_NOBITS else bytes(section.size)

    def pad(self, align: int) -> None:
        self.content += bytes(-len(self.content) % align)

    def finish(self, start: int) -> int:
        self.pad(PAGE)
        return len(self.content) - start

    def write_stubs(self) -> None:
        for name, at in self.stubs.items():
            stub = self.machine.stub(self.imports[name] - at)
            self.content[at : at + len(stub)] = stub

    def address(self, symbol: _Symbol) -> int:
        """Where a symbol is in the image; the stub of a library function."""
        if symbol.section == SHN_UNDEF:
            return self.stubs[symbol.name]
        if symbol.section in (SHN_ABS, SHN_COMMON) or self.object.sections[symbol.section].offset < 0:
            raise LinkError(f"symbol {symbol.name} is in a section that is not supported")
        return self.object.sections[symbol.section].offset + symbol.value

    def relocate(self, r: _Relocation) -> None:
        at, symbol = r.section.offset + r.offset, r.symbol
        if r.kind == self.machine.absolute:
            if r.section.flags & SHF_EXECINSTR or symbol.section == SHN_UNDEF or at % 8:
                raise LinkError(f"absolute reference to {symbol.name} in {r.section.name} is not supported")
            self.write_address(at, self.address(symbol) + r.addend)
            return
        if r.kind not in self.machine.through_word:
            value = self.address(symbol)
        elif symbol.section == SHN_UNDEF:
            value = self.imports[symbol.name]
        else:
            value = self.words[symbol.section, symbol.value]
        apply = self.machine.relocations.get(r.kind)
        if apply is None:
            raise LinkError(f"relocation type {r.kind} against {symbol.name or 'a section'} in {r.section.name}")
        apply(self.content, at, value + r.addend)

    def write_address(self, at: int, value: int) -> None:
        """A word to which the loader adds the load address."""
        struct.pack_into("<Q", self.content, at, value)
        self.relative.append(at)

    def image(self, code_size: int, constant_size: int, data_size: int) -> Image:
        for (section, value), at in self.words.items():
            self.write_address(at, self.object.sections[section].offset + value)
        symbols, functions = {}, []
        for symbol in self.object.symbols:
            if 0 < symbol.section < SHN_ABS and symbol.name and self.object.sections[symbol.section].offset >= 0:
                symbols[symbol.name] = self.address(symbol)
                if symbol.kind == STT_FUNC:
                    functions.append((symbol.name, self.address(symbol), symbol.size))
        imports, text = list(self.imports.items()), json.dumps(functions).encode()
        sizes = (code_size, constant_size, data_size)
        return Image(*sizes, bytes(self.content), symbols, array("Q", self.relative), imports, text)


def link(data: bytes, wanted: frozenset[str]) -> Image:
    """Link an object; `wanted` symbols must be there and are the ones the image tells of."""
    image = _Linker(_read(data)).link()
    missing = sorted(wanted - image.symbols.keys())
    if missing:
        raise LinkError(f"no such symbol in the unit: {', '.join(missing)}")
    image.symbols = {name: image.symbols[name] for name in sorted(wanted)}
    return image
