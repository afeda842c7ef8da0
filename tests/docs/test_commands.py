"""Every command shown in the documentation is run: by this test, or by the test that it names.

Commands are the lines that begin with `$ ` in fenced blocks, and the indented lines that begin with one of the words of
`WORDS`. They run in a directory that has what the documentation assumes: an image, a device of one's own.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from devproc.blk import qcow2_tools
from launcher.images import ImagesError, ensure

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "guest").glob("*.md")])
PROMPT = b"bulkhead:~# "  # of the Debian guest's shell
VERBS = (
    "run|ps|trace|keys|logs|stop|pause|cont|crashes|restart|swap|mirror|commit|demo|chaos|images|doctor|completion|version"
    "|qmp|monitor|attach|break|held|step|go|drop|fail|change|queue|debug|record|replay|export"
)
WORDS = (f"bulkhead ({VERBS})", "make", "python", "eval", "echo", "git", "printf")

# Shown by a test or a job of their own: they take long, need another tree, or would run this very test.
ELSEWHERE = {
    r"^make (demo|test|quick|lint|bench|docs)\b": "the Makefile's targets: CI runs make lint and make test",
    r"^bulkhead demo\b": "tests/guest/test_demo.py",
    r"^bulkhead chaos --(minutes|seed)": "tests/chaos",
    r"^python -m pytest": "the test runner itself",
    r"^python -m tests\.fuzz": "tests/fuzz/test_fuzz_targets.py",
    r"^python -m bench": "tests/bench",
    r"riscv-tests": "tests of others, fetched by hand: docs/testing.md says so",
    r"pjdfstest|^python tests/share_runs\.py": "the same, and they take an hour",
    r"^qmp-shell": "tests/qmp/test_qmp_machine.py",
    r"^bulkhead record\b": "tests/launcher/test_record.py: it follows a machine that runs",
    r"^bulkhead (replay|export)\b": "tests/record, with recordings of their own",
    r"^bulkhead (trace|keys)\b": "tests/launcher/test_trace.py, test_trace_tap.py: they follow a machine that runs",
    r"^bulkhead commit\b": "tests/launcher/test_commit_verb.py: it needs a machine on an overlay",
    r"^bulkhead (step|go|drop|fail|change|debug|attach)\b": "tests/launcher/test_breaks.py, test_attach.py",
    r"^bulkhead break (--file|net0)|^bulkhead break .*--rule": "test_breaks.py, tests/net/test_net_breaks.py",
    r"--faults": "tests/launcher/test_breaks.py",
    r"^bulkhead images --clean": "tests/images, with a cache of its own",
    r"^make -C guest|^make -C bench/guest": "tests/guest/test_rebuild.py",
}


def shown():
    """(page, line, command) of every command, once each."""
    seen = set()
    for page in PAGES:
        fenced = False
        for number, line in enumerate(page.read_text().splitlines(), 1):
            fenced = fenced != line.lstrip().startswith("```")
            command = None
            if fenced and line.startswith("$ "):
                command = line[2:]
            elif not fenced and re.match(r"    (" + "|".join(WORDS) + r")\b", line):
                command = line.strip()
            if command is None:
                continue
            command = re.sub(r"\s+#.*$", "", command)
            if command not in seen and not any(re.search(pattern, command) for pattern in ELSEWHERE):
                seen.add(command)
                together = [pytest.mark.xdist_group("servers")] if "/tmp/" in command else []
                yield pytest.param(command, id=f"{page.name}:{number}", marks=together)


@pytest.fixture(scope="module")
def debian():
    """The documentation takes the Debian guest as fetched."""
    try:
        return ensure()
    except ImagesError as error:
        pytest.skip(f"no Debian guest: {error}")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory as the documentation assumes it, with `bulkhead` in the path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("bulkhead", "-P -m launcher"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", os.environ.get("HOME", "/root"))
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")))
    work = tmp_path / "work"
    work.mkdir()
    with open(work / "data.img", "wb") as image:
        image.truncate(8 << 20)
    qcow2_tools.create(str(work / "other.qcow2"), 8 << 20)
    (work / "mydev.py").write_text(own_device())
    return work


def own_device():
    """The file that docs/write-a-device.md ends with, its class also under the name that other pages use."""
    page = (ROOT / "docs" / "write-a-device.md").read_text()
    source = re.search(r"<!-- own mydev.py -->\n```python\n(.*?)```", page, re.S)[1]
    return source + "\n\nMyDevice = " + re.search(r"class (\w+)", source)[1] + "\n"


def needs_machine(command):
    """Does the verb concern a machine that runs already?"""
    return re.match(
        r"bulkhead (ps|break|held|queue|logs|stop|pause|cont|crashes|restart|swap|mirror|qmp|monitor)\b", command
    )


# Servers that a command needs, by their sockets: as the page shows them, on what they are shown to serve.
SERVERS = {
    "/tmp/vm.sock": (
        "qemu-img convert -f raw -O vmdk data.img machine.vmdk",
        "qemu-nbd --fork --persistent --socket=/tmp/vm.sock --format=vmdk machine.vmdk",
    ),
    "/tmp/z.sock": (
        f'{sys.executable} -c \'import lzma; open("disk.img.xz", "wb").write(lzma.compress(bytes(1 << 20)))\'',
        "nbdkit --unix /tmp/z.sock --filter=xz file disk.img.xz",
    ),
}


def wanted_servers(command):
    """The sockets of the servers that the command is a client of; those that it starts itself do not count."""
    return [socket for socket in SERVERS if socket in command and command.startswith("bulkhead")]


def is_console(command):
    """Does the command end in a guest's console?"""
    elsewhere = r" -- |help|--dry-run|--print-map|--detach|cmd="
    return re.match(r"bulkhead run\b", command) and not re.search(elsewhere, command)


def console(command, place, environment):
    """Run a command that ends in a guest's console: power the guest off at its prompt. Returns the exit status."""
    guest = subprocess.Popen(
        ["bash", "-c", command], cwd=place, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    said = b""
    while PROMPT not in said:
        more = guest.stdout.read1(4096)
        assert more, f"{command} ended before a prompt:\n{said.decode(errors='replace')[-2000:]}"
        said += more
    guest.stdin.write(b"poweroff -f\n")
    guest.stdin.flush()
    guest.stdout.read()
    return guest.wait(60)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", list(shown()))
def test_a_command_of_the_documentation_works(command, debian, place, tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path)} if ">" in command else dict(os.environ)
    for directory in (".config/fish/completions", ".zfunc"):
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)

    def run(text, **options):
        return subprocess.run(
            ["bash", "-c", text], cwd=place, env=environment, capture_output=True, text=True, timeout=240, **options
        )

    for socket in wanted_servers(command):
        for line in SERVERS[socket]:
            started = run(f"{{ {line}; }} >server.log 2>&1")
            assert started.returncode == 0, (place / "server.log").read_text()
    if needs_machine(command):
        started = run("bulkhead run --guest bundled --disk data.img --detach", stdin=subprocess.DEVNULL)
        assert started.returncode == 0, started.stderr
    try:
        if "--watch" in command or " -f" in command:
            done = run(f"timeout --signal=INT 5 {command}; test $? -eq 124 -o $? -eq 0 -o $? -eq 130")
        elif is_console(command):
            assert console(command, place, environment) == 0
            return
        else:
            done = run(command, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    finally:
        for directory in (Path(os.environ["XDG_RUNTIME_DIR"]) / "bulkhead").glob("*/"):
            run(f"bulkhead stop --machine {directory.name}")
        for socket in wanted_servers(command):
            run(f"pkill -f '[/]{socket[1:]}'")  # the brackets keep the shell from finding itself
            Path(socket).unlink(missing_ok=True)
