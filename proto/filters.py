"""Filters of records: `latency > 1ms and op == WRITE and sector < 2048`, parsed once, evaluated on one after the other.

    filter      = any
    any         = all { "or" all }
    all         = one { "and" one }
    one         = "not" one | "(" any ")" | field [ operator value ] | field "in" "(" value { "," value } ")"
    operator    = == != < <= > >= =~
    value       = number with a unit | word | "text" | 'text'

A number may have a unit: ns us µs ms s (the value is in seconds), k M G, KiB MiB GiB (bytes), or be 0x… . Words compare
without regard to case. `=~` looks for a regular expression. A field alone is true when the record has it and it is
neither 0 nor empty. A comparison with a field that a record does not have is false, also with `!=`.

`parse` raises ConfigError that shows the place; `Filter.matches` is a pure function of a record and never raises.
"""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from proto.errors import ConfigError
from proto.suggest import did_you_mean

__all__ = ["UNITS", "Filter", "parse"]

Record = Mapping[str, Any]
Test = Callable[[Record], bool]

UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "=~": lambda value, pattern: pattern.search(str(value)) is not None,
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<operator>==|!=|<=|>=|=~|<|>|\(|\)|,)
    |(?P<number>0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?)(?P<unit>[A-Za-zµ]+)?
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<word>[^\W\d][\w.:/-]*))""",
    re.VERBOSE,
)
KEYWORDS = frozenset({"and", "or", "not", "in"})
MAX_DEPTH = 50  # of parentheses and nots


@dataclass(frozen=True)
class Token:
    """A piece of the text: kind is operator, value, word, or end."""

    kind: str
    value: Any
    at: int


@dataclass(frozen=True)
class Filter:
    """A parsed filter."""

    text: str
    fields: frozenset[str]  # that it asks for
    test: Test

    def matches(self, record: Record) -> bool:
        """Does the record pass?"""
        return self.test(record)


def parse(text: str, known: Collection[str] | None = None) -> Filter:
    """Raises ConfigError; with `known`, also for a field that is not among these."""
    parser = _Parser(text, known)
    test = parser.any()
    parser.expect_end()
    return Filter(text, frozenset(parser.fields), test)


class _Parser:
    """Recursive descent over the tokens of one filter."""

    def __init__(self, text: str, known: Collection[str] | None) -> None:
        self.text = text
        self.fields: set[str] = set()
        self._known = known
        self._tokens = self._scan()
        self._next = 0
        self._depth = 0

    # -- the grammar -----------------------------------------------------------------------------------------------

    def any(self) -> Test:
        tests = [self.all()]
        while self._accept_word("or"):
            tests.append(self.all())
        return tests[0] if len(tests) == 1 else lambda record: any(test(record) for test in tests)

    def all(self) -> Test:
        tests = [self.one()]
        while self._accept_word("and"):
            tests.append(self.one())
        return tests[0] if len(tests) == 1 else lambda record: all(test(record) for test in tests)

    def one(self) -> Test:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error("this is too deep", self._peek())
        try:
            if self._accept_word("not"):
                inner = self.one()
                return lambda record: not inner(record)
            if self._accept("("):
                inside = self.any()
                self._require(")")
                return inside
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Test:
        field = self._field()
        if self._accept_word("in"):
            self._require("(")
            values = [self._value()]
            while self._accept(","):
                values.append(self._value())
            self._require(")")
            return lambda record: any(_compare(operator.eq, record.get(field), value) for value in values)
        token = self._peek()
        if token.kind != "operator" or token.value not in OPERATORS:
            return lambda record: bool(record.get(field))
        self._take()
        compare = OPERATORS[token.value]
        value: Any = self._value()
        if token.value == "=~":
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of what a later Python may make of "[["
                    value = re.compile(str(value), re.IGNORECASE)
            except (re.error, OverflowError, RecursionError) as error:
                raise self._error(f"no regular expression: {error}", token) from error
            return lambda record: field in record and bool(compare(record[field], value))
        return lambda record: _compare(compare, record.get(field), value)

    def _field(self) -> str:
        token = self._take()
        if token.kind != "word" or token.value in KEYWORDS:
            raise self._error("here the name of a field is missing", token)
        name = str(token.value)
        if self._known is not None and name not in self._known:
            suggestion = did_you_mean(name, sorted(self._known))
            raise self._error(
                f"there is no field {name}{suggestion}", token, f"Fields: {', '.join(sorted(self._known))}."
            )
        self.fields.add(name)
        return name

    def _value(self) -> Any:
        token = self._take()
        if token.kind not in ("value", "word") or (token.kind == "word" and token.value in KEYWORDS):
            raise self._error("here a value is missing", token)
        return token.value

    # -- tokens ----------------------------------------------------------------------------------------------------

    def _scan(self) -> list[Token]:
        tokens, at, text = [], 0, self.text.rstrip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._error(
                    "this is not understood", Token("", "", at + len(text[at:]) - len(text[at:].lstrip()))
                )
            start = match.start(match.lastgroup or 0)
            if match["operator"]:
                tokens.append(Token("operator", match["operator"], start))
            elif match["number"]:
                tokens.append(Token("value", self._number(match), match.start("number")))
            elif match["text"]:
                tokens.append(Token("value", match["text"][1:-1], start))
            else:
                tokens.append(Token("word", match["word"], start))
            at = match.end()
        return [*tokens, Token("end", "", len(text))]

    def _number(self, match: re.Match[str]) -> float | int:
        digits, unit = match["number"], match["unit"]
        number: float | int = int(digits, 0) if digits[:2] in ("0x", "0X") else float(digits)
        if isinstance(number, float) and number.is_integer() and "." not in digits:
            number = int(digits)
        if unit is None:
            return number
        if unit not in UNITS:
            at = Token("", "", match.start("unit"))
            raise self._error(f"there is no unit {unit}", at, f"Units: {', '.join(UNITS)}.")
        return number * UNITS[unit]

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _accept(self, value: str) -> bool:
        token = self._peek()
        found = token.kind == "operator" and token.value == value
        self._next += found
        return found

    def _accept_word(self, word: str) -> bool:
        token = self._peek()
        found = token.kind == "word" and token.value == word
        self._next += found
        return found

    def _require(self, value: str) -> None:
        token = self._peek()
        if not self._accept(value):
            raise self._error(f"here a {value} is missing", token)

    def expect_end(self) -> None:
        """Everything is read."""
        token = self._peek()
        if token.kind != "end":
            raise self._error("this is left over", token)

    def _error(self, what: str, token: Token, hint: str = "") -> ConfigError:
        shown = f"{self.text}\n{' ' * token.at}^"
        return ConfigError(f"filter: {what}", hint=f"{shown}\n{hint}" if hint else shown)


def _compare(compare: Callable[[Any, Any], bool], found: Any, wanted: Any) -> bool:
    """Numbers with numbers, all else as text in lower case; nothing compares with what is not there."""
    if found is None:
        return False
    if isinstance(found, (int, float)) and isinstance(wanted, (int, float)):
        return compare(found, wanted)
    return compare(str(found).lower(), str(wanted).lower())
