"""core/cpu/softfloat: results and flags are those of exact arithmetic, and both runs are the same."""

import math
import random
import struct

import pytest
from float_cases import close_sums, corner_cases, corner_values, random_cases, random_pattern, special_cases
from float_engine import native_run, python_run
from float_oracle import BINARY64, FORMATS, NX, OPERATIONS, RNE, expected
from hypothesis import given
from hypothesis import strategies as st

every_operation = pytest.mark.parametrize("name", OPERATIONS)


def differences(cases, name, actual, wanted):
    """The first few cases in which two ways to compute an operation differ, to be read in a failure."""
    found = []
    for operands, rm in cases:
        got, want = actual(name, operands, rm), wanted(name, operands, rm)
        if got != want:
            found.append(f"{name}({', '.join(map(hex, operands))}) rm={rm}: {got} instead of {want}")
    return found[:5]


def oracle(name, operands, rm):
    return expected(name, operands, rm)


@every_operation
def test_random_operands_give_the_exact_result_and_flags(name):
    assert not differences(random_cases(name, 1000, random.Random(name)), name, native_run, oracle)


@every_operation
def test_corner_values_give_the_exact_result_and_flags(name):
    cases = corner_cases(name)
    if OPERATIONS[name].operands == 3:
        cases = random.Random(name).sample(cases, 3000)
    assert not differences(cases, name, native_run, oracle)


@pytest.mark.slow
@every_operation
def test_every_pair_of_special_values_gives_the_exact_result_and_flags(name):
    assert not differences(special_cases(name), name, native_run, oracle)


@pytest.mark.parametrize("name", ["fp32_fma", "fp64_fma"])
def test_a_fused_multiply_add_that_nearly_cancels_is_exact(name):
    assert not differences(close_sums(name, 5000, random.Random(name)), name, native_run, oracle)


@every_operation
def test_the_python_run_equals_the_native_run(name):
    source = random.Random(name)
    cases = random_cases(name, 60, source) + source.sample(corner_cases(name), 26)
    assert not differences(cases, name, python_run, native_run)


@given(st.data())
def test_any_pattern_gives_the_exact_result_and_flags(data):
    name = data.draw(st.sampled_from(sorted(OPERATIONS)))
    operation = OPERATIONS[name]
    width = 64 if operation.integer_operand else operation.form.width
    operands = [data.draw(st.integers(0, (1 << width) - 1)) for _ in range(operation.operands)]
    rm = data.draw(st.integers(0, 4)) if operation.rounds else None
    assert native_run(name, operands, rm) == expected(name, operands, rm)


@every_operation
def test_flags_accrue(name):
    operands, rm = corner_cases(name)[-1]
    for before in range(32):
        result, flags = expected(name, operands, rm)
        assert native_run(name, operands, rm, before) == (result, flags | before)


@pytest.mark.parametrize("width", FORMATS)
def test_an_integer_of_32_bits_is_read_from_the_lower_half_of_its_register(width):
    for upper in (0, 0xFFFF_FFFF, 0x1234_5678):
        assert native_run(f"fp{width}_from_i32", [upper << 32 | 0xFFFF_FFFE], RNE) == expected(
            f"fp{width}_from_i64", [(1 << 64) - 2], RNE
        )


def test_an_unsigned_integer_of_32_bits_is_returned_sign_extended():
    three_billion = struct.unpack("<Q", struct.pack("<d", 3e9))[0]
    assert native_run("fp64_to_u32", [three_billion], RNE) == (3_000_000_000 | 0xFFFF_FFFF << 32, 0)


class TestOracle:
    """The oracle is right where the host can tell: to nearest, and whether anything was lost."""

    @staticmethod
    def to_host(bits):
        return struct.unpack("<d", struct.pack("<Q", bits))[0]

    @staticmethod
    def from_host(number):
        return struct.unpack("<Q", struct.pack("<d", number))[0]

    def finite_pairs(self):
        source = random.Random(1)
        while True:
            pair = random_pattern(BINARY64, source), random_pattern(BINARY64, source)
            if all(math.isfinite(self.to_host(x)) for x in pair):
                yield pair

    @pytest.mark.parametrize(
        ("name", "compute"),
        [
            ("fp64_add", lambda x, y: x + y),
            ("fp64_sub", lambda x, y: x - y),
            ("fp64_mul", lambda x, y: x * y),
            ("fp64_div", lambda x, y: x / y if y else math.copysign(math.inf, x) * math.copysign(1, y)),
        ],
    )
    def test_agrees_with_the_host(self, name, compute):
        pairs = self.finite_pairs()
        for _ in range(2000):
            a, b = next(pairs)
            assert expected(name, (a, b), RNE)[0] == self.from_host(compute(self.to_host(a), self.to_host(b)))

    def test_agrees_with_the_host_on_roots(self):
        for _, (a, _) in zip(range(500), self.finite_pairs(), strict=False):
            a &= ~BINARY64.sign_bit
            assert expected("fp64_sqrt", (a,), RNE)[0] == self.from_host(math.sqrt(self.to_host(a)))

    def test_agrees_with_the_host_on_binary32(self):
        source = random.Random(2)
        for _ in range(2000):
            a = random_pattern(BINARY64, source)
            try:
                single = struct.unpack("<I", struct.pack("<f", self.to_host(a)))[0]
            except OverflowError:
                continue
            if not BINARY64.is_nan(a):
                result, flags = expected("fp32_from_fp64", (a,), RNE)
                back, none = expected("fp64_from_fp32", (result,), RNE)
                assert (result, bool(flags & NX), none) == (single, back != a, 0)


def test_corner_values_cover_every_class():
    for width, form in FORMATS.items():
        classes = {native_run(f"fp{width}_classify", [bits], None)[0] for bits in corner_values(form)}
        assert classes == {1 << bit for bit in range(10)}
