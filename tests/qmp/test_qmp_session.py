"""QMP as a conversation: whatever a client sends, in whatever pieces, gets one answer that names what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.cli.verbs import VERBS
from launcher.qmp.actions import Actions
from launcher.qmp.commands import COMMANDS, EVENTS, TYPES, find_command
from launcher.qmp.monitor import parse_words
from launcher.qmp.reference import BEGIN, END, reference
from launcher.qmp.schema import schema
from launcher.qmp.session import MOST_BYTES, Session, Values, event_of
from launcher.qmp.tree import build_tree, draw, find
from proto.errors import ConfigError

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "qmp.md"

MACHINE = {
    **{"name": "vm1", "memory": 1 << 28, "harts": 2, "kernel": "", "append": "", "bios": "default"},
    **{"link": "words", "reboot": True},
    "devices": [
        {"id": "blk0", "role": "blk", "device": "blk", "kind": "virtio", "properties": {"ro": False},
         "backend": "delay:ms=5:qcow2:/a.qcow2"},
        {"id": "rng0", "role": "rng", "device": "rng", "kind": "virtio", "properties": {}, "backend": ""},
    ],
}  # fmt: skip
SEEN = {
    "phase": "running",
    "uptime": 1.5,
    "kips": 5,
    "guest": "Debian",
    "processes": [{"id": "core", "pid": 5, "state": "running"}, {"id": "blk0", "pid": 6, "state": "running"}],
}  # fmt: skip


@pytest.fixture
def session() -> Session:
    def act(name: str, arguments: dict[str, Any]) -> Any:
        if name == "quit":
            raise ConfigError("not today", hint="Tomorrow.")
        return {"did": name, **arguments}

    return Session(act)


def ask(session: Session, **request: Any) -> dict[str, Any]:
    return session.answer(json.dumps(request).encode())


def test_a_session_begins_with_a_greeting_and_qmp_capabilities(session: Session) -> None:
    assert session.greeting()["QMP"]["version"]["qemu"]["major"] == 0
    assert "error" in ask(session, execute="query-status")
    assert ask(session, execute="qmp_capabilities", id=7) == {"return": {}, "id": 7}
    assert ask(session, execute="qmp_capabilities")["error"]["class"] == "CommandNotFound"
    assert ask(session, execute="query-status", id={"a": [1]}) == {"return": {"did": "query-status"}, "id": {"a": [1]}}


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"execute": "query-stats"}, "did you mean query-status"),
        ({"execute": "device-restart"}, "needs id"),
        ({"execute": "device-restart", "arguments": {"id": 5}}, "of type str"),
        ({"execute": "device-restart", "arguments": {"id": "blk0", "force": True}}, "no argument force"),
        ({"execute": "quit"}, "not today. Tomorrow."),
        ({"execute": 5}, "says execute"),
        ({"exec": "quit"}, "no member exec"),
        ({"execute": "human-monitor-command", "arguments": {"command-line": "x", "cpu-index": True}}, "of type int"),
        ([], "is an object"),
    ],
)
def test_a_mistake_is_named(session: Session, request_: Any, says: str) -> None:
    session.ready = True
    assert says in session.answer(json.dumps(request_).encode())["error"]["desc"]


def test_what_is_no_json_is_a_parse_error(session: Session) -> None:
    for text in (b"{", b"nonsense", b"{'a': 1}", b"[" * 100000, b"\xff{}"):
        assert "error" in session.answer(text)


@given(st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=6) | st.integers()), max_size=5), st.data())
def test_values_are_found_in_pieces_of_any_size(values: list[dict[str, Any]], data: st.DataObject) -> None:
    stream = b"\r\n".join(json.dumps(value).encode() for value in values)
    finder, found = Values(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += finder.feed(stream[:size])
        stream = stream[size:]
    assert [json.loads(text) for text in found] == values


@given(st.lists(st.binary(max_size=30)))
def test_noise_never_breaks_a_session(pieces: list[bytes]) -> None:
    session, finder = Session(lambda name, arguments: {}), Values()
    for piece in pieces:
        for text in finder.feed(piece):
            assert set(session.answer(text)) & {"return", "error"}


def test_a_value_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        list(Values().feed(b'{"a": "' + b"x" * MOST_BYTES))


def test_events_have_the_time_and_the_keepers_data() -> None:
    event = event_of({"name": "DEVICE_DIED", "id": "blk0", "time": 5.25, "what": "was killed"})
    assert event == {
        "event": "DEVICE_DIED",
        "timestamp": {"seconds": 5, "microseconds": 250000},
        "data": {"id": "blk0", "what": "was killed"},
    }
    assert event_of({"name": "SOMETHING_ELSE"}) is None


def test_every_command_is_declared_carried_out_documented_and_described() -> None:
    names = [command.name for command in COMMANDS]
    assert len(set(names)) == len(names)
    assert set(names) == set(Actions._ACTIONS) | {"qmp_capabilities"}
    assert {command.verb for command in COMMANDS if command.verb} <= {verb.name for verb in VERBS}
    entries = {entry["name"]: entry for entry in schema()}
    for entry in entries.values():
        needed = [entry.get("arg-type"), entry.get("ret-type"), entry.get("element-type")]
        needed += [member["type"] for member in entry.get("members", [])]
        assert all(name in entries for name in needed if name is not None), entry
    assert {event.name for event in EVENTS} <= set(entries)
    for command in COMMANDS:
        assert all(argument.type.strip("[]") in TYPES for argument in command.arguments)


def test_the_reference_page_is_up_to_date() -> None:
    text = PAGE.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == reference(), "run: make docs"


def test_the_tree_has_devices_and_what_their_backends_stand_on() -> None:
    tree = build_tree(MACHINE, SEEN)
    assert find(tree, "/machine/devices/blk0").properties["pid"] == 6
    backend = find(tree, "/machine/devices/blk0/backend")
    assert (backend.type, backend.properties["ms"]) == ("delay", "5")
    assert find(tree, "machine/devices/blk0/backend/backend").type == "qcow2"
    assert backend.writable == {"uri"} and not find(tree, "/machine/devices/blk0/backend/backend").writable
    assert find(tree, "/machine/devices/blk0").writable == {"ro"}
    assert {"name": "blk0", "type": "child<blk>"} in find(tree, "/machine/devices").listing()
    assert sum("hart[" in line for line in draw(tree)) == 2
    with pytest.raises(ConfigError, match="no child blk1; did you mean blk0"):
        find(tree, "/machine/devices/blk1")


def test_words_of_the_command_line_become_arguments() -> None:
    swap = find_command("device-swap")
    assert parse_words(swap, ["blk0", "qcow2:a=b:x"]) == {"id": "blk0", "uri": "qcow2:a=b:x"}
    assert parse_words(swap, ["id=blk0", 'properties={"ro": true}']) == {"id": "blk0", "properties": {"ro": True}}
    with pytest.raises(ConfigError, match="takes no arguments"):
        parse_words(find_command("stop"), ["now"])
    with pytest.raises(ConfigError, match="needs id"):
        parse_words(swap, [])
