"""What stands on the screen fits into it, and other readers get all of it."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios
from collections.abc import Iterator
from typing import TextIO

import pytest

from launcher.cli import show

LONG = "linux-image-6.12.107+deb13-riscv64, busybox-static, opensbi, u-boot-qemu"


@pytest.fixture
def screen() -> Iterator[TextIO]:
    """A terminal of 40 columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    with open(slave, "w", encoding="utf-8") as stream:
        yield stream
    os.close(master)


def test_a_line_of_a_table_ends_where_the_terminal_does(screen: TextIO) -> None:
    assert show.cut(LONG, screen) == LONG[:39] + "…"
    assert show.cut("short", screen) == "short"


def test_what_is_no_terminal_gets_the_whole_line() -> None:
    assert show.cut(LONG, io.StringIO()) == LONG
    with open(os.devnull, "w") as nothing:
        assert show.cut(LONG, nothing) == LONG


def test_a_progress_line_fits_into_eighty_columns() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    show.Progress(stream)(LONG, 1.0)
    drawn = stream.getvalue().removeprefix("\r\x1b[K")
    assert len(drawn) <= 80 and ",…" not in drawn and drawn.endswith("100%")


def test_without_a_terminal_a_step_is_a_line() -> None:
    stream = io.StringIO()
    progress = show.Progress(stream)
    for fraction in (0.0, 0.5, 1.0):
        progress(LONG, fraction)
    assert stream.getvalue() == f"{LONG} …\n"
