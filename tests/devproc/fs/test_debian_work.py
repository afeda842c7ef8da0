"""Real work on shares: git, a C compiler and make in the Debian guest, while the shares' processes are killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from launcher.images import ImagesError, ensure, root
from launcher.images.programs import Programs, kept, programs_tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROJECT = Path(__file__).with_name("project")
SIZE = 160 << 20
DEADLINE = 400.0
TOOLS = Programs(
    "share-work",
    (
        *("libc6", "zlib1g", "libzstd1", "libpcre2-8-0", "git", "make"),
        *("libgmp10", "libisl23", "libmpc3", "libmpfr6", "cpp-14-riscv64-linux-gnu"),
        *("binutils-riscv64-linux-gnu", "libbinutils", "libctf0", "libsframe1", "libjansson4"),
    ),
    (
        *("usr/bin/git", "usr/bin/make", "usr/libexec/gcc/riscv64-linux-gnu/14/cc1"),
        *("usr/bin/riscv64-linux-gnu-as", "usr/bin/riscv64-linux-gnu-ld.bfd", "usr/bin/riscv64-linux-gnu-ar"),
    ),
)
SCRIPT = """
mkdir -p /mnt/tools /root/bin && mount -r /dev/vdb /mnt/tools && ln -s /mnt/tools/lib/* /lib/ || exit 1
for name in git-upload-pack git-receive-pack; do ln -s /mnt/tools/bin/git /root/bin/$name; done
export PATH=/root/bin:/mnt/tools/bin:$PATH HOME=/root GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE='2026-01-01 00:00:00 +0000'
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git config --global init.defaultBranch main

work() {
    cd "/mnt/$1" || return 1
    git init -q --bare store.git && git clone -q store.git first 2>&1 && cp -r project/. first && cd first || return 1
    git add -A && git commit -q -m begun && git push -q origin main || return 1
    echo "now $1"
    cd .. && git clone -q store.git work && cd work && make -s && make -s check || return 1
    [ -z "$(git status --porcelain)" ] || { git status --porcelain; return 1; }
    echo "/* the end */" >>crc.c && git mv words.c letters.c && git mv letters.c words.c && make -s check || return 1
    git commit -q -a -m changed && git push -q origin main && git -C ../first pull -q || return 1
    cmp crc.c ../first/crc.c || return 1
    git gc -q && git fsck --strict --no-progress && git -C ../store.git fsck --strict --no-progress || return 1
    [ "$(git -C ../store.git rev-list --count main)" = 2 ] && [ -z "$(git status --porcelain)" ] || return 1
    sync -f . || return 1
    echo "done $1"
}

for share in 9p virtiofs; do work $share || { echo "$share fails"; exit 1; }; done
"""


@pytest.fixture(scope="module")
def tools() -> Path:
    """A disk with git, make, a C compiler without its driver, assembler and linker."""

    def build(place: Path) -> None:
        root.build(programs_tree(TOOLS, lambda what, fraction: None), place, SIZE)

    try:
        ensure()
        return kept("share-work.ext4", (repr(TOOLS), str(SIZE)), build)
    except ImagesError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs the Debian images: {error}")


def project(directory: Path) -> None:
    """A copy of the project, with checks whose answers are known here."""
    shutil.copytree(PROJECT, directory)
    (directory / "checks").mkdir()
    choose = random.Random(1)
    for number, size in enumerate((0, 1, 4096, 4097, 30_000)):
        data = bytes(choose.choice(b"abc xyz\n\t") for _ in range(size))
        (directory / "checks" / f"{number}.in").write_bytes(data)
        words = len(data.split())
        (directory / "checks" / f"{number}.out").write_text(f"{zlib.crc32(data)}\n{words}\n{size}\n")


def kill_share(bulkhead: Any, id: str) -> None:
    rows = json.loads(bulkhead("ps", "--json", "--machine", "work").stdout)["processes"]
    os.kill(next(row["pid"] for row in rows if row["id"] == id), signal.SIGKILL)


def test_git_make_and_a_compiler_work_on_shares_that_are_killed(bulkhead: Any, tmp_path: Path, tools: Path) -> None:
    shares = {"9p": "fs0", "virtiofs": "fs1"}
    for protocol in shares:
        project(tmp_path / protocol / "project")
    options = [f"--share={tmp_path / protocol},tag={protocol},proto={protocol}" for protocol in shares]
    guest = subprocess.Popen(
        [*COMMAND, "run", "--name", "work", "--disk", f"{tools},ro", *options, "--", "sh", "-c", SCRIPT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    said = []
    try:
        assert guest.stdout is not None
        for line in guest.stdout:
            said.append(line.rstrip())
            if line.startswith("now "):
                kill_share(bulkhead, shares[line.split()[1]])
        assert guest.wait(DEADLINE) == 0, said
    finally:
        if guest.poll() is None:
            guest.terminate()
        guest.communicate(timeout=60)
    assert said.count("all checks pass") == 4 and "done 9p" in said and "done virtiofs" in said, said
    built = [(tmp_path / protocol / "work" / "sums").read_bytes() for protocol in shares]
    assert built[0] == built[1] and built[0].startswith(b"\x7fELF")
    for protocol in shares:
        assert (tmp_path / protocol / "work" / "crc.c").read_text().endswith("/* the end */\n")
