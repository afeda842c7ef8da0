"""Encodings of instructions, in the notation of the tables of the RISC-V manual.

An encoding is one line of text, most significant bit first:

    "imm[11:5] rs2 rs1 010 imm[4:0] 0100011"            sw
    "100 shamt[5] 01 rd'/rs1' shamt[4:0] 01"            c.srai

* `0` and `1` are fixed bits, `-` is a bit that is ignored.
* `rd rs1 rs2 rs3` are register numbers of five bits; with a prime they have three and mean x8 to x15 (or f8 to f15);
  `rd/rs1` is one field that is both.
* `imm[11:5|0]` says which bits of the immediate stand here. The name says how it is read: `imm` and `nzimm` are signed,
  `uimm`, `nzuimm`, `shamt` and `csr` are not; `nz` means that zero is another encoding.
* `zimm` is a number in the place of rs1; `rm` a rounding mode (5 and 6 are reserved); `aqrl` the two ordering bits.
* `rd!=0` and `rd!={0,2}` exclude registers, again because those bits are another encoding.

What a parsed encoding knows is all that the decoder, the assembler and the reference page need. Not here: which
instruction it belongs to, and what that does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

# Operands of a decoded instruction, in the order of the slot's fields (core/cpu/state.py). Others travel in the place
# of one of these, which no instruction that has them needs.
OPERANDS = ("rd", "rs1", "rs2", "imm", "aux")
HOLDER = {"rd": "rd", "rs1": "rs1", "rs2": "rs2", "rs3": "imm", "zimm": "rs1", "rm": "aux", "aqrl": "aux"}
WIDTH = {"rd": 5, "rs1": 5, "rs2": 5, "rs3": 5, "zimm": 5, "rm": 3, "aqrl": 2}
SIGNED = {"imm": True, "nzimm": True, "uimm": False, "nzuimm": False, "shamt": False, "csr": False}
RESERVED_ROUNDING_MODES = (5, 6)
DYNAMIC_ROUNDING = 7  # as frm says

_TOKEN = re.compile(
    r"(?P<fixed>[01-]+)|(?P<immediate>[a-z]+)\[(?P<bits>[\d:|]+)\]|(?P<register>[a-z0-9'/]+)(?P<exclude>!=.*)?"
)


class EncodingError(ValueError):
    """An encoding that cannot be parsed, or operands that do not fit it."""


@dataclass(frozen=True)
class Segment:
    """`width` bits of an operand: bit `low` of the instruction is bit `to` of the value."""

    low: int
    width: int
    to: int

    @property
    def mask(self) -> int:
        return (1 << self.width) - 1


@dataclass(frozen=True)
class Operand:
    """One operand: the value is its segments put together, sign-extended from `width` if signed, plus `bias`.

    Without segments it is the constant `bias`: an operand that the encoding implies.
    """

    segments: tuple[Segment, ...] = ()
    signed: bool = False
    bias: int = 0

    @cached_property
    def width(self) -> int:
        return max((s.to + s.width for s in self.segments), default=0)

    def extract(self, word: int) -> int:
        value = 0
        for s in self.segments:
            value |= ((word >> s.low) & s.mask) << s.to
        if self.signed and value >> (self.width - 1):
            value -= 1 << self.width
        return value + self.bias

    def insert(self, value: int) -> int:
        """The bits of an instruction that give this value. EncodingError if none do."""
        bits = value - self.bias
        word = sum(((bits >> s.to) & s.mask) << s.low for s in self.segments)
        if self.extract(word) != value:
            raise EncodingError(f"{value} cannot be encoded in {self.width} bits")
        return word


@dataclass(frozen=True)
class Encoding:
    """A parsed encoding: which words it matches, and where their operands are."""

    text: str
    length: int  # in bytes: 2 or 4
    mask: int
    match: int
    operands: dict[str, Operand] = field(hash=False)  # by name in OPERANDS
    excluded: tuple[tuple[int, int], ...]  # (mask, match) of words that belong to others

    def matches(self, word: int) -> bool:
        return word & self.mask == self.match and all(word & mask != match for mask, match in self.excluded)

    def encode(self, values: dict[str, int]) -> int:
        """The word with these operands; operands that it does not have must not be given."""
        word = self.match
        for name, value in values.items():
            if name not in self.operands:
                raise EncodingError(f"{self.text!r} has no operand {name}")
            word |= self.operands[name].insert(value)
        if not self.matches(word):
            raise EncodingError(f"{self.text!r} does not encode {values}")
        return word


def parse(text: str, **implied: int) -> Encoding:
    """Parse one line of the notation; `implied` operands are constants that the instruction does not spell."""
    tokens = [_parse_token(token) for token in text.split()]
    length = sum(token.width for token in tokens)
    if length not in (16, 32):
        raise EncodingError(f"{text!r} has {length} bits")
    mask = match = 0
    segments: dict[str, list[Segment]] = {}
    traits: dict[str, tuple[bool, int]] = {}
    excluded: list[tuple[int, int]] = []
    low = length
    for token in tokens:
        low -= token.width
        mask |= token.mask << low
        match |= token.match << low
        for name in token.operands:
            segments.setdefault(name, []).extend(Segment(low + s.low, s.width, s.to) for s in token.segments)
            traits[name] = (token.signed, token.bias)
        field_mask = ((1 << token.width) - 1) << low
        excluded += [(field_mask, value << low) for value in token.excluded]
    operands = {name: Operand(tuple(parts), *traits[name]) for name, parts in segments.items()}
    operands |= {name: Operand(bias=value) for name, value in implied.items()}
    nonzero = [s for token in tokens if token.nonzero for s in segments["imm"]]
    if nonzero:
        excluded.append((sum(s.mask << s.low for s in segments["imm"]), 0))
    return Encoding(text, length // 8, mask, match, operands, tuple(excluded))


@dataclass(frozen=True)
class _Token:
    width: int
    mask: int = 0
    match: int = 0
    operands: tuple[str, ...] = ()
    segments: tuple[Segment, ...] = ()  # low counts from the token's own lowest bit
    signed: bool = False
    bias: int = 0
    nonzero: bool = False
    excluded: tuple[int, ...] = ()


def _parse_token(token: str) -> _Token:
    found = _TOKEN.fullmatch(token)
    if found is None:
        raise EncodingError(f"what is {token!r}?")
    if found["fixed"]:
        return _fixed(token)
    if found["immediate"]:
        return _immediate(found["immediate"], found["bits"])
    return _register(found["register"].split("/"), found["exclude"] or "")


def _fixed(bits: str) -> _Token:
    return _Token(len(bits), int(re.sub("[01]", "1", bits).replace("-", "0"), 2), int(bits.replace("-", "0"), 2))


def _immediate(name: str, bits: str) -> _Token:
    ranges = list(_bit_ranges(bits))
    width = sum(high - low + 1 for high, low in ranges)
    segments, at = [], width
    for high, low in ranges:
        at -= high - low + 1
        segments.append(Segment(at, high - low + 1, low))
    return _Token(
        width, operands=("imm",), segments=tuple(segments), signed=SIGNED[name], nonzero=name.startswith("nz")
    )


def _bit_ranges(bits: str) -> Iterator[tuple[int, int]]:
    for part in bits.split("|"):
        high, _, low = part.partition(":")
        yield int(high), int(low or high)


def _register(names: Iterable[str], exclude: str) -> _Token:
    plain = [name.rstrip("'") for name in names]
    short = any(name.endswith("'") for name in names)
    width = 3 if short else WIDTH[plain[0]]
    excluded = tuple(int(number) for number in re.findall(r"\d+", exclude))
    if plain == ["rm"]:
        excluded = RESERVED_ROUNDING_MODES
    return _Token(
        width,
        operands=tuple(HOLDER[name] for name in plain),
        segments=(Segment(0, width, 0),),
        bias=8 if short else 0,
        excluded=excluded,
    )
