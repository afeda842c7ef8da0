"""Control flow, records, tables and calls do the same as Python and as machine code."""

from functools import cache

import pytest
from both import Both, Memory, Scratch, declare
from hypothesis import given, settings
from hypothesis import strategies as st

import native
from native import Area, Array, LivePeer, Record, WildAccess, acquire, plain, relaxed, table, u8, u16, u32, u64

SQUARES = table(u16, [n * n for n in range(16)])


class Inner(Record):
    tag: u64
    small: u8 = relaxed()
    index: u16 = acquire()


class Outer(Record):
    first: u32
    inner: Inner
    many: Array[Inner] = plain(count=3, offset=64)
    halves: Array[u16] = relaxed(count=4)
    tail: Array[u32] = acquire(count=0)


TEXT = '''
LIMIT = 10

@fn
def loops(r: Scratch, n: u32, m: u32) -> u64:
    """Nested loops, break and continue."""
    total: u64 = 0
    for i in range(n):
        if i == 7:
            continue
        j: u32 = 0
        while True:
            if j >= m or total > 1000:
                break
            j += 1
            if j & 1 == 0:
                continue
            total += u64(i) + u64(j)
        r.words[i] = total
    return total

@fn
def ranges(r: Scratch, a: i32, b: i32) -> i64:
    count: i64 = 0
    for i in range(a, b, 3):
        count += i64(i)
    for i in range(b, a, -2):
        count -= i64(i)
    for k in range(3, -1, -1):
        count += k
    return count

@fn
def ends(r: Scratch, a: u8, b: u8) -> u64:
    """Ranges that end at the ends of the type."""
    n: u64 = 0
    for i in range(a, b, 100):
        n += u64(i)
        i = 3
    for i in range(b, a, -100):
        n += 1000
    for i in range(255, a, -1):
        n += 1
    return n

@fn
def find(r: Scratch, what: u64) -> i32:
    for i in range(LIMIT):
        if r.words[i] == what:
            return i32(i)
    else_value = i32(-1) if what != 5 else i32(-2)
    return else_value

@fn
def branches(r: Scratch, a: i64, b: i64) -> i64:
    if a > b:
        x = a
    elif a < b:
        x = b
    else:
        return 0
    if x > 0 and (b == 0 or tdiv(a, b) > 1):
        x = -1
    return x

@fn
def records(r: Scratch, i: u32, v: u64) -> u64:
    o = Outer(r.address)
    o.first = u32(v & 0xFFFF)
    o.inner.tag = v
    o.inner.small = u8(v & 0xFF)
    o.many[i].tag = v ^ o.inner.tag ^ 7
    e = o.many[i]
    e.index += 3
    e.index |= 1 << (i & 7)
    o.halves[i] = e.index
    o.halves[i] -= u16(i & 1)
    o.tail[i] = u32(o.halves[i])
    at = Inner(addressof(o.many[1]))
    distance = addressof(o.tail[i]) - r.address + (addressof(o.many) - o.address)
    return at.tag + distance + Inner.size() + Outer.offset("tail")

@fn
def locals_(r: Scratch, n: u64) -> u64:
    a = local(Inner)
    total: u64 = 0
    for i in range(n):
        b = local(Inner)
        total += b.tag
        b.tag = n
        a.tag += b.tag
    return total + a.tag

@fn
def tables(r: Scratch, i: u32) -> u64:
    return u64(SQUARES[i]) + len(SQUARES)

@fn
def fails(r: Scratch, n: u64) -> u64:
    assert n < 5, "too many"
    r.words[n] = 1
    return n

@fn(inline=True)
def middle(r: Scratch, n: u64) -> u64:
    v = fails(r, n)
    r.words[10] = 1
    return v

@fn
def outer(r: Scratch, n: u64) -> u64:
    """A failure below stops everything above it."""
    v = middle(r, n)
    r.words[11] = v
    return v

@fn
def factorial(r: Scratch, n: u64) -> u64:
    return 1 if n == 0 else n * factorial(r, n - 1)

@fn(cc="preserve_most", cold=True)
def rarely(n: u64) -> bool:
    return n > 3

@fn
def calls_rarely(r: Scratch, n: u64) -> u64:
    return 1 if rarely(n) else u64(rarely(n + 3))

@fn
def order(r: Scratch, n: u64) -> u64:
    """Operands are computed from left to right, once each."""
    a = step(r, 1) * 100 + step(r, 2) * 10 + step(r, 3)
    b = 1 < step(r, 4) < step(r, n) < step(r, 100)
    r.words[step(r, 5)] += step(r, 6)
    return a + u64(b)

@fn
def step(r: Scratch, n: u64) -> u64:
    r.words[20] += 1
    r.words[20 + r.words[20]] = n
    return n

@fn
def nothing(r: Scratch) -> None:
    pass
'''
INPUTS = {
    "loops": (st.integers(0, 12), st.integers(0, 6)),
    "ranges": (st.integers(-20, 20), st.integers(-20, 20)),
    "ends": (st.integers(0, 255), st.integers(0, 255)),
    "find": (st.sampled_from([0, 5, 0x6161616161616161]),),
    "branches": (st.integers(-4, 4), st.integers(-4, 4)),
    "records": (st.integers(0, 4), st.integers(0, 2**64 - 1)),
    "locals_": (st.integers(0, 4),),
    "tables": (st.integers(0, 20),),
    "fails": (st.integers(0, 8),),
    "outer": (st.integers(0, 8),),
    "factorial": (st.integers(0, 25),),
    "calls_rarely": (st.integers(0, 8),),
    "order": (st.integers(0, 110),),
    "nothing": (),
}


@cache
def functions():
    scope = declare(TEXT, Scratch=Scratch, Inner=Inner, Outer=Outer, SQUARES=SQUARES)
    return scope, Both([scope[name] for name in INPUTS])


@pytest.mark.parametrize("name", INPUTS)
def test_functions_agree(name):
    scope, both = functions()
    memory = Memory()

    @settings(max_examples=100, deadline=None)
    @given(st.tuples(*INPUTS[name]), st.sampled_from([b"\0", b"a"]))
    def run(args, fill):
        memory.check(both, scope[name], *args, fill=fill)

    run()


def test_a_failed_check_tells_the_place_and_leaves_the_next_call_alone():
    _, both = functions()
    memory = Memory()
    with pytest.raises(AssertionError, match=r"<generated>.*:\d+: too many"):
        both.debug.outer(memory.record, 7)
    assert memory.record.words[11] == 0
    assert both.debug.outer(memory.record, 3) == 3


def test_a_traceback_of_the_python_run_names_file_and_line():
    scope, _ = functions()
    memory = Memory()
    with pytest.raises(AssertionError) as caught:
        scope["outer"](memory.record, 7)
    lines = [(f.path, f.lineno + 1) for f in caught.traceback]
    expected = TEXT.splitlines().index('    assert n < 5, "too many"') + 1
    assert any(str(path).startswith("<generated>") or line == expected for path, line in lines)
    assert expected in [line for _, line in lines]


def test_arguments_are_checked_before_machine_code_sees_them():
    scope, both = functions()
    memory = Memory()
    for run in (scope["loops"], both.release.loops):
        with pytest.raises(OverflowError):
            run(memory.record, 1 << 32, 0)
        with pytest.raises(TypeError):
            run(memory.record, 1)
        with pytest.raises(TypeError):
            run(memory.record, "1", 0)
        with pytest.raises(TypeError):
            run(Inner(memory.record.address), 1, 0)


def test_the_python_run_keeps_to_registered_memory():
    scope, _ = functions()
    with pytest.raises(WildAccess):
        scope["find"](Scratch(8), 1)
    with Area.allocate(Scratch.size(), live_peer=True) as area, pytest.raises(LivePeer):
        scope["find"](Scratch(area.address), 1)


def test_memory_of_a_local_record_is_gone_after_the_call():
    scope = declare(
        """
@fn
def leak() -> u64:
    return local(Scratch).address
""",
        Scratch=Scratch,
    )
    with pytest.raises(WildAccess):
        native.load64(scope["leak"]())


# --- programs made by hypothesis ------------------------------------------------------------------------------------

NAMES = ("a", "b", "c")


def expression(kind, depth):
    leaf = st.sampled_from(NAMES) | st.integers(0, 50).map(str)
    if depth == 0:
        return leaf
    sub = expression(kind, depth - 1)
    typed = st.sampled_from(NAMES)
    forms = [
        st.tuples(typed, st.sampled_from("+-*&|^"), sub).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(typed, st.integers(0, 12)).map(lambda t: f"({t[0]} >> {t[1]})"),
        st.tuples(sub, sub).map(lambda t: f"wrap32({t[0]} * {t[1]} - {t[0]})"),
        st.tuples(condition(depth - 1), typed, sub).map(lambda t: f"({t[1]} if {t[0]} else {t[2]})"),
        st.tuples(typed, typed).map(lambda t: f"({t[0]} // {t[1]})"),
        st.tuples(typed, sub).map(lambda t: f"helper({t[0]}, {t[1]})"),
    ]
    return leaf | st.one_of(forms)


def condition(depth):
    leaf = st.tuples(st.sampled_from(NAMES), st.sampled_from(["<", "<=", "==", "!="]), st.sampled_from(NAMES))
    simple = leaf.map(lambda t: f"{t[0]} {t[1]} {t[2]}")
    if depth == 0:
        return simple
    sub = condition(depth - 1)
    return simple | st.tuples(sub, st.sampled_from(["and", "or"]), sub).map(lambda t: f"({t[0]} {t[1]} not {t[2]})")


def statements(depth):
    assign = st.tuples(st.sampled_from(NAMES), st.sampled_from(["=", "+=", "|=", "^="]), expression("u32", 2))
    simple = assign.map(lambda t: [f"{t[0]} {t[1]} {t[2]}"])
    memory = st.tuples(st.integers(0, 7), expression("u32", 1)).map(
        lambda t: [f"r.words[{t[0]}] = u64(wrap32({t[1]}))"]
    )
    if depth == 0:
        return simple | memory
    body = st.lists(statements(depth - 1), min_size=1, max_size=3).map(lambda parts: [x for p in parts for x in p])
    indented = body.map(lambda lines: ["    " + line for line in lines])
    branch = st.tuples(condition(1), indented, indented).map(lambda t: [f"if {t[0]}:", *t[1], "else:", *t[2]])
    loop = st.tuples(st.integers(0, 3), indented).map(lambda t: [f"for _ in range({t[0]}):", *t[1]])
    stop = st.tuples(condition(0), indented).map(
        lambda t: ["for i in range(5):", *t[1], f"    if {t[0]}:", "        break", "    r.words[9] = i"]
    )
    early = condition(0).map(lambda c: [f"if {c}:", "    return a"])
    return simple | memory | branch | loop | stop | early


HELPER = "@fn\ndef helper(a: u32, b: u32) -> u32:\n    return a - b if a > b else b\n"


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(statements(2), min_size=1, max_size=5), min_size=4, max_size=4),
    st.lists(st.tuples(*[st.integers(0, 2**32 - 1) | st.integers(0, 20)] * 3), min_size=5, max_size=5),
)
def test_random_programs_agree(programs, inputs):
    text = HELPER
    for number, parts in enumerate(programs):
        body = "\n".join("    " + line for part in parts for line in part)
        text += (
            f"@fn\ndef p{number}(r: Scratch, a: u32, b: u32, c: u32) -> u32:\n{body}\n    return wrap32(a + b + c)\n"
        )
    scope = declare(text, Scratch=Scratch)
    found = [scope[f"p{number}"] for number in range(len(programs))]
    both, memory = Both(found), Memory()
    for function in found:
        for args in inputs:
            memory.check(both, function, *args)
