"""The table of instructions is consistent: nothing overlaps, nothing is missing, for either XLEN."""

import itertools
import random

import pytest

from core.isa.encoding import HOLDER, OPERANDS
from core.isa.table import opcode, table

XLENS = (32, 64)


@pytest.mark.parametrize("xlen", XLENS)
def test_names_are_unique(xlen):
    names = [row.name for row in table(xlen).rows()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("xlen", XLENS)
def test_no_word_has_two_encodings(xlen):
    for one, other in itertools.combinations(table(xlen).rows(), 2):
        a, b = one.encoding, other.encoding
        if a.length != b.length or (a.match ^ b.match) & a.mask & b.mask:
            continue
        both = a.match | b.match  # the smallest word that looks like both: one of them must refuse it and its like
        shared = [word for word in _completions(both, a.mask | b.mask, a.length) if a.matches(word) and b.matches(word)]
        assert not shared, (one.name, other.name, hex(shared[0]))


def _completions(fixed, mask, length):
    """All words of 16 bits, or a thousand of 32, with these bits fixed."""
    if length == 2:
        return [word for word in range(1 << 16) if word & mask == fixed]
    rng = random.Random(0)
    return [fixed | rng.getrandbits(32) & ~mask for _ in range(1000)]


@pytest.mark.parametrize("xlen", XLENS)
def test_the_length_is_in_the_lowest_bits(xlen):
    for row in table(xlen).rows():
        assert (row.encoding.match & 3 == 3) == (row.encoding.length == 4), row.name
        assert row.encoding.mask & 3 == 3


@pytest.mark.parametrize("xlen", XLENS)
def test_the_decoders_first_look_up_needs_fixed_bits(xlen):
    for row in table(xlen).rows():
        deciding = 0x7F if row.encoding.length == 4 else 0xE003
        assert row.encoding.mask & deciding == deciding, row.name


@pytest.mark.parametrize("xlen", XLENS)
def test_every_bit_is_fixed_ignored_or_an_operands(xlen):
    for row in table(xlen).rows():
        bits = row.encoding.mask
        for operand in row.encoding.operands.values():
            for segment in operand.segments:
                bits |= segment.mask << segment.low
        ignored = sum(len(token) for token in row.encoding.text.split() if set(token) == {"-"})
        assert bits.bit_count() + ignored == 8 * row.encoding.length, row.name


@pytest.mark.parametrize("xlen", XLENS)
def test_the_segments_of_an_immediate_do_not_overlap(xlen):
    for row in table(xlen).rows():
        for name, operand in row.encoding.operands.items():
            values = [segment.mask << segment.to for segment in operand.segments]
            assert sum(values) == sum(set(values)), (row.name, name)
            assert name in OPERANDS


@pytest.mark.parametrize("xlen", XLENS)
def test_what_is_written_is_encoded(xlen):
    """Each register that the syntax names is a field of the encoding."""
    for row in table(xlen).instructions:
        for word in row.syntax.replace("(", " ").replace(")", " ").replace(",", " ").split():
            name = word.removeprefix("f") if word.startswith(("fr",)) else word
            if name in HOLDER:
                assert HOLDER[name] in row.encoding.operands, (row.name, word)


@pytest.mark.parametrize("xlen", XLENS)
def test_compressed_encodings_give_every_operand_of_their_instruction(xlen):
    isa = table(xlen)
    for row in isa.compressed:
        wanted = set(isa.by_name[row.expands].encoding.operands)
        assert set(row.encoding.operands) == wanted, row.name


@pytest.mark.parametrize("xlen", XLENS)
def test_decoding_gives_back_what_was_encoded(xlen):
    rng = random.Random(xlen)
    for row in table(xlen).rows():
        for _ in range(50):
            word = rng.getrandbits(8 * row.encoding.length) & ~row.encoding.mask | row.encoding.match
            if not row.encoding.matches(word):
                continue
            insn = table(xlen).decode(word)
            assert insn is not None and insn.row is row
            operands = {name: insn.operand(name) for name in row.encoding.operands}
            significant = row.encoding.mask
            for operand in row.encoding.operands.values():
                significant |= sum(segment.mask << segment.low for segment in operand.segments)
            assert row.encoding.encode(operands) == word & significant


def test_rv64_has_what_rv32_has_not():
    missing = {"addiw", "ld", "sd", "lwu", "mulw", "lr.d", "amoadd.d", "fcvt.l.d", "fmv.x.d", "c.addiw", "c.ld"}
    assert missing <= {row.name for row in table(64).rows()}
    assert not missing & {row.name for row in table(32).rows()}
    assert {"c.jal", "c.flw"} <= {row.name for row in table(32).rows()}


def test_all_zeros_and_all_ones_are_illegal():
    assert table(64).decode(0) is None
    assert table(64).decode(0xFFFF_FFFF) is None


def test_opcodes_are_below_their_number():
    assert all(opcode(word) < 64 for word in range(1 << 16))
