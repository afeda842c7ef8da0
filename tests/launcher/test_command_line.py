"""The command line and TOML files: what is taken, what is refused, and in which words."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli import exitcodes
from launcher.cli import main as cli
from launcher.cli.verbs import GROUPS, PACKAGES, VERBS
from launcher.machine.options import RUN_OPTIONS, Given
from launcher.machine.values import parse_device, parse_disk, parse_memory, parse_serial
from proto.errors import ConfigError

HERE = Path("/there")


def given(value: object, option: str = "--x") -> Given:
    return Given(value, option, HERE)


def failed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The complaint of a command that must fail with bulkhead's own code."""
    assert cli.main(list(words)) == exitcodes.ExitCode.ERROR
    return capsys.readouterr().err.rstrip()


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("256M", 256 << 20), ("1G", 1 << 30), ("512", 512 << 20), (64, 64 << 20), ("1.5G", 3 << 29), ("2048k", 2 << 20)],
)
def test_memory_is_written_as_in_qemu(text: object, size: int) -> None:
    assert parse_memory(given(text)) == size


@pytest.mark.parametrize("text", ["", "lots", "256X", "0", "-1", "3T", "1001k", True])
def test_memory_that_cannot_be_is_refused(text: object) -> None:
    with pytest.raises(ConfigError):
        parse_memory(given(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.img", ("file:/there/a.img", None, {})),
        ("file:a.img,ro", ("file:/there/a.img", None, {"ro": "on"})),
        ("/x/a.img,id=data,serial=S1", ("file:/x/a.img", "data", {"serial": "S1"})),
        ("a,,b.img,ro", ("file:/there/a,b.img", None, {"ro": "on"})),
        ("delay:ms=5:qcow2:a.qcow2", ("delay:ms=5:qcow2:file:/there/a.qcow2", None, {})),
        ("snapshot:overlay=o:a.img", ("snapshot:overlay=/there/o:file:/there/a.img", None, {})),
        ("nbd://host/x,ro=off", ("nbd://host/x", None, {"ro": "off"})),
        ({"uri": "a.img", "ro": True, "id": "x"}, ("file:/there/a.img", "x", {"ro": True})),
    ],
)
def test_a_disk(text: object, expected: object) -> None:
    assert parse_disk(given(text)) == expected


def test_a_bare_path_is_a_raw_image_and_never_another(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"QFI\xfb")
    with pytest.raises(ConfigError, match="is a qcow2 image") as caught:
        parse_disk(given(f"{tmp_path}/x"))
    assert f"qcow2:{tmp_path}/x" in caught.value.hint
    assert parse_disk(given(f"file:{tmp_path}/x"))[0] == f"file:{tmp_path}/x"


@pytest.mark.parametrize(
    "text",
    ["", ",ro", "qcow:a.img", "delay:sm=5:a.img", "a.img,,,", "a.img,id=core", "a.img,id=has space", "a.img,id="],
)
def test_a_disk_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_disk(given(text))


def test_a_device_of_ones_own_is_found_from_the_current_directory() -> None:
    assert parse_device(given("./my.py:Mine,key=value,flag")) == (
        "/there/my.py:Mine",
        None,
        {"key": "value", "flag": "on"},
    )


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [("stdio", "fd", ""), ("pty", "pty", ""), ("none", "none", ""), ("file:log", "file", "/there/log")],
)
def test_a_serial_line(text: str, kind: str, path: str) -> None:
    assert (parse_serial(given(text)).kind, parse_serial(given(text)).path) == (kind, path)


@pytest.mark.parametrize("text", ["stdoi", "socket", "file:", "pty:x", ""])
def test_a_serial_line_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_serial(given(text))


# -- words for what is wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("run", "--dsik", "old.img"), "bulkhead: no option --dsik; did you mean --disk?"),
        (("run", "--dsik=old.img"), "bulkhead: no option --dsik; did you mean --disk?"),
        (("run", "--memmory", "1G"), "bulkhead: no option --memmory; did you mean --memory?"),
        (("run", "-kernl", "x"), "bulkhead: no option -kernl; did you mean --kernel?"),
        (("pss",), "bulkhead: no verb pss; did you mean ps?\n          See: bulkhead --help"),
        (("run", "--link", "word"), "bulkhead: --link word: expected words or messages; did you mean words?"),
        (("run", "--smp", "9", "--kernel", "/dev/null"), None),
        (("run", "--name", ""), "bulkhead: --name needs a value\n          See: bulkhead run --help"),
        (("completion", "ksh"), "bulkhead: completion ksh: expected bash, zsh or fish"),
        (
            ("swap", "blk0"),
            "bulkhead: swap: URI|NAME=VALUE is missing\n"
            "          Usage: bulkhead swap ID URI|NAME=VALUE… [--machine NAME] [--json]\n"
            "          For example: bulkhead swap blk0 qcow2:disk.qcow2",
        ),
        (
            ("keys",),
            "bulkhead: keys: create and DIR are missing\n"
            "          Usage: bulkhead keys create DIR\n"
            "          For example: bulkhead keys create keys",
        ),
        (("run", "--disk"), "bulkhead: --disk needs a value\n          See: bulkhead run --help"),
        (
            ("export", "x", "--to", "perfeto"),
            "bulkhead: --to perfeto: expected json, pcapng or perfetto; did you mean perfetto?\n"
            "          See: bulkhead export --help",
        ),
        (("chaos", "--minutes", "x"), "bulkhead: --minutes x: expected a number\n          See: bulkhead chaos --help"),
        (("run", "--sandbox", "maybe"), "bulkhead: --sandbox maybe: expected on, require or off"),
        (("ps", "--", "x"), "bulkhead: ps takes no COMMAND\n          See: bulkhead ps --help"),
        (("run", "--"), "bulkhead: no COMMAND after --\n          For example: bulkhead run -- uname -a"),
        (("--kernel",), "bulkhead: --kernel is an option of run\n          Try: bulkhead run --kernel …"),
    ],
)
def test_a_complaint_says_what_is_right(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], complaint: str | None
) -> None:
    text = failed(capsys, *words)
    assert text.startswith("bulkhead: ") and "Traceback" not in text
    if complaint is not None:
        assert text == complaint


def test_a_missing_kernel_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(capsys, "run", "--kernel", "/nowhere/Image") == "bulkhead: --kernel /nowhere/Image: no such file"


def test_an_unknown_device_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean rng?" in failed(capsys, "run", "--guest", "bundled", "--device", "rnd")


def test_a_device_file_without_a_class_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    text = failed(capsys, "run", "--guest", "bundled", "--device", "./mydev.py")
    assert text == "bulkhead: ./mydev.py: which class?\n          For example: ./mydev.py:MyDevice"


def test_two_devices_of_one_name_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run", "--guest", "bundled", "--disk", "a,id=x", "--disk", "b,id=x", "--dry-run")
    assert "two devices are called x" in failed(capsys, *words)


def test_more_devices_than_slots_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    disks = [word for number in range(9) for word in ("--disk", f"{number}.img")]
    assert "9 virtio devices; the board has 8 slots" in failed(capsys, "run", "--guest", "bundled", *disks, "--dry-run")


def test_contradictions_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    kernel = tmp_path / "Image"
    kernel.write_bytes(b"x")
    assert "exclude each other" in failed(capsys, "run", "--kernel", str(kernel), "--guest", "debian")
    assert "COMMAND runs in the Debian guest" in failed(capsys, "run", "--kernel", str(kernel), "--", "true")
    assert "COMMAND runs in the Debian guest" in failed(capsys, "run", "--guest", "bundled", "--", "true")
    assert "leaves no terminal" in failed(capsys, "run", "--guest", "bundled", "--detach", "--serial", "stdio")
    assert "--bios none" in failed(capsys, "run", "--bios", "none")
    assert "--root belongs to the Debian" in failed(capsys, "run", "--guest", "bundled", "--root", "my.ext4")


def test_a_traceback_only_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError):
        cli.main(["run", "--dsik", "x", "--debug"])


def test_a_full_disk_is_not_called_a_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cli, "overview", full)
    assert failed(capsys, "--help") == "bulkhead: no space left to write"


def test_orders_without_a_machine_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("ps", "stop", "logs"):
        assert failed(capsys, verb).splitlines()[0] == "bulkhead: no machine is running"
    assert "no machine named x is running" in failed(capsys, "stop", "--machine", "x")


# -- files -------------------------------------------------------------------------------------------------------------


def config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "vm.toml"
    path.write_text(text)
    return str(path)


def test_a_file_has_the_same_names_and_its_own_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = config(
        tmp_path,
        'name = "web"\nmemory = "64M"\nsmp = 2\nguest = "bundled"\ndisk = ["a.img,ro"]\n'
        '[[device]]\ndevice = "rng"\nid = "noise"\n',
    )
    text = printed(capsys, "run", "--config", path, "--disk", "/b.img", "--dry-run")
    assert "64 MiB · 2 harts" in text
    assert re.search(rf"blk0 .*slot 0, irq 1 +file:{re.escape(str(tmp_path))}/a.img, ro=on", text)
    assert re.search(r"blk1 .*slot 1, irq 2 +file:/b.img", text)
    assert re.search(r"noise +rng .*slot 2, irq 3", text)


def test_the_command_line_counts_more_than_the_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = config(tmp_path, 'memory = "64M"\nguest = "bundled"\n')
    assert "128 MiB" in printed(capsys, "run", "--config", path, "-m", "128M", "--dry-run")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("memroy = 1", "no key memroy; did you mean memory?"),
        ("dry-run = true", "no key dry-run"),
        ('smp = "2"', "expected a number"),
        ("detach = 1", "expected true or false"),
        ("kernel = []", "expected text"),
        ('link = "word"', "did you mean words?"),
        ("disk = [3]", "expected text or a table"),
        ("x = ", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, complaint: str) -> None:
    path = config(tmp_path, text)
    complained = failed(capsys, "run", "--config", path)
    assert complaint in complained and path in complained


# -- what it would do --------------------------------------------------------------------------------------------------


def test_dry_run_starts_nothing_and_shows_every_process(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("run", "--guest", "bundled", "--disk", "a.img", "--device", "rng", "--device", "mailbox", "--dry-run")
    rows = printed(capsys, *words).splitlines()
    assert [row.split()[0] for row in rows] == ["ID", "keeper", "core", "blk0", "rng0", "mailbox0"]
    assert "0x10010000, irq 12" in rows[-1]


def test_options_may_be_spelled_as_in_qemu(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "run", "-guest", "bundled", "-smp", "2", "-m", "64", "--dry-run")
    assert "64 MiB · 2 harts" in text


def test_the_memory_map_prints_itself(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "run", "--guest", "bundled", "--disk", "a.img", "--print-map")
    assert "virtio-mmio.0 (blk0)" in text and "0000000080000000-000000008fffffff" in text


def test_help_for_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert "logical_block" in printed(capsys, "run", "--device", "blk,help")
    assert "rng" in printed(capsys, "run", "--device", "help")


def test_help_for_ones_own_device_does_not_run_it_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    device = tmp_path / "mine.py"
    device.write_text(
        "import os, pathlib\n"
        "from devproc.device import VirtioDevice\n"
        "from devproc.properties import Property\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "class Mine(VirtioDevice):\n"
        "    '''Mine.'''\n"
        "    device_id = 4\n"
        "    key = Property(int, 3, 'a number')\n"
    )
    assert "key" in printed(capsys, "run", "--device", f"{device}:Mine,help")
    import os

    assert (tmp_path / "pid").read_text() != str(os.getpid())


def test_every_verb_and_option_is_in_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    overview = printed(capsys, "--help")
    assert {verb.group for verb in VERBS} == set(GROUPS)
    for verb in VERBS:
        assert f"\n  {verb.name} " in overview
        text = cli.make_parser(verb).format_help()
        assert verb.usage in text
    run_help = cli.make_parser(VERBS[0]).format_help()
    for option in RUN_OPTIONS:
        assert option.long in run_help
    for code in exitcodes.ExitCode:
        assert f"\n  {code.value} " in overview and f"\n  {code.value} " in run_help


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("images", "--help")])
def test_help_fits_into_eighty_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.suppress(SystemExit):
        cli.main(words)
    text = capsys.readouterr().out
    prose = [line for line in text.splitlines() if "bulkhead run --" not in line and "usage:" not in line]
    assert max(map(len, prose)) <= 80


def test_every_option_and_exit_code_is_documented() -> None:
    text = (Path(cli.__file__).parent.parent.parent / "docs" / "command-line.md").read_text()
    for option in RUN_OPTIONS:
        assert f"`{option.long}" in text, option.long
    for verb in VERBS:
        assert f"bulkhead {verb.name}" in text, verb.name
    for code in exitcodes.ExitCode:
        assert f"| {code.value} |" in text


@pytest.mark.parametrize(
    ("reason", "code", "expected"),
    [
        ("poweroff", 0, 0),
        ("quit", 0, 0),
        ("finisher", 0, 0),
        ("finisher", 7, 7),
        ("finisher", 256, 1),
        ("panic", 0, 123),
        ("killed", 0, 124),
        ("stopped", 0, 124),
        ("error", 0, 125),
        ("anything", 0, 125),
    ],
)
def test_exit_codes(reason: str, code: int, expected: int) -> None:
    assert exitcodes.exit_code(reason, code) == expected


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    import tomllib

    project = tomllib.loads((Path(cli.__file__).parent.parent.parent / "pyproject.toml").read_text())["project"]
    assert printed(capsys, "version") == f"bulkhead {project['version']}\n"


@pytest.mark.parametrize(
    ("shell", "check"), [("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])]
)
def test_completion_is_a_script_of_the_shell(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shell: str, check: list[str]
) -> None:
    text = printed(capsys, "completion", shell)
    for verb in VERBS:
        assert verb.name in text
    for option in RUN_OPTIONS:
        assert option.name in text
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here to read the script")
    path = tmp_path / "script"
    path.write_text(text)
    subprocess.run([*check, str(path)], check=True, timeout=60)


def test_bash_completes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(printed(capsys, "completion", "bash"))

    def complete(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        program = (
            f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _bulkhead; echo ${{COMPREPLY[@]}}"
        )
        answer = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, timeout=60)
        return answer.stdout.split()

    assert complete("bulkhead", "res") == ["restart"]
    assert complete("bulkhead", "run", "--mem") == ["--memory"]
    assert complete("bulkhead", "run", "--guest", "") == ["debian", "bundled"]
    assert complete("bulkhead", "run", "--", "--mem") == []
    assert complete("bulkhead", "disk", "re") == ["resize"]
    assert complete("bulkhead", "disk", "info", "c") == []  # a file, not an action
    assert complete("bulkhead", "disk", "create", "--format-version", "") == ["2", "3"]
    assert complete("bulkhead", "replay", "r") == []  # then bash completes files, as the script tells it to


def test_fish_completes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("needs fish")
    (tmp_path / "script").write_text(printed(capsys, "completion", "fish"))
    (tmp_path / "boot.rec").touch()

    def complete(line: str) -> list[str]:
        words = ["fish", "--no-config", "-c", f"source script; complete -C '{line}'"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
        return [answer.partition("\t")[0] for answer in done.stdout.splitlines()]

    assert complete("bulkhead res") == ["restart"]
    assert complete("bulkhead run --guest ") == ["bundled", "debian"]
    assert complete("bulkhead disk re") == ["resize"]
    assert "check" not in complete("bulkhead disk info c")  # a file, not an action
    assert complete("bulkhead replay boo") == complete("bulkhead disk info boo") == ["boot.rec"]


def test_doctor_knows_this_host(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["doctor", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} >= {"python", "shared memory", "packages"}
    for row in rows:
        assert row["state"] == "ok" or row["hint"]


def test_the_verbs_are_known_without_importing_what_they_do() -> None:
    program = (
        "import sys, launcher.cli.main; print(*sorted(name for name in sys.modules if name.startswith('launcher.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    tables = {name for package in PACKAGES for name in (f"launcher.{package}", f"launcher.{package}.verbs")}
    heavy = [
        name for name in done.stdout.split() if name not in tables and name.split(".")[1] not in ("cli", "machine")
    ]
    assert heavy == []
