"""Python that is not taken is a CompileError that names file, line and construct."""

import pytest
from both import Scratch, declare

from native import CompileError, Unit, table, u8

BYTES = table(u8, [1, 2, 3])

# (statements of a function of `r: Scratch, a: u32, b: u64, f: bool`, the line at fault, a part of the message)
STATEMENTS = [
    ("x = a + b", 1, "+ of u32 and u64: a + b"),
    ("x = a < b", 1, "comparison of u32 and u64: a < b"),
    ("x = 5", 1, "no type for x"),
    ("a = b", 1, "u32 is needed, this is u64: b"),
    ("a = 1 << 32", 1, "4294967296 does not fit u32"),
    ("a = a + -1", 1, "-1 does not fit u32"),
    ("a = a << 32", 1, "shift of u32 by 32"),
    ("a = a << i32(1)", 1, "a shift count is unsigned"),
    ("a = a / a", 1, "operator Div is not taken"),
    ("a = a ** a", 1, "** is for constants only"),
    ("a = a @ a", 1, "operator MatMult is not taken"),
    ("x = i32(a) // i32(a)", 1, "// is for an unsigned type (signed: tdiv, trem), not i32"),
    ("x = tdiv(a, a)", 1, "tdiv is for a signed type, not u32"),
    ("a = a // 0", 1, "division by zero"),
    ("a = +a", 1, "operator + of one operand is not taken"),
    ("f = not a", 1, "a condition is a bool, not u32 (compare it with 0): a"),
    ("f = ~f", 1, "operator ~ of bool"),
    ("f = f and b", 1, "a condition is a bool"),
    ("f = f < f", 1, "bools are compared with == and != only"),
    ("f = a is a", 1, "this comparison is not taken"),
    ("f = 1 in (1, 2)", 1, "this comparison is not taken"),
    ("f = r == r", 1, "Scratch cannot be compared"),
    ("\nif a:\n    pass", 2, "a condition is a bool, not u32"),
    ("while a:\n    pass", 1, "a condition is a bool"),
    ("while f:\n    pass\nelse:\n    pass", 1, "a loop with else is not taken"),
    ("for x in (1, 2):\n    pass", 1, "for takes range(...) only"),
    ("for x in range(a, 5, b):\n    pass", 1, "the step of range is a constant other than 0"),
    ("for x in range(0, 5, 0):\n    pass", 1, "the step of range is a constant other than 0"),
    ("for x, y in range(5):\n    pass", 1, "for takes one name"),
    ("for x in range(a, b):\n    pass", 1, "u32 is needed, this is u64"),
    ("x, y = a, b", 1, "this cannot be assigned to: (x, y)"),
    ("x = (a, b)", 1, "Tuple expression is not taken"),
    ("x = [a]", 1, "List expression is not taken"),
    ("x = {}", 1, "Dict expression is not taken"),
    ("x = 'text'", 1, "a str is not taken"),
    ("x = 1.5", 1, "a float is not taken"),
    ("x = None", 1, "a NoneType is not taken"),
    ("x = f'{a}'", 1, "JoinedStr expression is not taken"),
    ("x = lambda: a", 1, "Lambda expression is not taken"),
    ("x = [i for i in range(3)]", 1, "ListComp expression is not taken"),
    ("if (x := a) == 1:\n    pass", 1, "NamedExpr expression is not taken"),
    ("x = y = a", 1, "chained assignment is not taken"),
    ("def inner() -> None:\n    pass", 1, "FunctionDef statement is not taken"),
    ("class Inner:\n    pass", 1, "ClassDef statement is not taken"),
    ("try:\n    pass\nfinally:\n    pass", 1, "Try statement is not taken"),
    ("with r:\n    pass", 1, "With statement is not taken"),
    ("raise ValueError", 1, "Raise statement is not taken"),
    ("del a", 1, "Delete statement is not taken"),
    ("import sys", 1, "Import statement is not taken"),
    ("global BYTES", 1, "Global statement is not taken"),
    ("match a:\n    case 1:\n        pass", 1, "Match statement is not taken"),
    ("yield a", 1, "a statement of this value does nothing"),
    ("a", 1, "a statement of this value does nothing"),
    ("assert f, a", 1, "the message of assert is a string literal"),
    ("return a", 1, "test returns None: return a"),
    ("a: u64 = 0", 1, "a is u32 already"),
    ("a = u32(0) if f else b", 1, "a choice of u32 and u64"),
    ("if f:\n    x = a\na = x", 3, "x may have no value here"),
    ("while f:\n    x = a\na = x", 3, "x may have no value here"),
    ("x: u32\na = x", 2, "x may have no value here"),
    ("x: float = 0", 1, "<class 'float'> is not a type"),
    ("x: missing = 0", 1, "unknown name missing"),
    ("x = missing", 1, "unknown name missing"),
    ("x = print", 1, "a builtin_function_or_method is not a constant"),
    ("print(a)", 1, "call of print, which is not an @fn"),
    ("r.words.append(a)", 1, "only functions with a global name can be called"),
    ("fence(a)", 1, "0 arguments are needed, not 1"),
    ("x = clz32(b)", 1, "u32 is needed, this is u64"),
    ("x = clz32(a=a)", 1, "only positional arguments"),
    ("x = fence()", 1, "the call gives no value"),
    ("x = u32(r)", 1, "u32 of Scratch"),
    ("x = Scratch(a)", 1, "u64 is needed, this is u32"),
    ("x = local(a)", 1, "the local a is no constant"),
    ("x = addressof(a)", 1, "addressof takes a field or an element of one"),
    ("x = r.words", 1, "an array is not a value: index it"),
    ("r.words = a", 1, "this cannot be assigned to: r.words"),
    ("x = r.missing", 1, "Scratch has no field missing"),
    ("x = a.bits", 1, "a record is needed, this is u32"),
    ("x = r.words[256]", 1, "index 256 of 256"),
    ("x = r.words[f]", 1, "an integer of a declared type is needed, not bool"),
    ("r.words[0] = a", 1, "u64 is needed, this is u32"),
    ("x = a[0]", 1, "u32 cannot be indexed"),
    ("x = BYTES[3]", 1, "index 3 of 3"),
    ("BYTES[0] = a", 1, "this cannot be assigned to"),
    ("x = min(1, 2)", 1, "min of two literals"),
    ("x = min(a, b, b)", 1, "two arguments are needed, not 3"),
    ("x = u32(1, 2)", 1, "one argument is needed, not 2"),
    ("x = wrap32(f)", 1, "modular arithmetic of bool"),
    ("x = -r", 1, "operator - of Scratch"),
    ("x = r + r", 1, "+ is not for Scratch"),
]


@pytest.mark.parametrize(("body", "line", "message"), STATEMENTS, ids=[s[0].replace("\n", "; ") for s in STATEMENTS])
def test_statement_is_refused(body, line, message):
    text = "\n".join("    " + part for part in body.split("\n"))
    scope = declare(
        f"@fn\ndef test(r: Scratch, a: u32, b: u64, f: bool) -> None:\n{text}\n", Scratch=Scratch, BYTES=BYTES
    )
    with pytest.raises(CompileError) as caught:
        Unit("refused", [scope["test"]]).ir()
    error = caught.value
    assert message in error.message
    assert error.line == line + 2
    assert str(error).startswith(f"{error.filename}:{error.line}: ")
    assert error.filename.startswith("<generated>")


# (a whole function, a part of the message)
FUNCTIONS = [
    ("def test(a) -> u32:\n    return a", "no type for 'a'"),
    ("def test(a: u32):\n    return a", "no type for 'return'"),
    ("def test(a: int) -> u32:\n    return a", "<class 'int'> is not a type"),
    ("def test(a: u32 = 0) -> u32:\n    return a", "only plain parameters without defaults"),
    ("def test(*a: u32) -> u32:\n    return 0", "only plain parameters without defaults"),
    ("def test(*, a: u32) -> u32:\n    return 0", "only plain parameters without defaults"),
    ("def test(a: None) -> u32:\n    return 0", "a parameter cannot be None"),
    ("def test(a: 'missing') -> u32:\n    return 0", "unknown type missing"),
    ("def test(a: 'u33 | None') -> u32:\n    return 0", "unknown type u33 | None"),
    ("def test(a: u32) -> u32:\n    if a == 1:\n        return a", "test can end without a return"),
    ("def test(a: u32) -> u32:\n    while a > 1:\n        return a", "test can end without a return"),
    ("def test(a: u32) -> u32:\n    return", "test returns u32"),
]


@pytest.mark.parametrize(("source", "message"), FUNCTIONS, ids=[f[0].partition("\n")[0] for f in FUNCTIONS])
def test_function_is_refused(source, message):
    scope = declare(f"@fn\n{source}\n")
    with pytest.raises(CompileError) as caught:
        Unit("refused", [scope["test"]]).ir()
    assert message in caught.value.message
    assert caught.value.line > 0


def test_the_python_run_refuses_the_same():
    scope = declare("@fn\ndef test(a: u32, b: u64) -> u64:\n    return a + b\n")
    with pytest.raises(CompileError, match=r"<generated>.*:3: \+ of u32 and u64: a \+ b"):
        scope["test"](1, 2)


def test_what_python_allows_and_no_one_means_is_taken():
    """The forms that look close to a refused one."""
    scope = declare(
        """
ALL = 0xFF
@fn
def test(a: u32, b: u64, f: bool) -> u64:
    x = a & ~ALL
    y: u64 = (1 << 40) - 1 if f else ALL * 2
    x |= 1 << (b & 7)
    while True:
        z = b
        if z > 3 or not f:
            break
        b += 1
    for i in range(3):
        z += i
    return y + u64(x) + z + (1 if bool(a) else 0) + u64(f)
"""
    )
    assert scope["test"](0x101, 1, True) == (1 << 40) - 1 + (0x100 | 2) + 4 + 3 + 1 + 1


def test_a_changed_source_file_is_noticed(tmp_path, monkeypatch):
    module = tmp_path / "changing_module.py"
    module.write_text("from native import fn, u32\n\n@fn\ndef f(a: u32) -> u32:\n    return a\n")
    monkeypatch.syspath_prepend(tmp_path)
    import changing_module

    module.write_text("\n\n\n" + module.read_text())
    with pytest.raises(CompileError, match="the source text changed"):
        changing_module.f(1)
