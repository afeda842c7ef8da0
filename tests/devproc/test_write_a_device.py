"""docs/write-a-device.md tells the truth: its code is the project's, and its example runs."""

from __future__ import annotations

import inspect
import re
import struct
from pathlib import Path

import pytest

from devproc.properties import property_help
from devproc.registry import load_class

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "write-a-device.md").read_text()


def block(mark: str) -> str:
    """The code after a mark of the page."""
    return re.search(rf"<!-- {re.escape(mark)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)[1]


def test_the_files_shown_are_the_files():
    assert block("file devproc/rng.py") == (ROOT / "devproc" / "rng.py").read_text()
    assert block("class devproc/mailbox.py Mailbox") == inspect.getsource(load_class("mailbox"))


def test_the_help_shown_is_the_help():
    assert block("help mailbox").split("\n", 1)[1].rstrip() == property_help(load_class("mailbox"), "mailbox")


@pytest.mark.parametrize("sides", [None, "20"])
def test_your_own_device_runs(start, tmp_path, sides):
    (tmp_path / "mydev.py").write_text(block("own mydev.py"))
    front = start(f"{tmp_path}/mydev.py:Dice", {"sides": sides} if sides else {})
    front.negotiate()
    layout = front.add_queue(0, 8)
    front.driver_ok()
    struct.pack_into("<QIHH", front.ram.view, layout.desc, 0x8000_0000 + 0x20000, 500, 2, 0)
    front.native.publish(layout.driver, 0)
    front.notify(layout)
    assert front.wait_used(layout) == (0, 500)
    throws = bytes(front.ram.view[0x20000 : 0x20000 + 500])
    assert set(throws) == set(range(int(sides or 6)))
    assert front.stop() == 0
    assert front.logs == [f"dice of {sides or 6} sides"]


def test_every_method_named_on_the_page_exists():
    from devproc.device import MmioDevice, VirtioDevice
    from devproc.request import Request

    for name in re.findall(r"`request\.(\w+)", PAGE):
        assert name in Request.__slots__ or hasattr(Request, name), name
    for name in ("failed", "malformed", "negotiated", "config_written", "upgrade", "start", "reset"):
        assert (hasattr(VirtioDevice, name) and f"`{name}" in PAGE) or name in ("start", "reset")
    assert hasattr(MmioDevice, "mmio_read")
