"""An encrypted disk behind a guest, its process in its sandbox, killed and come again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devproc.blk.backend import open_backend

PROMPT = b"> "


@pytest.mark.slow
@pytest.mark.parametrize("kdf", ["pbkdf2", "argon2id"])
def test_a_guest_reads_and_writes_it(start: Callable[..., Any], tmp_path: Path, wait_until: Any, kdf: str) -> None:
    pytest.importorskip("cryptography", reason="needs the Python library cryptography")
    if shutil.which("cryptsetup") is None:
        pytest.skip("needs cryptsetup: apt install cryptsetup-bin")
    path, key = tmp_path / "disk.luks", tmp_path / "key"
    key.write_text("secret\n")
    path.write_bytes(bytes(20 << 20))
    cost = ["--pbkdf-memory", "65536", "--pbkdf-parallel", "1"] if kdf == "argon2id" else []
    rounds = "4" if kdf == "argon2id" else "1000"
    words = ["--pbkdf", kdf, "--pbkdf-force-iterations", rounds, *cost, str(path)]
    subprocess.run(["cryptsetup", "-q", "luksFormat", *words], input=b"secret", check=True, timeout=60)
    uri = f"luks:secret={key}:{path}"
    machine = start("--disk", uri, "--name", "locked")
    machine.expect(PROMPT)
    machine.type("write 8 bulkhead\n")
    machine.expect(PROMPT)
    os.kill(machine.row("blk0")["pid"], signal.SIGKILL)
    machine.type("read 8\n")
    assert b"bulkhead" in machine.expect(PROMPT)
    machine.type("flush\n")
    machine.expect(PROMPT)
    machine.close()
    disk = open_backend(f"{uri},ro")
    data = bytearray(4096)
    disk.preadv([memoryview(data)], 4096)
    disk.close()
    assert b"bulkhead" in data and b"bulkhead" not in path.read_bytes()
