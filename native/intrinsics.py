"""What no Python operator says: one table of functions with their two meanings.

Each entry is a Python function, which is the checked Python run, and the LLVM text it compiles to. In the text `{0}`,
`{1}`… are the operands, `{r}` is the result and a prefix for names in between. Types come from the annotations.

* `load8..64`, `store8..64`: relaxed atomic, naturally aligned. `load16..64_unaligned`, `store…`: one plain access.
* `atomic_*`: sequentially consistent, return the old value. Operands are unsigned; `min` and `max` compare them as
  signed numbers, `minu` and `maxu` as unsigned ones. `fence` is a full fence.
* `f32_*`, `f64_*`: the host's floating point on bit patterns, see `native.floats`.
* `syscall` gives the result, or -errno. Its operands are any integers, extended by their own sign.
* `likely`, `unlikely`: their operand, with a hint about it.
"""

import ctypes
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeAlias, TypeVar, cast

from native import floats, memory
from native.sys import MACHINE
from native.types import I32, I64, U8, U16, U32, U64, IntType, i64, u8, u32, u64

P = ParamSpec("P")
R = TypeVar("R")


if TYPE_CHECKING:
    AnyInteger: TypeAlias = int
else:

    class AnyInteger:
        """The annotation of a parameter that takes every integer type (extended to 64 bits by its own sign)."""


@dataclass(frozen=True)
class Check:
    """A condition of a debug build: LLVM text that computes `{r}.ok`, and what its failure raises."""

    kind: str
    ir: str


@dataclass(frozen=True, eq=False)
class Intrinsic(Generic[P, R]):
    """One entry of the table; calling it is the Python run."""

    name: str
    run: Callable[P, R]
    params: tuple[Any, ...]
    result: Any
    ir: str
    declares: str = ""
    checks: tuple[Check, ...] = ()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.run(*args, **kwargs)

    def __repr__(self) -> str:
        return self.name


if TYPE_CHECKING:
    Unary: TypeAlias = Intrinsic[[int], int]
    Binary: TypeAlias = Intrinsic[[int, int], int]
    Ternary: TypeAlias = Intrinsic[[int, int, int], int]
    Store: TypeAlias = Intrinsic[[int, int], None]
    Comparison: TypeAlias = Intrinsic[[int, int], bool]
else:
    Unary = Binary = Ternary = Store = Comparison = Intrinsic

INTRINSICS: dict[str, Intrinsic[..., Any]] = {}


def _enter(entry: Intrinsic[P, R]) -> Intrinsic[P, R]:
    INTRINSICS[entry.name] = cast("Intrinsic[..., Any]", entry)
    return entry


def intrinsic(
    ir: str, declares: str = "", checks: tuple[Check, ...] = ()
) -> Callable[[Callable[P, R]], Intrinsic[P, R]]:
    """Enter a function into the table; its annotations are its types."""

    def decorate(run: Callable[P, R]) -> Intrinsic[P, R]:
        types = dict(run.__annotations__)
        result = types.pop("return")
        return _enter(Intrinsic(run.__name__, run, tuple(types.values()), result, ir, declares, checks))

    return decorate


def _aligned(size: int) -> tuple[Check, ...]:
    test = f"{{r}}.low = and i64 {{0}}, {size - 1}\n{{r}}.ok = icmp eq i64 {{r}}.low, 0"
    return (Check("misaligned", test),) if size > 1 else ()


_POINTER = "{r}.p = inttoptr i64 {0} to ptr\n"

# --- memory ---------------------------------------------------------------------------------------------------------


def _load(kind: IntType) -> Unary:
    ir = f"{_POINTER}{{r}} = load atomic i{kind.bits}, ptr {{r}}.p monotonic, align {kind.size}"
    return _enter(Unary(f"load{kind.bits}", lambda a: memory.load(a, kind), (U64,), kind, ir, "", _aligned(kind.size)))


def _store(kind: IntType) -> Store:
    ir = f"{_POINTER}store atomic i{kind.bits} {{1}}, ptr {{r}}.p monotonic, align {kind.size}"
    checks = _aligned(kind.size)
    return _enter(Store(f"store{kind.bits}", lambda a, v: memory.store(a, kind, v), (U64, kind), None, ir, "", checks))


def _load_unaligned(kind: IntType) -> Unary:
    ir = f"{_POINTER}{{r}} = load volatile i{kind.bits}, ptr {{r}}.p, align 1"
    return _enter(Unary(f"load{kind.bits}_unaligned", lambda a: memory.load(a, kind, aligned=False), (U64,), kind, ir))


def _store_unaligned(kind: IntType) -> Store:
    ir = f"{_POINTER}store volatile i{kind.bits} {{1}}, ptr {{r}}.p, align 1"
    name = f"store{kind.bits}_unaligned"
    return _enter(Store(name, lambda a, v: memory.store(a, kind, v, aligned=False), (U64, kind), None, ir))


load8, load16, load32, load64 = (_load(t) for t in (U8, U16, U32, U64))
store8, store16, store32, store64 = (_store(t) for t in (U8, U16, U32, U64))
load16_unaligned, load32_unaligned, load64_unaligned = (_load_unaligned(t) for t in (U16, U32, U64))
store16_unaligned, store32_unaligned, store64_unaligned = (_store_unaligned(t) for t in (U16, U32, U64))


def _signed(kind: IntType, value: int) -> int:
    return value - (1 << kind.bits) if value >> (kind.bits - 1) else value


_READ_MODIFY_WRITE: dict[str, tuple[str, Callable[[IntType, int, int], int]]] = {
    "add": ("add", lambda t, a, b: t.wrap(a + b)),
    "and": ("and", lambda t, a, b: a & b),
    "or": ("or", lambda t, a, b: a | b),
    "xor": ("xor", lambda t, a, b: a ^ b),
    "swap": ("xchg", lambda t, a, b: b),
    "min": ("min", lambda t, a, b: min(a, b, key=lambda v: _signed(t, v))),
    "max": ("max", lambda t, a, b: max(a, b, key=lambda v: _signed(t, v))),
    "minu": ("umin", lambda t, a, b: min(a, b)),
    "maxu": ("umax", lambda t, a, b: max(a, b)),
}


def _rmw(name: str, kind: IntType) -> Binary:
    llvm, combine = _READ_MODIFY_WRITE[name]

    def run(address: int, value: int) -> int:
        with memory.atomically():
            old = memory.load(address, kind)
            memory.store(address, kind, combine(kind, old, value))
        return old

    ir = f"{_POINTER}{{r}} = atomicrmw {llvm} ptr {{r}}.p, i{kind.bits} {{1}} seq_cst, align {kind.size}"
    checks = _aligned(kind.size)
    return _enter(Binary(f"atomic_{name}{kind.bits}", run, (U64, kind), kind, ir, "", checks))


def _cas(kind: IntType) -> Ternary:
    def run(address: int, expected: int, desired: int) -> int:
        with memory.atomically():
            old = memory.load(address, kind)
            memory.store(address, kind, desired if old == expected else old)
        return old

    n = f"i{kind.bits}"
    ir = (
        f"{_POINTER}{{r}}.c = cmpxchg ptr {{r}}.p, {n} {{1}}, {n} {{2}} seq_cst seq_cst, align {kind.size}\n"
        f"{{r}} = extractvalue {{{{ {n}, i1 }}}} {{r}}.c, 0"
    )
    checks = _aligned(kind.size)
    return _enter(Ternary(f"atomic_cas{kind.bits}", run, (U64, kind, kind), kind, ir, "", checks))


atomic_add32, atomic_add64 = _rmw("add", U32), _rmw("add", U64)
atomic_and8, atomic_and32, atomic_and64 = _rmw("and", U8), _rmw("and", U32), _rmw("and", U64)
atomic_or8, atomic_or32, atomic_or64 = _rmw("or", U8), _rmw("or", U32), _rmw("or", U64)
atomic_xor32, atomic_xor64 = _rmw("xor", U32), _rmw("xor", U64)
atomic_swap32, atomic_swap64 = _rmw("swap", U32), _rmw("swap", U64)
atomic_min32, atomic_min64 = _rmw("min", U32), _rmw("min", U64)
atomic_max32, atomic_max64 = _rmw("max", U32), _rmw("max", U64)
atomic_minu32, atomic_minu64 = _rmw("minu", U32), _rmw("minu", U64)
atomic_maxu32, atomic_maxu64 = _rmw("maxu", U32), _rmw("maxu", U64)
atomic_cas8, atomic_cas16, atomic_cas32, atomic_cas64 = (_cas(t) for t in (U8, U16, U32, U64))

_MEMMOVE = "declare void @llvm.memmove.p0.p0.i64(ptr, ptr, i64, i1)"
_MEMSET = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)"


@intrinsic(
    _POINTER + "{r}.q = inttoptr i64 {1} to ptr\n"
    "call void @llvm.memmove.p0.p0.i64(ptr {r}.p, ptr {r}.q, i64 {2}, i1 false)",
    _MEMMOVE,
)
def copy(destination: u64, source: u64, size: u64) -> None:
    """memmove(3)."""
    memory.move(destination, source, size)


@intrinsic(_POINTER + "call void @llvm.memset.p0.i64(ptr {r}.p, i8 {1}, i64 {2}, i1 false)", _MEMSET)
def fill(destination: u64, byte: u8, size: u64) -> None:
    """memset(3)."""
    memory.set_bytes(destination, byte, size)


@intrinsic("fence seq_cst")
def fence() -> None:
    """A full fence. The Python run has nothing to order: it refuses memory with a live peer."""


@intrinsic(f'call void asm sideeffect "{"yield" if MACHINE == "aarch64" else "pause"}", ""()')
def pause() -> None:
    """Tell the host core that this is a spin loop."""


# --- bits -----------------------------------------------------------------------------------------------------------


def _bits(name: str, llvm: str, kind: IntType, run: Callable[[int], int]) -> Unary:
    n = f"i{kind.bits}"
    extra = (", i1 false", ", i1") if llvm in ("ctlz", "cttz") else ("", "")
    ir = f"{{r}} = call {n} @llvm.{llvm}.{n}({n} {{0}}{extra[0]})"
    declares = f"declare {n} @llvm.{llvm}.{n}({n}{extra[1]})"
    return _enter(Unary(f"{name}{kind.bits}", run, (kind,), kind, ir, declares))


def _count_trailing_zeros(kind: IntType) -> Callable[[int], int]:
    return lambda a: (a & -a).bit_length() - 1 if a else kind.bits


def _count_leading_zeros(kind: IntType) -> Callable[[int], int]:
    return lambda a: kind.bits - a.bit_length()


def _swap_bytes(kind: IntType) -> Callable[[int], int]:
    return lambda a: int.from_bytes(a.to_bytes(kind.size, "little"), "big")


clz32, clz64 = (_bits("clz", "ctlz", t, _count_leading_zeros(t)) for t in (U32, U64))
ctz32, ctz64 = (_bits("ctz", "cttz", t, _count_trailing_zeros(t)) for t in (U32, U64))
popcount32, popcount64 = (_bits("popcount", "ctpop", t, int.bit_count) for t in (U32, U64))
bswap16, bswap32, bswap64 = (_bits("bswap", "bswap", t, _swap_bytes(t)) for t in (U16, U32, U64))


def _high_product(left: str, right: str) -> str:
    return (
        f"{{r}}.a = {left} i64 {{0}} to i128\n{{r}}.b = {right} i64 {{1}} to i128\n"
        "{r}.m = mul i128 {r}.a, {r}.b\n{r}.h = lshr i128 {r}.m, 64\n{r} = trunc i128 {r}.h to i64"
    )


@intrinsic(_high_product("zext", "zext"))
def mulhu64(a: u64, b: u64) -> u64:
    """The upper half of an unsigned product."""
    return (a * b) >> 64


@intrinsic(_high_product("sext", "sext"))
def mulhs64(a: i64, b: i64) -> i64:
    """The upper half of a signed product."""
    return (a * b) >> 64


@intrinsic(_high_product("sext", "zext"))
def mulhsu64(a: i64, b: u64) -> i64:
    """The upper half of a signed times an unsigned number."""
    return (a * b) >> 64


_EXPECT = "declare i1 @llvm.expect.i1(i1, i1)"


@intrinsic("{r} = call i1 @llvm.expect.i1(i1 {0}, i1 true)", _EXPECT)
def likely(condition: bool) -> bool:
    return condition


@intrinsic("{r} = call i1 @llvm.expect.i1(i1 {0}, i1 false)", _EXPECT)
def unlikely(condition: bool) -> bool:
    return condition


# --- floating point -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Format:
    """An IEEE format: its name in intrinsics and in LLVM, and its bits."""

    name: str
    llvm: str
    kind: IntType
    unpack: Callable[[int], float]
    pack: Callable[[float], int]
    fma: Callable[[float, float, float], float]
    digits: int

    def operand(self, n: int) -> str:
        return f"{{r}}.{'abc'[n]} = bitcast i{self.kind.bits} {{{n}}} to {self.llvm}\n"

    def result(self) -> str:
        return f"{{r}} = bitcast {self.llvm} {{r}}.f to i{self.kind.bits}"

    @property
    def suffix(self) -> str:
        return f"f{self.kind.bits}"


F32 = Format("f32", "float", U32, floats.float32_from_bits, floats.bits_from_float32, floats.fma32, 24)
F64 = Format("f64", "double", U64, floats.float64_from_bits, floats.bits_from_float64, floats.fma64, 53)


def _float_binary(f: Format, name: str, run: Callable[[float, float], float]) -> Binary:
    ir = f"{f.operand(0)}{f.operand(1)}{{r}}.f = f{name} {f.llvm} {{r}}.a, {{r}}.b\n{f.result()}"
    both = lambda a, b: f.pack(run(f.unpack(a), f.unpack(b)))  # noqa: E731
    return _enter(Binary(f"{f.name}_{name}", both, (f.kind, f.kind), f.kind, ir))


def _float_sqrt(f: Format) -> Unary:
    ir = f"{f.operand(0)}{{r}}.f = call {f.llvm} @llvm.sqrt.{f.suffix}({f.llvm} {{r}}.a)\n{f.result()}"
    declares = f"declare {f.llvm} @llvm.sqrt.{f.suffix}({f.llvm})"
    return _enter(Unary(f"{f.name}_sqrt", lambda a: f.pack(floats.root(f.unpack(a))), (f.kind,), f.kind, ir, declares))


def _float_fma(f: Format) -> Ternary:
    t = f.llvm
    ir = (
        f"{f.operand(0)}{f.operand(1)}{f.operand(2)}"
        f"{{r}}.f = call {t} @llvm.fma.{f.suffix}({t} {{r}}.a, {t} {{r}}.b, {t} {{r}}.c)\n{f.result()}"
    )
    declares = f"declare {t} @llvm.fma.{f.suffix}({t}, {t}, {t})"
    run = lambda a, b, c: f.pack(f.fma(f.unpack(a), f.unpack(b), f.unpack(c)))  # noqa: E731
    return _enter(Ternary(f"{f.name}_fma", run, (f.kind,) * 3, f.kind, ir, declares))


def _float_compare(f: Format, name: str, run: Callable[[float, float], bool]) -> Comparison:
    ir = f"{f.operand(0)}{f.operand(1)}{{r}} = fcmp o{name} {f.llvm} {{r}}.a, {{r}}.b"
    both = lambda a, b: run(f.unpack(a), f.unpack(b))  # noqa: E731
    return _enter(Comparison(f"{f.name}_{name}", both, (f.kind, f.kind), bool, ir))


def _float_from_int(f: Format, kind: IntType) -> Unary:
    convert = "sitofp" if kind.signed else "uitofp"
    ir = f"{{r}}.f = {convert} i{kind.bits} {{0}} to {f.llvm}\n{f.result()}"
    run = lambda a: f.pack(float(floats.round_integer(a, f.digits)))  # noqa: E731
    return _enter(Unary(f"{f.name}_from_{kind.name}", run, (kind,), f.kind, ir))


def _float_to_int(f: Format, kind: IntType) -> Unary:
    convert = "fptosi" if kind.signed else "fptoui"
    n = f"i{kind.bits}"
    low, high = (f.pack(float(bound)) for bound in (kind.minimum, kind.maximum + 1))
    ir = f"{f.operand(0)}{{r}}.i = {convert} {f.llvm} {{r}}.a to {n}\n{{r}} = freeze {n} {{r}}.i"
    whole = f"@llvm.trunc.{f.suffix}({f.llvm}"
    declares = f"declare {f.llvm} {whole})"
    test = (
        f"{{r}}.v = bitcast i{f.kind.bits} {{0}} to {f.llvm}\n{{r}}.t = call {f.llvm} {whole} {{r}}.v)\n"
        f"{{r}}.lo = bitcast i{f.kind.bits} {low} to {f.llvm}\n{{r}}.hi = bitcast i{f.kind.bits} {high} to {f.llvm}\n"
        f"{{r}}.ge = fcmp oge {f.llvm} {{r}}.t, {{r}}.lo\n{{r}}.lt = fcmp olt {f.llvm} {{r}}.t, {{r}}.hi\n"
        "{r}.ok = and i1 {r}.ge, {r}.lt"
    )
    run = lambda a: kind(floats.truncate(f.unpack(a)))  # noqa: E731
    checks = (Check("overflow", test),)
    return _enter(Unary(f"{f.name}_to_{kind.name}", run, (f.kind,), kind, ir, declares, checks))


f32_add, f64_add = (_float_binary(f, "add", operator.add) for f in (F32, F64))
f32_sub, f64_sub = (_float_binary(f, "sub", operator.sub) for f in (F32, F64))
f32_mul, f64_mul = (_float_binary(f, "mul", operator.mul) for f in (F32, F64))
f32_div, f64_div = (_float_binary(f, "div", floats.divide) for f in (F32, F64))
f32_sqrt, f64_sqrt = (_float_sqrt(f) for f in (F32, F64))
f32_fma, f64_fma = (_float_fma(f) for f in (F32, F64))
f32_eq, f64_eq = (_float_compare(f, "eq", operator.eq) for f in (F32, F64))
f32_lt, f64_lt = (_float_compare(f, "lt", operator.lt) for f in (F32, F64))
f32_le, f64_le = (_float_compare(f, "le", operator.le) for f in (F32, F64))
f32_from_i32, f32_from_u32, f32_from_i64, f32_from_u64 = (_float_from_int(F32, t) for t in (I32, U32, I64, U64))
f64_from_i32, f64_from_u32, f64_from_i64, f64_from_u64 = (_float_from_int(F64, t) for t in (I32, U32, I64, U64))
f32_to_i32, f32_to_u32, f32_to_i64, f32_to_u64 = (_float_to_int(F32, t) for t in (I32, U32, I64, U64))
f64_to_i32, f64_to_u32, f64_to_i64, f64_to_u64 = (_float_to_int(F64, t) for t in (I32, U32, I64, U64))


@intrinsic(f"{F32.operand(0)}{{r}}.f = fpext float {{r}}.a to double\n{F64.result()}")
def f64_from_f32(a: u32) -> u64:
    """Exact."""
    return F64.pack(F32.unpack(a))


@intrinsic(f"{F64.operand(0)}{{r}}.f = fptrunc double {{r}}.a to float\n{F32.result()}")
def f32_from_f64(a: u64) -> u32:
    """Rounded."""
    return F32.pack(F64.unpack(a))


# --- the host -------------------------------------------------------------------------------------------------------

_CLOCK = """declare i32 @clock_gettime(i32, ptr)
define internal i64 @native.clock(i32 %id) nounwind {
  %time = alloca { i64, i64 }
  %status = call i32 @clock_gettime(i32 %id, ptr %time)
  %seconds = load i64, ptr %time
  %more = getelementptr i8, ptr %time, i64 8
  %nanoseconds = load i64, ptr %more
  %scaled = mul i64 %seconds, 1000000000
  %total = add i64 %scaled, %nanoseconds
  ret i64 %total
}"""


@intrinsic("{r} = call i64 @native.clock(i32 1)", _CLOCK)
def monotonic_ns() -> u64:
    """CLOCK_MONOTONIC."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@intrinsic("{r} = call i64 @native.clock(i32 0)", _CLOCK)
def realtime_ns() -> u64:
    """CLOCK_REALTIME."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME)


memory.libc.syscall.restype = ctypes.c_long

_SYSCALL: Final = {
    "x86_64": '"syscall", "={rax},{rax},{rdi},{rsi},{rdx},{r10},{r8},{r9},~{rcx},~{r11},~{memory}"',
    "aarch64": '"svc #0", "={x0},{x8},{x0},{x1},{x2},{x3},{x4},{x5},~{memory}"',
}
_ASM = _SYSCALL[MACHINE].replace("{", "{{").replace("}", "}}")


@intrinsic(f"{{r}} = call i64 asm sideeffect {_ASM}(i64 {{0}}, " + ", ".join(f"i64 {{{n}}}" for n in range(1, 7)) + ")")
def syscall(
    number: AnyInteger, a: AnyInteger, b: AnyInteger, c: AnyInteger, d: AnyInteger, e: AnyInteger, f: AnyInteger
) -> i64:
    """A Linux system call: its result, or -errno. Pointers among the operands are not checked."""
    ctypes.set_errno(0)
    args = (ctypes.c_long(I64.wrap(v)) for v in (number, a, b, c, d, e, f))
    result = int(memory.libc.syscall(*args))
    return -ctypes.get_errno() if result == -1 else result
