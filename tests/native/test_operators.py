"""Every operator of every type gives the same as Python and as machine code, and raises the same."""

from functools import cache

import pytest
from both import Both, declare
from hypothesis import given, settings
from hypothesis import strategies as st

from native.types import INT_TYPES

# Operands come as two halves and go as two halves: Python cannot pass 128 bits to machine code.
TEMPLATE = """
@fn
def {name}(out: Scratch, al: u64, ah: u64, bl: u64, bh: u64) -> None:
    a = {wrap}(u128(ah) << 64 | u128(al))
    b = {wrap}(u128(bh) << 64 | u128(bl))
    r = {expression}
    w = wrap128(r)
    out.words[0] = wrap64(w)
    out.words[1] = wrap64(w >> 64)
"""
ARITHMETIC = {"add": "a + b", "sub": "a - b", "mul": "a * b", "and_": "a & b", "or_": "a | b", "xor": "a ^ b"}
ARITHMETIC |= {"neg": "-a", "inv": "~a", "smaller": "min(a, b)", "larger": "max(a, b)"}
SHIFTS = {"shl": "a << wrap16(b)", "shr": "a >> wrap16(b)", "shl_near": "a << wrap8(b & 127)", "shl3": "a << 3"}
SHIFTS |= {"shr_near": "a >> wrap8(b & 15)", "one_shl": "{type}(1) << wrap8(b & 31)"}
UNSIGNED = {"div": "a // b", "mod": "a % b", "div10": "a // 10", "mask": "a & ~7", "clear": "a & ~(1 << wrap8(b & 7))"}
SIGNED = {"tdiv_": "tdiv(a, b)", "trem_": "trem(a, b)", "by_minus": "tdiv(a, -1)", "rem_minus": "trem(a, -3)"}
COMPARE = {"lt": "a < b", "le": "a <= b", "eq": "a == b", "ne": "a != b", "gt": "a > b", "ge": "a >= b"}
COMPARE |= {"between": "a <= b <= 100", "logic": "(a < b and b != 3) or not a == 5", "both": "(a < b) & (b > 3)"}
MODULAR = {
    "wrap_sum": "wrap{bits}(a * b + (a << wrap8(b & 255)) - 7)",
    "signed_mix": "signed{bits}(~a ^ -b | (a & b) if a < b else a - 1)",
    "narrow": "wrap8(a * 3 + b)",
    "wide": "signed128(a - b)",
    "leaf": "wrap32((a >> 3) - b)",
}
CONVERT = {f"to_{t}": f"{t}(a)" for t in INT_TYPES}
MISC = {"choice": "a if a < b else b", "from_bool": "{type}(a < b)"}


def expressions(kind):
    table = ARITHMETIC | SHIFTS | MODULAR | CONVERT | MISC | (SIGNED if kind.signed else UNSIGNED)
    table |= {name: f"u8({text})" for name, text in COMPARE.items()}
    return {name: text.format(type=kind, bits=kind.bits) for name, text in table.items()}


@cache
def functions(kind):
    """The functions of a type, by name, and their three runs."""
    from both import Scratch

    wrap = f"{'signed' if kind.signed else 'wrap'}{kind.bits}"
    texts = [TEMPLATE.format(name=f"{n}_{kind}", wrap=wrap, expression=e) for n, e in expressions(kind).items()]
    scope = declare("".join(texts), Scratch=Scratch)
    found = {n: scope[f"{n}_{kind}"] for n in expressions(kind)}
    return found, Both(found.values())


def interesting(kind):
    """Values near the ends of every type, and any."""
    edges = {v for t in INT_TYPES.values() for v in (t.minimum, t.maximum) if kind.fits(v)}
    near = {v + d for v in edges for d in (-2, -1, 0, 1, 2) if kind.fits(v + d)}
    return st.sampled_from(sorted(near)) | st.integers(kind.minimum, kind.maximum)


def halves(value):
    return value & (1 << 64) - 1, value >> 64 & (1 << 64) - 1


@pytest.fixture(scope="module")
def memory():
    from both import Memory

    return Memory()


@pytest.mark.parametrize("kind", INT_TYPES.values(), ids=str)
def test_operators_agree(kind, memory):
    found, both = functions(kind)

    @settings(max_examples=60, deadline=None)
    @given(a=interesting(kind), b=interesting(kind) | st.integers(0, 200).filter(kind.fits))
    def run(a, b):
        for function in found.values():
            memory.check(both, function, *halves(a), *halves(b), survives=True)

    run()


def value_of(kind, name, a, b, memory):
    """The result of the Python run."""
    (status, detail), content = memory.run(functions(kind)[0][name], *halves(a), *halves(b))
    return detail if status == "raises" else int.from_bytes(content[:16], "little", signed=kind.signed)


U32, I32 = INT_TYPES["u32"], INT_TYPES["i32"]


@pytest.mark.parametrize(
    ("kind", "name", "a", "b", "expected"),
    [
        (U32, "add", 0xFFFFFFFF, 1, OverflowError),
        (U32, "sub", 0, 1, OverflowError),
        (U32, "neg", 1, 0, OverflowError),
        (U32, "inv", 0, 0, 0xFFFFFFFF),
        (U32, "shl", 1, 32, ValueError),
        (U32, "shl", 3, 31, OverflowError),
        (U32, "div", 7, 0, ZeroDivisionError),
        (U32, "mask", 0xFF, 0, 0xF8),
        (U32, "to_u8", 256, 0, OverflowError),
        (I32, "tdiv_", -7, 2, -3),
        (I32, "trem_", -7, 2, -1),
        (I32, "tdiv_", -(1 << 31), -1, OverflowError),
        (I32, "trem_", -(1 << 31), -1, 0),
        (I32, "shr", -5, 1, -3),
        (I32, "to_u64", -1, 0, OverflowError),
    ],
)
def test_the_python_run_means_what_it_says(kind, name, a, b, expected, memory):
    assert value_of(kind, name, a, b, memory) == expected
