"""Every intrinsic gives the same as Python and as machine code."""

import math
import struct
import threading
import time
from functools import cache

import pytest
from both import Both, Memory, Scratch, declare
from hypothesis import given, settings
from hypothesis import strategies as st

import native
from native import Area, MisalignedAccess, sys
from native.intrinsics import INTRINSICS
from native.types import IntType

HOST = {"monotonic_ns", "realtime_ns", "syscall"}
MEMORY = {n for n in INTRINSICS if n.startswith(("load", "store", "atomic")) or n in ("copy", "fill")}
VALUES = sorted(set(INTRINSICS) - HOST - MEMORY - {"fence", "pause"})


def function_text(entry):
    """A function that only calls the intrinsic; addresses are words of the scratch record."""
    params = [f"p{i}: {'bool' if t is bool else t}" for i, t in enumerate(entry.params)]
    args = ", ".join(f"p{i}" for i in range(len(entry.params)))
    result = "None" if entry.result is None else "bool" if entry.result is bool else entry.result
    returns = "return " if entry.result is not None else ""
    return f"@fn\ndef do_{entry.name}({', '.join(params)}) -> {result}:\n    {returns}{entry.name}({args})\n"


@cache
def functions():
    names = sorted(set(INTRINSICS) - HOST)
    scope = declare("".join(function_text(INTRINSICS[n]) for n in names))
    found = {n: scope[f"do_{n}"] for n in names}
    return found, Both(found.values())


FLOATS = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    1e-310,
    5e-324,
    1e308,
    3.4e38,
    1e-45,
    2.0**63,
    2.0**31 - 0.5,
    math.inf,
    -math.inf,
    math.nan,
]
PATTERNS = {8: [struct.unpack("<Q", struct.pack("<d", v))[0] for v in FLOATS]}
PATTERNS[4] = [
    int.from_bytes(struct.pack("<f", v) if abs(v) < 3.4e38 or not math.isfinite(v) else b"\xff\xff\x7f\x7f", "little")
    for v in FLOATS
]


def operand(kind):
    if kind is bool:
        return st.booleans()
    special = st.sampled_from(PATTERNS[kind.size]) if not kind.signed and kind.size in PATTERNS else st.just(0)
    return special | st.integers(kind.minimum, kind.maximum) | st.sampled_from([kind.minimum, kind.maximum, 1])


def is_nan(name, bits):
    exponent, fraction = (0x7F800000, 0x7FFFFF) if name.startswith("f32") else (0x7FF << 52, (1 << 52) - 1)
    return bits & exponent == exponent and bits & fraction != 0


@pytest.mark.parametrize("name", VALUES)
def test_values_agree(name):
    found, both = functions()
    function, entry = found[name], INTRINSICS[name]

    @settings(max_examples=100, deadline=None)
    @given(st.tuples(*map(operand, entry.params)))
    def run(args):
        from both import outcome

        results = [outcome(f, *args) for f in (function, getattr(both.debug, function.name))]
        if results[0][0] == "value":
            results.append(outcome(getattr(both.release, function.name), *args))
            if (
                isinstance(entry.result, IntType)
                and "_to_" not in name
                and name.startswith("f")
                and is_nan(name, results[0][1])
            ):
                assert all(is_nan(name, r[1]) for r in results)
                return
        assert all(r == results[0] for r in results), (args, results)

    run()


@pytest.mark.parametrize("name", sorted(MEMORY - {"copy", "fill"}))
def test_memory_agrees(name):
    found, both = functions()
    function, entry = found[name], INTRINSICS[name]
    memory = Memory()

    def call(run):
        return lambda record, offset, *rest: run(record.address + offset, *rest)

    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from([0, 1, 2, 4, 8, 64]),
        st.tuples(*map(operand, entry.params[1:])),
        st.binary(min_size=8, max_size=8),
    )
    def run(offset, rest, fill):
        expected = memory.run(call(function), offset, *rest, fill=fill)
        assert memory.run(call(getattr(both.debug, function.name)), offset, *rest, fill=fill) == expected
        if expected[0] != ("raises", MisalignedAccess):
            assert memory.run(call(getattr(both.release, function.name)), offset, *rest, fill=fill) == expected

    run()


def test_a_misaligned_atomic_raises_and_an_unaligned_access_does_not():
    with Area.allocate(64) as area:
        native.store32_unaligned(area.address + 1, 0x01020304)
        assert native.load32_unaligned(area.address + 1) == 0x01020304
        with pytest.raises(MisalignedAccess):
            native.load32(area.address + 1)


def test_copy_moves_overlapping_bytes_and_fill_fills():
    found, both = functions()
    memory = Memory()
    for run in (found["copy"], both.debug.do_copy, both.release.do_copy):
        _, content = memory.run(lambda r, run=run: run(r.address + 1, r.address, 8), fill=b"abcdefgh")
        assert content[:10] == b"aabcdefghb"
    for run in (found["fill"], both.debug.do_fill, both.release.do_fill):
        _, content = memory.run(lambda r, run=run: run(r.address + 2, 0x58, 3), fill=b".")
        assert content[:6] == b"..XXX."


@cache
def host_functions():
    scope = declare(
        """
@fn
def now() -> u64:
    return monotonic_ns()
@fn
def wall() -> u64:
    return realtime_ns()
@fn
def write_word(fd: i32, word: u64) -> i64:
    cell = local(Scratch)
    cell.words[0] = word
    return syscall(sys.WRITE, fd, addressof(cell.words[0]), 8, 0, 0, 0)
@fn
def still() -> None:
    fence()
    pause()
""",
        Scratch=Scratch,
    )
    return scope, Both([scope[n] for n in ("now", "wall", "write_word", "still")])


def test_clocks_are_the_hosts():
    scope, both = host_functions()
    for run in (scope["now"], both.debug.now, both.release.now):
        before = time.monotonic_ns()
        assert before <= run() <= time.monotonic_ns()
    for run in (scope["wall"], both.debug.wall, both.release.wall):
        before = time.time_ns()
        assert before - 10**6 <= run() <= time.time_ns() + 10**6


def test_a_system_call_gives_its_result_or_minus_errno(tmp_path):
    scope, both = host_functions()
    for run in (scope["write_word"], both.debug.write_word, both.release.write_word):
        with open(tmp_path / "out", "wb") as file:
            assert run(file.fileno(), 0x3837363534333231) == 8
        assert (tmp_path / "out").read_bytes() == b"12345678"
        assert run(-1, 0) == -9  # EBADF


def test_every_number_of_a_system_call_is_known_for_both_architectures():
    for name, (x86_64, aarch64) in sys._NUMBERS.items():
        assert x86_64 >= 0 and aarch64 >= 0
        assert getattr(sys, name) in (x86_64, aarch64)


LITMUS = """
class Pair(Record):
    x: u64 = relaxed(offset=0)
    y: u64 = relaxed(offset=64)
    go: u64 = relaxed(offset=128)
    seen: Array[u64] = relaxed(count=2, offset=192)
    arrived: Array[u64] = relaxed(count=2, offset=256)
    both_old: u64 = plain(offset=320)

@fn(inline=True)
def meet(p: Pair, me: u64, round: u64) -> None:
    p.arrived[me] = round
    while p.arrived[1 - me] < round:
        pause()

@fn
def store_buffer(p: Pair, me: u64, rounds: u64, fenced: bool) -> None:
    for i in range(rounds):
        meet(p, me, 3 * i + 1)
        if me == 0:
            p.x = i + 1
            if fenced:
                fence()
            p.seen[0] = p.y
        else:
            p.y = i + 1
            if fenced:
                fence()
            p.seen[1] = p.x
        meet(p, me, 3 * i + 2)
        if me == 0 and p.seen[0] <= i and p.seen[1] <= i:
            p.both_old += 1
        meet(p, me, 3 * i + 3)
"""


def test_with_fences_two_threads_never_both_miss_the_others_store():
    """Store buffering (the SB litmus test): each thread stores, fences, looks at the other's word."""
    scope = declare(LITMUS)
    run = native.Unit("litmus", [scope["store_buffer"]]).load().store_buffer
    with Area.allocate(4096) as area:
        pair = scope["Pair"](area.address)
        threads = [threading.Thread(target=run, args=(pair, me, 20_000, True)) for me in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pair.arrived[0] == pair.arrived[1] == 60_000
        assert pair.both_old == 0


def test_atomic_additions_of_two_threads_are_all_counted():
    scope = declare("""
@fn
def count(a: u64, times: u64) -> None:
    for _ in range(times):
        atomic_add64(a, 1)
""")
    run = native.Unit("count", [scope["count"]]).load().count
    with Area.allocate(64) as area:
        threads = [threading.Thread(target=run, args=(area.address, 200_000)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert native.load64(area.address) == 400_000
