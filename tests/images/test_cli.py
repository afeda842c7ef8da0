"""What `bulkhead images` prints."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pytest

from launcher.cli.show import Progress
from launcher.images import ImagesError, cli, ready


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.run(parser.parse_args(words))


def test_the_images_are_listed_with_their_versions(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Debian 6.12.1-riscv64")
    assert "initramfs.cpio" in captured.out
    assert "build the root file system" in captured.err


def test_json_is_the_same_for_programs(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--json")
    described = json.loads(capsys.readouterr().out)
    assert Path(described["kernel"]).exists()
    assert described["packages"]["opensbi"] == "1"


def test_verify_finds_what_size_and_time_do_not_show(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import os

    run()
    images = ready()
    assert images is not None
    status = images.kernel.stat()
    images.kernel.chmod(0o644)
    images.kernel.write_bytes(b"y" * status.st_size)
    os.utime(images.kernel, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ImagesError):
        run("--verify")


def test_verify_fetches_nothing(host: Path) -> None:
    with pytest.raises(ImagesError, match="no complete set"):
        run("--verify")


def test_clean_removes_everything(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    run("--clean")
    assert ready() is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_progress_is_one_line_that_goes_away() -> None:
    terminal = Terminal()
    with Progress(terminal) as progress:
        progress("fetch", 0.0)
        progress("fetch", 1.0)
    text = terminal.getvalue()
    assert "\n" not in text
    assert "████████████████ 100%" in text
    assert text.endswith("\r\x1b[K")


def test_elsewhere_progress_is_a_line_for_each_step() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        for fraction in (0.0, 0.5, 1.0):
            progress("fetch", fraction)
        progress("build", None)
    assert stream.getvalue() == "fetch …\nbuild …\n"
