"""The console's parts on their own: Ctrl-A commands, a command's output between its markers, a panic in passing."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.console.frame import CommandOutput, PanicWatch
from launcher.console.session import Escape
from launcher.images import Command


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[low:high] for low, high in itertools.pairwise(at)]


CUTS = st.lists(st.integers(0, 1000), max_size=12)


def test_ctrl_a_commands() -> None:
    escape = Escape()
    assert escape.feed(b"ab\x01x") == (b"ab", ["quit"])
    assert escape.feed(b"\x01h\x01?") == (b"", ["help", "help"])
    assert escape.feed(b"\x01\x01c") == (b"\x01c", [])
    assert escape.feed(b"\x01") == (b"", [])
    assert escape.feed(b"x") == (b"", ["quit"])
    assert escape.feed(b"\x01zq") == (b"q", [])  # unknown: nothing


@given(st.binary(max_size=200), CUTS)
def test_typed_bytes_are_cut_anywhere(data: bytes, cuts: list[int]) -> None:
    whole = Escape().feed(data)
    escape = Escape()
    through, commands = b"", []
    for piece in pieces(data, cuts):
        some, found = escape.feed(piece)
        through += some
        commands += found
    assert (through, commands) == whole


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 255), CUTS, st.sampled_from([b"\n", b"\r\n"]))
def test_the_output_is_what_stands_between_the_markers(
    output: bytes, status: int, cuts: list[int], newline: bytes
) -> None:
    command = Command(("true",))
    marker = command.marker.encode()
    stream = b"[    0.1] kernel" + newline + command.begin + newline + output
    stream += marker + b" end %d" % status + newline + b"reboot: Power down" + newline
    seen = CommandOutput(command)
    shown = b"".join(seen.feed(piece) for piece in pieces(stream, cuts)) + seen.rest()
    assert (shown, seen.status) == (output, status)


def test_a_line_is_shown_as_soon_as_it_is_there() -> None:
    command = Command(("true",))
    seen = CommandOutput(command)
    seen.feed(command.begin + b"\n")
    assert seen.feed(b"one\n") == b"one\n"
    assert seen.feed(b"prompt> ") == b"prompt> "


def test_what_came_before_is_kept_when_the_command_never_began() -> None:
    seen = CommandOutput(Command(("true",)))
    seen.feed(b"no init found\n" * 1000)
    assert not seen.begun and seen.status is None
    assert seen.before.endswith(b"no init found\n"[-20:]) or b"no init" in seen.before
    assert len(seen.before) <= 4096


def test_output_that_ends_without_the_marker_is_not_lost() -> None:
    command = Command(("true",))
    seen = CommandOutput(command)
    marker = command.marker.encode()
    assert seen.feed(command.begin + b"\nabc" + marker[:5]) + seen.rest() == b"abc" + marker[:5]


@given(CUTS)
def test_a_panic_is_noticed_in_pieces(cuts: list[int]) -> None:
    watch = PanicWatch()
    text = b"\r\n[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n[    1.1] CPU: 0\r\n"
    for piece in pieces(text, cuts):
        watch.feed(piece)
    assert watch.message.startswith("Kernel panic - not syncing")
    if not cuts:
        assert watch.message == "Kernel panic - not syncing: VFS: Unable to mount root fs"
    watch.clear()
    assert watch.message == ""
