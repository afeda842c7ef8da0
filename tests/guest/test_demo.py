"""`bulkhead demo`, as somebody sees it who tries the project for the first time."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from conversation import BULKHEAD, Conversation, TerminalConversation

from launcher.cli.exitcodes import ExitCode
from launcher.cli.main import main
from launcher.images import Images
from launcher.inspect.bundles import bundles


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_debian_boots_twice_and_everything_holds(images: Images) -> None:
    """Without a terminal it runs to its end by itself; and it was Debian that booted."""
    with Conversation([*BULKHEAD, "demo"]) as demo:
        code, printed = demo.finish(timeout=380)
    assert code == 0, printed
    assert f"Debian {images.kernel_version}" in printed
    assert "shell ready, its root on a disk in blk0" in printed
    assert len(re.findall(r"kill -9 blk1 \(\d+\)  →  blk1 \d+ back in \d+ ms +death [1-5] of 5", printed)) == 5
    assert re.search(r"blk1 is now qcow2:data.qcow2 +a pause of \d+ ms", printed)
    assert "on the host data.qcow2 has the same data" in printed
    assert "read back after the second boot: 64 MiB, equal" in printed
    assert "nothing left behind" in printed
    assert len(set(re.findall(r"sha256 (\w+)…", printed))) == 1
    assert re.search(r"^ +core +core +\d+ +running", printed, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_on_a_terminal_the_console_is_handed_over(images: Images) -> None:
    with TerminalConversation([*BULKHEAD, "demo"]) as demo:
        demo.expect("the console is yours", timeout=380)
        demo.expect("# ")
        demo.type("stty size; uname -sm; exit\r")
        heard = demo.expect("nothing left behind")
        code, _ = demo.finish()
    assert "24 80" in heard
    assert "Linux riscv64" in heard
    assert code == 0


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_bundled_guest_shows_the_same() -> None:
    with Conversation([*BULKHEAD, "demo", "--guest", "bundled"]) as demo:
        code, printed = demo.finish(timeout=180)
    assert code == 0, printed
    assert len(re.findall(r"kill -9 blk0 \(\d+\)  →  blk0 \d+ back in \d+ ms", printed)) == 5
    assert "blk0 is now qcow2:data.qcow2" in printed
    assert "read back after the second boot: 64 MiB, equal" in printed
    assert len(set(re.findall(r"crc32 (\w+)", printed))) == 1
    assert bundles() == []  # of its own kills


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_on_a_terminal_the_bundled_guests_shell_is_handed_over() -> None:
    with TerminalConversation([*BULKHEAD, "demo", "--guest", "bundled"]) as demo:
        demo.expect("the console is yours", timeout=180)
        demo.type("echo over to you\r")
        demo.expect("\nover to you")
        demo.write(b"\x01x")
        demo.expect("nothing left behind")
        assert demo.finish()[0] == 0


def test_ctrl_c_ends_it_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with Conversation([*BULKHEAD, "demo", "--guest", "bundled"]) as demo:
        demo.expect("kernel entered")
        demo.process.send_signal(signal.SIGINT)
        code, printed = demo.finish()
    assert code == 124, printed
    scratch = tmp_path / "cache" / "bulkhead" / "scratch"
    assert [path.name for path in scratch.iterdir()] == [".lock"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_without_a_mirror_it_says_so_and_runs_the_bundled_guest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "apt.conf").write_text(
        'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "/dev/null";\n'
        'Dir::Etc::main "/dev/null";\nDir::Etc::parts "/dev/null";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    with Conversation([*BULKHEAD, "demo"]) as demo:
        heard = demo.expect("kernel entered", timeout=300)  # in an empty cache: the engine is compiled first
        demo.process.send_signal(signal.SIGINT)
        demo.finish()
    assert "no Debian guest: this host's apt knows no Debian mirror" in heard
    assert "the bundled guest" in heard


def test_a_cache_without_room_is_said_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3 << 20))
    assert main(["demo", "--guest", "bundled"]) == ExitCode.ERROR
    assert "has 3 MiB left; the demo takes 256" in capsys.readouterr().err
