"""A disk on an encrypted web server behind a guest: read through the sandbox and the outlet, killed and come again."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from authority import Authority

sys.path.append(str(Path(__file__).resolve().parent.parent / "devproc" / "blk"))
from web_server import Server

PROMPT = b"> "
WORD = b"from the web"


@pytest.mark.slow
def test_a_guest_reads_it_and_what_it_writes_stays_here(start: Callable[..., Any], tmp_path: Path) -> None:
    authority, server = Authority(), Server()
    server.encrypt(authority.server(tmp_path / "server"), authority.client(tmp_path / "client") / "ca-cert.pem")
    content = bytearray(random.Random(1).randbytes(4 << 20))
    content[8 * 512 : 8 * 512 + len(WORD)] = WORD
    server.files["/disk.img"] = bytes(content)
    try:
        where = f"{server.url.removeprefix('https:')}/disk.img"
        machine = start("--disk", f"https:certificates={tmp_path}/client:{where}", "--name", "web")
        machine.expect(PROMPT)
        machine.type("write 9 bulkhead\n")
        machine.expect(PROMPT)
        os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
        machine.type("read 8 2\n")
        seen = machine.expect(PROMPT)
        assert WORD in seen and b"bulkhead" in seen
        machine.close()
        assert server.files["/disk.img"] == content
    finally:
        server.close()
