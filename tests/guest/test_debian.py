"""An unmodified Debian kernel: with the initramfs alone, and with its root on a disk that lives in another process."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from conversation import BULKHEAD, Conversation

from launcher.images import KERNEL_COMMAND_LINE, Command, Images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# What a kernel says when something is wrong.
WARNINGS = re.compile(r"WARNING:|BUG:|Oops|Call Trace|tainted|I/O error|blocked for more|soft lockup|rcu: INFO")


def in_debian(*command: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
    """Run a command in the Debian guest: its exit status and output."""
    with Conversation([*BULKHEAD, "run", *options, "--", *command]) as guest:
        return guest.finish(timeout=250)


def test_it_is_debian_that_boots(images: Images) -> None:
    code, printed = in_debian("uname", "-srvm")
    assert code == 0
    assert printed.startswith(f"Linux {images.kernel_version}")
    assert "Debian" in printed
    assert "riscv64" in printed


def test_three_boots_are_alike(images: Images) -> None:
    """The same modules, devices and mounts each time, the root on vda, and no warning."""
    script = "mount; lsmod | cut -d' ' -f1 | sort; ls /dev | sort; dmesg | cut -d']' -f2-"
    boots = []
    for _ in range(3):
        code, printed = in_debian("sh", "-c", script)
        assert code == 0
        assert "/dev/vda on / type ext4 (rw" in printed
        assert not WARNINGS.search(printed), WARNINGS.search(printed)
        boots.append(re.sub(r"\d+", "N", printed).splitlines())  # times, sizes and addresses vary
    stable = [set(lines) for lines in boots]
    assert stable[0] & stable[1] == stable[0] & stable[2]
    assert all(len(stable[0] ^ other) < 12 for other in stable[1:]), stable[0] ^ stable[1]


def test_the_initramfs_alone_gives_a_shell(images: Images) -> None:
    with Conversation([*BULKHEAD, "run", "--guest", "debian", "--initrd", str(images.initrd)]) as guest:
        guest.expect("# ", timeout=200)
        guest.type("mount | head -n 1; uname -r; dmesg | grep -c virtio; exit\r")
        code, printed = guest.finish(timeout=100)
    assert images.kernel_version in printed
    assert "reboot: Power down" in printed
    assert not WARNINGS.search(printed)
    assert code == 0


def test_the_kernel_complains_of_nothing_that_it_does_not_complain_of_on_qemu(
    images: Images, qemu: str, tmp_path: Path
) -> None:
    script = "dmesg -r | grep -E '^<[0-4]>' | cut -d']' -f2-"
    _, here = in_debian("sh", "-c", script)
    command = Command(["sh", "-c", script])
    initrd = tmp_path / "initrd"
    initrd.write_bytes(images.initrd.read_bytes() + command.archive())
    root = tmp_path / "root.ext4"
    images.copy_root(root)
    words = [qemu, "-machine", "virt", "-m", "256M", "-nographic", "-monitor", "none", "-serial", "stdio", "-no-reboot"]
    words += ["-global", "virtio-mmio.force-legacy=false", "-kernel", str(images.kernel), "-initrd", str(initrd)]
    words += ["-append", f"{KERNEL_COMMAND_LINE} root=/dev/vda rw"]
    words += ["-drive", f"if=none,id=d0,file={root},format=raw", "-device", "virtio-blk-device,drive=d0"]
    there = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=200, check=False).stdout
    begun = there.index(command.begin)
    ended = command.end.search(there, begun)
    assert ended is not None
    known = {normal(line) for line in there[begun : ended.start()].decode(errors="replace").splitlines()}
    new = [line for line in here.splitlines() if line.strip() and normal(line) not in known]
    assert not new, new


def normal(line: str) -> str:
    """A line of dmesg without what differs between two boots of one kernel: numbers."""
    return re.sub(r"0x[0-9a-f]+|\d+", "N", line).strip()


def test_what_it_writes_is_there_after_the_next_boot(images: Images, tmp_path: Path) -> None:
    """A file on the root disk, kept with --root, and e2fsck finds no fault with it."""
    options = ("--root", str(tmp_path / "root.ext4"))
    write = "dd if=/dev/urandom of=/root/data bs=64k count=64 2>/dev/null; sha256sum /root/data"
    code, written = in_debian("sh", "-c", write, options=options)
    assert code == 0
    code, read = in_debian("sh", "-c", "sha256sum /root/data", options=options)
    assert code == 0
    assert read.strip() == written.strip()
    from launcher.images.root import find_tool

    check = subprocess.run([find_tool("e2fsck"), "-fn", options[1]], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout


@pytest.mark.parametrize("status", [0, 1, 7, 121])
def test_a_commands_status_is_the_exit_code(images: Images, status: int) -> None:
    assert in_debian("sh", "-c", f"exit {status}") == (status, "")


def test_a_commands_output_comes_byte_for_byte(images: Images) -> None:
    code, printed = in_debian("printf", r"no newline, a tab\t, \303\274, $HOME 'quoted'")
    assert (code, printed) == (0, "no newline, a tab\t, ü, $HOME 'quoted'")


def test_a_kernel_panic_has_its_own_exit_code(images: Images) -> None:
    code, printed = in_debian("sh", "-c", "echo c >/proc/sysrq-trigger")
    assert "sysrq triggered crash" in printed
    assert code == 123


@pytest.mark.parametrize("mode", ["s", "m"])
def test_u_boot_reaches_its_prompt_and_reads_a_file_from_the_disk(images: Images, tmp_path: Path, mode: str) -> None:
    root = tmp_path / "root.ext4"
    images.copy_root(root)
    firmware = ("--kernel", str(images.u_boot_s)) if mode == "s" else ("--bios", str(images.u_boot_m))
    with Conversation([*BULKHEAD, "run", *firmware, "--disk", str(root)]) as guest:
        guest.expect("stop autoboot")
        guest.type("\r")
        guest.expect("=> ")
        guest.type("load virtio 0 0x84000000 /etc/hosts\r")
        guest.expect("39 bytes read")
        guest.expect("=> ")
        guest.type("md.b 0x84000000 0x20\r")
        guest.expect("127.0.0.1 localh")
        guest.type("poweroff\r")
        assert guest.finish()[0] == 0
