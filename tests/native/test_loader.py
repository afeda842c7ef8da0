"""The linker and the loader: what they take, what they refuse, and what memory looks like afterwards."""

import ctypes
import struct

import llvmlite.binding as llvm
import pytest
from both import declare

from native import CompileError, LinkError, Unit, external, fn, u64, u128
from native.codegen import compile_object
from native.image import LIBRARY, Image
from native.linker import link
from native.loader import load_image


def linked(ir, *symbols):
    return link(compile_object(ir, "O2", 2), frozenset(symbols))


def protection(address):
    """The permissions of the mapping an address is in."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            if start <= address < end:
                return line.split()[1]
    raise AssertionError(f"{address:#x} is not mapped")


HANDLERS = """
@handlers = constant [3 x ptr] [ptr @one, ptr @two, ptr @one]
@counter = global i64 40
@zeroed = global [1000 x i64] zeroinitializer
@squares = internal constant [4 x i64] [i64 0, i64 1, i64 4, i64 9]
define dso_local i64 @one(i64 %x) { ret i64 1 }
define dso_local i64 @two(i64 %x) {
  %p = getelementptr i64, ptr @squares, i64 %x
  %v = load i64, ptr %p
  %q = getelementptr i64, ptr @zeroed, i64 %x
  store i64 %v, ptr %q
  %n = atomicrmw add ptr @counter, i64 1 seq_cst
  %s = add i64 %v, %n
  ret i64 %s
}
define dso_local i64 @call(i64 %which, i64 %x) {
  %p = getelementptr ptr, ptr @handlers, i64 %which
  %h = load ptr, ptr %p
  %r = call i64 %h(i64 %x)
  ret i64 %r
}
"""


def test_handler_tables_constants_and_data_work_where_they_are_loaded():
    loaded = load_image(linked(HANDLERS, "call", "handlers", "one", "two", "counter"))
    call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(loaded.address("call"))
    assert [call(0, 5), call(1, 3), call(1, 2), call(2, 0)] == [1, 9 + 40, 4 + 41, 1]
    table = (ctypes.c_uint64 * 3).from_address(loaded.address("handlers"))
    assert list(table) == [loaded.address(name) for name in ("one", "two", "one")]


def test_no_memory_is_writable_and_executable():
    loaded = load_image(linked(HANDLERS, "call", "handlers", "counter"))
    assert protection(loaded.address("call")) == "r-xp"
    assert protection(loaded.address("handlers")) == "r--p"
    assert protection(loaded.address("counter")) == "rw-p"


def test_an_image_survives_packing():
    image = linked(HANDLERS, "call", "handlers")
    again = Image.unpack(memoryview(image.pack()))
    assert again == Image(**{**vars(image), "content": memoryview(image.content)})
    assert [name for name, _, _ in again.functions] == ["one", "two", "call"]


@pytest.mark.parametrize(
    ("ir", "message"),
    [
        (
            "declare i64 @nowhere(i64)\ndefine i64 @f(i64 %x) {\n %r = call i64 @nowhere(i64 %x)\n ret i64 %r\n}",
            "undefined symbol nowhere",
        ),
        (
            "@outside = external global i64\ndefine i64 @f() {\n %r = load i64, ptr @outside\n ret i64 %r\n}",
            "undefined symbol outside",
        ),
        ("declare ptr @memcpy(ptr, ptr, i64)\n@p = global ptr @memcpy", "absolute reference to memcpy"),
        (
            "@t = thread_local global i64 1\ndefine ptr @f() {\n ret ptr @t\n}",
            "is not supported|undefined symbol __tls_get_addr",
        ),
        ('@s = global i64 1, section "strange"\ndefine ptr @f() {\n ret ptr @s\n}', "section strange is not supported"),
        (
            "@llvm.global_ctors = appending global [1 x { i32, ptr, ptr }] [{ i32, ptr, ptr }"
            ' { i32 1, ptr @f, ptr null }]\ndefine void @f() {\n call void asm sideeffect "nop", ""()\n ret void\n}',
            "section .ctors|section .init_array",
        ),
    ],
    ids=["function", "data", "library function in data", "thread-local", "section", "constructor"],
)
def test_what_the_loader_does_not_know_fails_the_build(ir, message):
    with pytest.raises(LinkError, match=message):
        linked(ir)


def test_an_unknown_relocation_fails_the_build():
    data = bytearray(compile_object(HANDLERS, "O2", 2))
    changed = 0
    for section in struct.iter_unpack("<IIQQQQIIQQ", data[struct.unpack_from("<Q", data, 40)[0] :]):
        if section[1] == 4:  # SHT_RELA
            for at in range(section[4], section[4] + section[5], 24):
                info = struct.unpack_from("<Q", data, at + 8)[0]
                if info & 0xFFFFFFFF == 2:
                    struct.pack_into("<Q", data, at + 8, info & ~0xFFFFFFFF | 10)  # R_X86_64_32
                    changed += 1
    assert changed
    with pytest.raises(LinkError, match="relocation type 10"):
        link(bytes(data), frozenset())


def test_something_that_is_not_an_object_is_refused():
    with pytest.raises(LinkError, match="not a relocatable"):
        link(b"\x7fELF" + bytes(100), frozenset())


def test_a_symbol_that_is_not_there_is_named():
    with pytest.raises(LinkError, match="no such symbol in the unit: absent"):
        linked(HANDLERS, "absent")


def test_every_library_function_of_the_fixed_table_exists():
    for file, names in LIBRARY.items():
        for name in names:
            if name != "__multi3" or struct.calcsize("P") == 8:
                assert getattr(ctypes.CDLL(file), name)


@fn
def divide_wide(a: u64, b: u64, c: u64) -> u64:
    return u64(((u128(a) << 64 | u128(b)) // u128(c)) & 0xFFFFFFFFFFFFFFFF)


def test_library_functions_are_reached_through_stubs():
    native = Unit("wide", [divide_wide]).load()
    assert native.divide_wide(5, 7, 11) == ((5 << 64 | 7) // 11) & (1 << 64) - 1


@external
def interpret(n: u64) -> u64: ...


@external(symbol="h_missing")
def missing(n: u64) -> u64: ...


@fn
def slow_path(n: u64) -> u64:
    return n + 1000


@fn
def enter(n: u64) -> u64:
    return interpret(n)


@fn
def enter_missing(n: u64) -> u64:
    return missing(n)


INTERPRETER = f"""
declare i64 @{slow_path.symbol}(i64)
@htab = constant [2 x ptr] [ptr @h_add, ptr @h_slow]
define preserve_nonecc i64 @h_add(i64 %n, i64 %left) {{
  %more = add i64 %n, 1
  %less = sub i64 %left, 1
  %end = icmp eq i64 %less, 0
  %which = zext i1 %end to i64
  %p = getelementptr ptr, ptr @htab, i64 %which
  %h = load ptr, ptr %p
  %r = musttail call preserve_nonecc i64 %h(i64 %more, i64 %less)
  ret i64 %r
}}
define preserve_nonecc i64 @h_slow(i64 %n, i64 %left) {{
  %r = call i64 @{slow_path.symbol}(i64 %n)
  ret i64 %r
}}
define i64 @interpret(i64 %n) {{
  %r = call preserve_nonecc i64 @h_add(i64 0, i64 %n)
  ret i64 %r
}}
"""


@pytest.mark.parametrize(("opt", "codegen"), [("O2", 2), ("sroa", 1)])
@pytest.mark.parametrize("debug", [False, True])
def test_ir_text_calls_functions_and_is_called_by_them(opt, codegen, debug):
    made = []

    def ir():
        made.append(True)
        return INTERPRETER

    options = {"functions": [slow_path], "symbols": ["h_add", "htab"], "opt": opt, "codegen": codegen, "debug": debug}
    unit = Unit("interpreter", [enter], ir=ir, sources=[INTERPRETER], **options)
    native = unit.load()
    assert native.enter(1_000_000) == 1_001_000  # a million tail calls: no stack is used up
    table = (ctypes.c_uint64 * 2).from_address(native.symbol_address("htab"))
    assert table[0] == native.symbol_address("h_add")
    assert {name for name, _, _ in native.code()} >= {"h_add", "interpret", enter.symbol}
    again = Unit("interpreter", [enter], ir=ir, sources=[INTERPRETER], **options)
    assert again.is_cached()
    assert again.load().enter(5) == 1005
    assert len(made) == 1  # the text of a cached unit is not even made


def test_an_external_that_nothing_defines_fails_the_build():
    with pytest.raises(LinkError, match="undefined symbol h_missing"):
        Unit("missing", [enter_missing]).load()


def test_an_external_runs_its_stand_in():
    with pytest.raises(NotImplementedError, match="h_missing"):
        enter_missing(1)
    missing.stand_in(lambda n: n + 1)
    try:
        assert enter_missing(1) == 2
    finally:
        missing._stand_in = None


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("call i64 @{s}(i64 %n)", "call i64 @{s}(i32 5)", r"line 15 calls {s} as i64 \(i32\), it is i64 \(i64\)"),
        ("call i64 @{s}(i64 %n)", "call i64 @{s}(i64 5, i64 6)", r"calls {s} as i64 \(i64, i64\)"),
        ("call i64 @{s}(i64 %n)", "call fastcc i64 @{s}(i64 5)", r"calls {s} as fastcc i64 \(i64\)"),
        ("define i64 @interpret(i64 %n)", "define i64 @interpret(ptr %n)", r"defines interpret as i64 \(ptr\)"),
    ],
    ids=["type", "number", "convention", "definition"],
)
def test_ir_text_that_disagrees_with_a_function_is_refused(was, now, message):
    s = slow_path.symbol
    text = INTERPRETER.replace(was.format(s=s), now.format(s=s))
    assert text != INTERPRETER
    with pytest.raises(CompileError, match=message.format(s=s)):
        Unit("disagrees", [enter], functions=[slow_path], ir=text).ir()


FORWARD = """
@external(symbol="tests.native.generated.later")
def declared(n: {type}) -> u64: ...

@fn
def earlier(n: {type}) -> u64:
    return declared(n) + 1

@fn
def later(n: u64) -> u64:
    return n * 2
"""


def test_an_external_may_stand_for_a_function_of_a_later_module(monkeypatch):
    monkeypatch.setattr("native.function._symbols", {})
    scope = declare(FORWARD.format(type="u64"))
    assert Unit("forward", [scope["earlier"]], functions=[scope["later"]]).load().earlier(5) == 11
    monkeypatch.setattr("native.function._symbols", {})
    scope = declare(FORWARD.format(type="u32"))
    with pytest.raises(CompileError, match=r"is not declared as .* is defined"):
        Unit("forward", [scope["earlier"]], functions=[scope["later"]]).ir()


AARCH64 = (
    HANDLERS
    + """
declare ptr @memcpy(ptr, ptr, i64)
define dso_local ptr @copy(ptr %a, ptr %b) {
  %r = call ptr @memcpy(ptr %a, ptr %b, i64 100000)
  ret ptr %r
}
"""
)


def test_an_aarch64_object_links():
    """Prepared: nothing runs it here, so this only says that every relocation LLVM makes is known."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    machine = target.create_target_machine(opt=2, reloc="pic", codemodel="small")
    module = llvm.parse_assembly(AARCH64)
    module.triple = "aarch64-unknown-linux-gnu"
    image = link(machine.emit_object(module), frozenset(("call", "copy", "handlers")))
    assert image.imports and image.relative and image.code_size


def test_two_factories_give_two_symbols():
    scope = declare("""
def make(step):
    @fn
    def advance(n: u32) -> u32:
        return n + step
    return advance

one, ten = make(1), make(10)

@fn
def both(n: u32) -> u32:
    return one(n) * ten(n)
""")
    assert scope["one"].symbol != scope["ten"].symbol
    native = Unit("factories", [scope["both"]]).load()
    assert native.both(5) == scope["both"](5) == 6 * 15
