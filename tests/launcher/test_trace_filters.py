"""The language of filters: what it says of a record, and what it says of a mistake."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.errors import ConfigError
from proto.filters import parse

WRITE = {
    "op": "WRITE",
    "sector": 2047,
    "latency": 0.0019,
    "device": "blk0",
    "bytes": 8192,
    "status": "OK",
    "path": "a b",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency > 1ms and op == WRITE", True),
        ("latency > 1ms and op == READ", False),
        ("latency >= 1900us", True),
        ("latency < 1.9ms or status != OK", False),
        ("op == write", True),
        ("sector < 2048", True),
        ("sector < 0x7ff", False),
        ("bytes == 8KiB", True),
        ("device in (blk0, blk1)", True),
        ("device in (net0)", False),
        ("not (op == READ or op == FLUSH)", True),
        ("not not op == WRITE", True),
        ("device =~ '^blk[0-9]$'", True),
        ("path == 'a b'", True),
        ('path =~ "c"', False),
        ("sector", True),
        ("nothing", False),
        ("nothing != 3", False),
        ("nothing =~ x", False),
        ("op == WRITE and sector < 1 or bytes > 1k", True),
        ("op < 3", False),
    ],
)
def test_what_a_filter_says_of_a_record(text: str, expected: bool) -> None:
    assert parse(text).matches(WRITE) is expected


@pytest.mark.parametrize(
    ("text", "what", "place"),
    [
        ("", "the name of a field is missing", 0),
        ("latency >", "a value is missing", 9),
        ("latency > 1 parsec", "left over", 12),
        ("latency > 1parsec", "no unit parsec", 11),
        ("(op == READ", "a ) is missing", 11),
        ("op == READ)", "left over", 10),
        ("op = READ", "not understood", 3),
        ("and", "the name of a field is missing", 0),
        ("op =~ '('", "no regular expression", 3),
        ("op =~ 'a{99999999999999999999}'", "no regular expression", 3),
    ],
)
def test_a_mistake_is_shown_where_it_is(text: str, what: str, place: int) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert what in caught.value.message
    assert caught.value.hint.splitlines()[:2] == [text, " " * place + "^"]


def test_an_unknown_field_is_named_with_what_was_meant() -> None:
    with pytest.raises(ConfigError, match="latncy") as caught:
        parse("latncy > 1ms", {"latency", "op"})
    assert "latency" in caught.value.message


def test_the_fields_that_are_asked_for_are_known() -> None:
    assert parse("latency > 1 and not (op == x or sector)").fields == {"latency", "op", "sector"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("pattern", ["[[a]", "[a&&b]", "[a||b]"])
def test_what_python_only_wonders_about_is_taken(pattern: str) -> None:
    assert parse(f"path =~ '{pattern}'").matches(WRITE) in (True, False)


def test_depth_has_a_limit() -> None:
    with pytest.raises(ConfigError, match="too deep"):
        parse("(" * 1000 + "op" + ")" * 1000)


@given(
    st.text(max_size=60), st.dictionaries(st.sampled_from(["a", "b"]), st.one_of(st.integers(), st.text(), st.none()))
)
def test_any_text_is_a_filter_or_a_mistake(text: str, record: dict[str, Any]) -> None:
    try:
        found = parse(text)
    except ConfigError:
        return
    assert found.matches(record) in (True, False)
