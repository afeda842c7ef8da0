"""Shared folders in the Debian guest: an unmodified Linux mounts them, fills them, and outlives their process."""

import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.images import ImagesError, ensure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
COMMAND = [sys.executable, "-P", "-m", "launcher"]
PROTOCOLS = ["9p", "virtiofs"]


@pytest.fixture(scope="module", autouse=True)
def images():
    try:
        return ensure()
    except ImagesError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"needs the Debian images: {error}")


def fill(directory, seed=1):
    """A tree of 150 files in 20 directories, of many sizes, modes and times, with links."""
    choose = random.Random(seed)
    directory.mkdir()
    places = [directory]
    for number in range(20):
        place = choose.choice(places) / f"d{number}"
        place.mkdir(mode=choose.choice([0o755, 0o700, 0o775]))
        places.append(place)
    for number in range(150):
        path = choose.choice(places) / f"file {number} ü"
        path.write_bytes(choose.randbytes(choose.choice([0, 1, 100, 4096, 70000])))
        path.chmod(choose.choice([0o644, 0o600, 0o755, 0o444]))
    for number in range(10):
        (choose.choice(places) / f"link{number}").symlink_to(choose.choice(["../x", "file", "/etc/passwd"]))
    for place in places[::-1]:
        for path in place.iterdir():
            os.utime(path, (1_600_000_000, choose.randrange(1_000_000_000, 1_700_000_000)), follow_symlinks=False)
    return directory


def summary(directory):
    """Everything that a copy should have kept, by name. The owner's own permissions are always there on the host."""
    seen = {}
    for folder, folders, files in os.walk(directory):
        for path in (os.path.join(folder, name) for name in folders + files):
            status = os.lstat(path)
            name = os.path.relpath(path, directory)
            if stat.S_ISLNK(status.st_mode):
                seen[name] = os.readlink(path)
            elif stat.S_ISDIR(status.st_mode):
                seen[name] = (stat.S_IMODE(status.st_mode), int(status.st_mtime))
            else:
                with open(path, "rb") as file:
                    digest = hashlib.sha256(file.read()).hexdigest()
                seen[name] = (stat.S_IMODE(status.st_mode) | 0o600, int(status.st_mtime), digest)
    return seen


@pytest.mark.parametrize("proto", PROTOCOLS)
def test_a_tree_goes_in_and_out_unchanged_and_read_only_refuses(bulkhead, tmp_path, proto):
    before = fill(tmp_path / "read")
    (tmp_path / "work").mkdir()
    script = """
        cp -a /mnt/read /root/tree && cp -a /root/tree /mnt/work/copy || exit 1
        for tree in read work/copy; do
            (cd /mnt/$tree && find . -type f -exec stat -c '%n %a %u %g %s %Y' {} + | sort | sha256sum)
        done
        cd /mnt/work/copy && chown 1000:1000 d0 && stat -c '%u:%g' d0
        touch /mnt/read/new 2>&1; rm -r /mnt/read/d0 2>&1 | head -n 1; echo x >/mnt/read/d0/x
        sync
    """
    done = bulkhead(
        *(
            "run",
            "--share",
            f"{before},tag=read,ro,proto={proto}",
            "--share",
            f"{tmp_path}/work,tag=work,proto={proto}",
        ),
        *("--", "sh", "-c", script),
        timeout=280,
    )
    assert "1000:1000" in done.stdout and done.stdout.count("Read-only file system") == 3, done.stdout + done.stderr
    sums = [line for line in done.stdout.splitlines() if line.endswith("  -")]
    assert len(sums) == 2 and sums[0] == sums[1]
    copied = summary(tmp_path / "work" / "copy")
    wanted = summary(before)
    assert copied.keys() == wanted.keys()
    assert copied == wanted
    assert not (before / "new").exists()


class Guest:
    """A guest that runs a script and says "ready"; a line of input lets it go on."""

    def __init__(self, share, proto, script):
        command = [*COMMAND, "run", "--name", "shared", "--share", f"{share},tag=work,proto={proto}", "--", "sh", "-c"]
        self.process = subprocess.Popen([*command, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def until(self, line):
        """What is printed up to this line."""
        said = []
        for text in self.process.stdout:
            if text.strip() == line:
                return said
            said.append(text.strip())
        raise AssertionError(f"the guest ended before {line!r}: {said}; status {self.process.wait(60)}")

    def go_on(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=60)


def pid_of_share(bulkhead):
    rows = json.loads(bulkhead("ps", "--json", "--machine", "shared").stdout)["processes"]
    return next(row["pid"] for row in rows if row["id"] == "fs0")


def free_for_the_host(path):
    """Could a program of the host lock it?"""
    with open(path, "r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def locker(path):
    """A program for the guest that locks a file."""
    compiler = shutil.which("riscv64-unknown-elf-gcc")
    if compiler is None and not os.environ.get("CI"):
        pytest.skip("needs riscv64-unknown-elf-gcc")
    source = Path(__file__).with_name("locker.c")
    how = ["-O1", "-static", "-nostdlib", "-march=rv64gc", "-mabi=lp64d"]
    subprocess.run([compiler, *how, "-o", str(path), str(source)], check=True)


@pytest.mark.parametrize("proto", PROTOCOLS)
def test_a_mount_with_all_that_is_open_and_locked_outlives_its_process(bulkhead, tmp_path, proto):
    """The host's changes are seen; an open file, one without a name and a lock are there after kill -9."""
    share = tmp_path / "share"
    share.mkdir()
    locker(share / "locker")
    (share / "f").write_text("old\n")
    script = """
        cd /mnt/work; mkdir d; exec 5<>d/open; echo before >&5; cat f; echo ready; read line
        cat f; ls -1; echo listed; echo content >gone; exec 6<>gone; rm gone; touch file; ./locker file
        cat f new; echo after >&5; cat d/open; mv d e; cat e/open; mkdir -p x/y; rm -r x; cat <&6; echo done
    """
    with Guest(share, proto, script) as guest:
        assert guest.until("ready") == ["old"]
        (share / "f").write_text("new contents\n")
        (share / "new").write_text("another\n")
        guest.go_on()
        assert guest.until("listed") == ["new contents", "d", "f", "locker", "new"]
        assert guest.until("locked") == []
        assert not (share / "gone").exists() and not free_for_the_host(share / "file")
        os.kill(pid_of_share(bulkhead), signal.SIGKILL)
        assert not free_for_the_host(share / "file")
        guest.go_on()
        said = guest.until("done")
        assert free_for_the_host(share / "file")
    assert said == ["new contents", "another", "before", "after", "before", "after", "content"]
    assert (share / "e" / "open").read_text() == "before\nafter\n"
    assert not (share / "x").exists()


@pytest.mark.parametrize("proto", PROTOCOLS)
def test_a_copy_goes_on_while_its_process_is_killed(bulkhead, tmp_path, proto):
    """Killed three times, each in the middle of a copy: nothing fails, nothing is missing, nothing is left."""
    share = tmp_path / "share"
    share.mkdir()
    before = fill(share / "in", seed=2)
    script = """
        cp -a /mnt/work/in /root/tree && cd /mnt/work || exit 1
        echo ready; read line
        for copy in 1 2 3; do
            cp -a /root/tree copy$copy && mv copy$copy out$copy && rm -r out$copy/d0 || exit 1
        done
    """
    with Guest(share, proto, script) as guest:
        assert guest.until("ready") == []
        guest.go_on()
        for copy in ("1", "2", "3"):
            places = (share / f"copy{copy}", share / f"out{copy}")
            deadline = time.monotonic() + 100
            while not any(place.exists() and len(summary_names(place)) > 40 for place in places):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            pid = pid_of_share(bulkhead)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
        assert guest.process.wait(200) == 0
    wanted = {name: seen for name, seen in summary(before).items() if name.split("/")[0] != "d0"}
    for copy in ("out1", "out2", "out3"):
        copied = summary(share / copy)
        assert copied.keys() == wanted.keys()
        assert {n: s for n, s in copied.items() if len(s) == 3} == {n: s for n, s in wanted.items() if len(s) == 3}


def summary_names(directory):
    """Every name in a tree that may be changing."""
    return [name for _, folders, files in os.walk(directory) for name in folders + files]
