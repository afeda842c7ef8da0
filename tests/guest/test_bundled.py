"""The bundled guest, in every way there is to start it, and its devices in processes of their own."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from conversation import BULKHEAD, Conversation

PARTS = ("exceptions", "misaligned", "atomics", "new code", "timer", "paging")


def run(*options: str, script: str, machine: tuple[str, ...] = ("--guest", "bundled")) -> tuple[int, str]:
    """Boot it with a script in its bootargs, to its end."""
    with Conversation([*BULKHEAD, "run", "-m", "64M", *machine, *options, "--append", f"cmd={script}"]) as guest:
        return guest.finish()


def passed_self_test(printed: str) -> bool:
    return all(re.search(rf"^{part} +ok\r?$", printed, re.MULTILINE) for part in PARTS)


def test_it_boots_under_the_built_in_sbi() -> None:
    code, printed = run(script="selftest;exit")
    assert passed_self_test(printed), printed
    assert code == 0


def test_it_boots_in_m_mode_without_firmware(elf: Path) -> None:
    code, printed = run(machine=("--bios", "none", "--kernel", str(elf)), script="selftest;exit")
    assert passed_self_test(printed), printed
    assert code == 0


def test_it_boots_from_a_disk_through_its_boot_sector(boot_disk: Path) -> None:
    with Conversation([*BULKHEAD, "run", "--boot", "disk", "--disk", str(boot_disk)]) as guest:
        guest.expect("help says what there is")
        guest.expect("> ")
        guest.type("selftest;exit 3\r")
        code, printed = guest.finish()
    assert passed_self_test(printed), printed
    assert code == 3


def test_a_disk_that_cannot_be_started_is_told_by_the_boot_sector(tmp_path: Path, boot_disk: Path) -> None:
    disk = tmp_path / "short.img"
    disk.write_bytes(boot_disk.read_bytes()[:1024])  # says that more follows than does
    with Conversation([*BULKHEAD, "run", "--boot", "disk", "--disk", str(disk)]) as guest:
        code, printed = guest.finish()
    assert "boot: I/O error" in printed
    assert code == 253


@pytest.mark.slow
def test_it_boots_under_debians_opensbi(images: object) -> None:
    code, printed = run("--bios", "opensbi", script="selftest;exit")
    assert "OpenSBI v" in printed
    assert passed_self_test(printed), printed
    assert code == 0


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_its_exit_code_is_the_commands(code: int) -> None:
    assert run(script=f"exit,{code}")[0] == code


def test_without_a_code_it_exits_with_the_last_commands_status() -> None:
    assert run(script="peek,0xe000000;exit")[0] == 1


def test_a_panic_ends_the_machine_and_says_why() -> None:
    code, printed = run(script="panic,because")
    assert "panic: because" in printed
    assert code == 255


def test_an_unexpected_exception_shows_registers_and_ends_the_machine() -> None:
    code, printed = run(script="dump,0xe000000")
    assert "load access fault (5) at pc" in printed
    assert re.search(r" a0 [0-9a-f]{16}", printed)
    assert code == 255


@pytest.mark.parametrize("ring", ["", " ring=plain"], ids=["event-idx and indirect", "plain"])
def test_what_it_writes_to_a_disk_it_reads_back(disk: Path, ring: str) -> None:
    code, printed = run("--disk", str(disk), script=f"verify,8,5;exit{ring}")
    sums = re.findall(r"(?:filled|checked) 8 MiB .* crc32 (\w+)", printed)
    assert len(sums) == 2, printed
    assert sums[0] == sums[1]
    assert code == 0
    code, printed = run("--disk", str(disk), script=f"check,8,5;exit{ring}")
    assert sums[0] in printed
    assert code == 0


def test_it_notices_data_that_it_did_not_write(disk: Path) -> None:
    assert run("--disk", str(disk), script="fill,1,5;exit")[0] == 0
    with open(disk, "r+b") as file:
        file.seek(4711)
        file.write(b"?")
    code, printed = run("--disk", str(disk), script="check,1,5;exit")
    assert "wrong data at byte 4704" in printed
    assert code == 1


def test_a_disks_other_requests(disk: Path) -> None:
    script = "write,3,hello;flush;read,3;zero,3,1;read,3;discard,0,8;diskid;exit"
    code, printed = run("--disk", str(disk), script=script)
    assert "hello" in printed
    assert printed.count("00000600  00 00 00 00") == 1
    assert "disk.img" in printed
    assert code == 0


def test_a_read_only_disk_refuses_writes(disk: Path) -> None:
    code, printed = run("--disk", f"{disk},ro", script="disk;write,0,x;exit")
    assert "read-only" in printed
    assert "I/O error" in printed
    assert code == 1


def test_a_sector_behind_the_end_is_an_error_and_the_disk_goes_on(disk: Path) -> None:
    code, printed = run("--disk", str(disk), script="read,131072;read,131071;exit")
    assert "read at sector 131072: I/O error" in printed
    assert code == 0


def test_disks_are_in_the_order_given(tmp_path: Path) -> None:
    options = []
    for number, mebibytes in enumerate((1, 2, 3)):
        path = tmp_path / f"{number}.img"
        path.write_bytes(bytes(mebibytes << 20))
        options += ["--disk", str(path)]
    _, printed = run(*options, script="disk;exit")
    assert re.findall(r"disk (\d): (\d+) sectors", printed) == [("0", "2048"), ("1", "4096"), ("2", "6144")]


def test_random_bytes_come_and_differ() -> None:
    code, printed = run("--device", "rng", script="rng,16;rng,16;exit")
    lines = re.findall(r"^00000000  ([0-9a-f ]+)\|", printed, re.MULTILINE)
    assert len(lines) == 2, printed
    assert lines[0] != lines[1]
    assert code == 0


def test_a_device_that_is_not_virtio_gives_each_word_back_once() -> None:
    words = ",".join(str(number) for number in range(1, 16))
    code, printed = run("--device", "mailbox", script=f"mailbox,{words};mailbox,{words};exit")
    answers = re.findall(r"room for 16, 15 waiting; (\d+) interrupts?, received ([\d ]+)", printed)
    assert [numbers.strip() for _, numbers in answers] == [words.replace(",", " ")] * 2, printed
    assert all(int(interrupts) == 1 for interrupts, _ in answers), "a level that was completed too early fires again"
    assert code == 0


def test_the_shell_takes_a_long_paste_whole() -> None:
    """10 kB typed at once, faster than they are served: every line arrives, in order."""
    lines = [f"echo line {number} {'x' * 40}" for number in range(200)]
    with Conversation([*BULKHEAD, "run", "--guest", "bundled"]) as guest:
        guest.expect("> ")
        guest.type("\r".join(lines) + "\rexit 9\r")
        code, printed = guest.finish()
    assert code == 9
    assert re.findall(r"^line (\d+) x{40}\r?$", printed, re.MULTILINE) == [str(number) for number in range(200)]


def test_editing_a_line() -> None:
    with Conversation([*BULKHEAD, "run", "--guest", "bundled"]) as guest:
        guest.expect("> ")
        guest.type("echo wrong\x15echo rignt\x7f\x7f\x7fght\r")
        guest.expect("\nright")
        guest.type("\x1b[A\r")  # the line before, again
        guest.expect("\nright")
        guest.type("exit 0\r")
        assert guest.finish()[0] == 0


def test_an_idle_guest_uses_next_to_no_cpu() -> None:
    """No tick, and WFI sleeps: a sleeping guest costs its core process next to nothing."""
    import json
    import subprocess
    import time

    import psutil

    with Conversation([*BULKHEAD, "run", "--guest", "bundled", "--name", "idle"]) as guest:
        guest.expect("> ")
        words = [*BULKHEAD, "ps", "--json", "--machine", "idle"]
        end = time.monotonic() + 60
        while True:
            rows = json.loads(subprocess.run(words, capture_output=True, check=True, timeout=60).stdout)["processes"]
            if all(row["state"] != "starting" for row in rows):
                break
            assert time.monotonic() < end, rows
        processes = [psutil.Process(row["pid"]) for row in rows]
        before = sum(sum(process.cpu_times()[:2]) for process in processes)
        began = time.monotonic()
        time.sleep(1.0)  # the time over which it is measured
        used = sum(sum(process.cpu_times()[:2]) for process in processes) - before
        assert used / (time.monotonic() - began) < 0.05
        guest.process.send_signal(signal.SIGTERM)
        guest.finish()
