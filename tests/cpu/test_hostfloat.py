"""core/cpu/hostfloat: the shortcut over the host's unit is never told apart from core/cpu/softfloat."""

import random

import pytest
from float_cases import close_sums, corner_cases, random_cases
from float_engine import native_run, python_run
from float_oracle import NX, OPERATIONS, RNE

from core.cpu.hostfloat import FAST

every_shortcut = pytest.mark.parametrize(("name", "fast"), [(name, fn.name) for name, fn in FAST.items()])


def differences(name, fast, cases, run=native_run):
    found = []
    for operands, rm in cases:
        for flags in (0, NX):
            got, want = run(fast, operands, rm, flags), native_run(name, operands, rm, flags)
            if got != want:
                found.append((fast, [hex(x) for x in operands], rm, flags, got, want))
    return found[:5]


@every_shortcut
def test_random_operands_give_the_result_and_flags_of_softfloat(name, fast):
    cases = random_cases(name, 20_000, random.Random(name))
    assert not differences(name, fast, [(operands, RNE) for operands, _ in cases])


@every_shortcut
def test_corner_values_give_the_result_and_flags_of_softfloat(name, fast):
    cases = corner_cases(name)
    if OPERATIONS[name].operands == 3:
        cases = random.Random(name).sample(cases, 20_000)
    assert not differences(name, fast, cases)


@every_shortcut
def test_small_whole_numbers_stay_exact(name, fast):
    form = OPERATIONS[name].form
    numbers = (1, 2, 3, 4, 8, 16, 144, 625)
    whole = [sign | native_run(f"fp{form.width}_from_u32", [n], RNE)[0] for n in numbers for sign in (0, form.sign_bit)]
    source = random.Random(name)
    cases = [([source.choice(whole) for _ in range(OPERATIONS[name].operands)], RNE) for _ in range(2000)]
    assert not differences(name, fast, cases)


@pytest.mark.parametrize("name", ["fp32_fma", "fp64_fma"])
def test_a_fused_multiply_add_that_nearly_cancels_is_exact(name):
    assert not differences(name, FAST[name].name, close_sums(name, 20_000, random.Random(name)))


@pytest.mark.parametrize("width", [32, 64])
def test_results_at_the_edge_of_the_normal_range_raise_underflow_as_softfloat_does(width):
    """Quotients and products that round up to the smallest normal number are tiny or not by their 54th or 25th bit."""
    form = OPERATIONS[f"fp{width}_mul"].form
    smallest_normal = 1 << (form.precision - 1)
    one = form.emax << (form.precision - 1)
    source = random.Random(width)
    cases = [
        ((smallest_normal + source.randrange(-40, 40), one + source.randrange(-40, 40)), RNE) for _ in range(20_000)
    ]
    for operation in ("mul", "div"):
        name = f"fp{width}_{operation}"
        assert not differences(name, FAST[name].name, cases)


@pytest.mark.parametrize("operation", ["mul", "div", "sqrt"])
@pytest.mark.parametrize("width", [32, 64])
def test_a_residue_below_the_smallest_subnormal_number_is_not_lost(width, operation):
    """Factors of which only the first and last bits are set leave the smallest residue a product can have."""
    form = OPERATIONS[f"fp{width}_mul"].form
    source = random.Random(width)
    cases = []
    for exponent in range(form.emin - 2, form.emin + 3 * form.precision):
        for _ in range(20):
            first = (exponent // 2 + form.emax) << (form.precision - 1) | source.randrange(4)
            second = (exponent - exponent // 2 + form.emax) << (form.precision - 1) | source.randrange(4)
            if operation == "sqrt":
                second = first
            product = native_run(f"fp{width}_mul", (first, second), RNE)[0]
            cases.append(({"mul": (first, second), "div": (product, second), "sqrt": (product,)}[operation], RNE))
    name = f"fp{width}_{operation}"
    assert not differences(name, FAST[name].name, cases)


@every_shortcut
def test_the_python_run_equals_the_native_run(name, fast):
    source = random.Random(name)
    cases = [(operands, RNE) for operands, _ in random_cases(name, 40, source)] + source.sample(corner_cases(name), 20)
    different = [
        (fast, operands, rm)
        for operands, rm in cases
        if python_run(fast, operands, rm) != native_run(fast, operands, rm)
    ]
    assert not different
