"""core/cpu/softfloat against an independent RISC-V, where that follows the current specification."""

import random

import pytest
from float_cases import close_sums, random_cases, special_cases
from float_engine import native_run
from float_oracle import OPERATIONS
from float_unicorn import execute


def outdated(name, operands):
    """Where Unicorn follows an older text: the extremum of a signalling NaN, and zero times infinity plus a NaN."""
    form = OPERATIONS[name].form
    if name.endswith(("min", "max")):
        return any(form.is_signaling(x) for x in operands)
    return name.endswith("fma") and form.is_nan(operands[2])


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_instruction_gives_the_result_and_flags_that_unicorn_gives(name):
    source = random.Random(name)
    cases = special_cases(name) + random_cases(name, 10_000, source)
    if name.endswith("fma"):
        cases = source.sample(cases, 30_000) + close_sums(name, 10_000, source)
    cases = [(operands, rm) for operands, rm in cases if not outdated(name, operands)]
    different = [
        (name, [hex(x) for x in operands], rm, got, native_run(name, operands, rm))
        for (operands, rm), got in zip(cases, execute(name, cases), strict=True)
        if got != native_run(name, operands, rm)
    ]
    assert not different[:5]
