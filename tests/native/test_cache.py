"""The cache: what is compiled once is loaded afterwards, and nothing wrong with a file can do harm."""

import os
import subprocess
import sys
import time

import pytest

from native import cache
from native.cache import cached
from native.key import unit_key

MODULE = """
import json, sys, time
from native import Unit, fn, u64
import constants

@fn
def helper(n: u64) -> u64:
    return n * constants.FACTOR + 1

@fn
def f(n: u64) -> u64:
    total: u64 = 0
    for i in range(n):
        total += helper(i)
    return total

UNIT = Unit("warm", [f])

if __name__ == "__main__":
    start = time.perf_counter()
    native = UNIT.load()
    seconds = time.perf_counter() - start
    heavy = sorted(set(sys.modules) & {"llvmlite", "native.compiler", "native.llvmir"})
    print(json.dumps({"value": native.f(10), "seconds": seconds, "heavy": heavy}))
"""


@pytest.fixture
def project(tmp_path):
    """A module with a unit, run in processes of their own with a cache of their own."""
    (tmp_path / "unit_module.py").write_text(MODULE)
    (tmp_path / "constants.py").write_text("FACTOR = 2\n")
    return tmp_path


def start(project):
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    env = {**os.environ, "XDG_CACHE_HOME": str(project / "cache"), "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(project / "unit_module.py")]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def finish(process):
    import json

    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(output)


def run(project):
    return finish(start(project))


def files(project):
    return sorted((project / "cache" / "bulkhead" / "native").iterdir())


def test_a_warm_start_imports_no_llvmlite_and_takes_milliseconds(project):
    cold = run(project)
    warm = min((run(project) for _ in range(3)), key=lambda r: r["seconds"])
    assert cold["value"] == warm["value"] == 100
    assert "llvmlite" in cold["heavy"]
    assert warm["heavy"] == []
    assert warm["seconds"] < 0.05


def test_the_cache_is_private(project):
    run(project)
    directory = project / "cache" / "bulkhead" / "native"
    assert directory.stat().st_mode & 0o777 == 0o700
    (image,) = files(project)
    assert image.stat().st_mode & 0o777 == 0o600


def test_a_changed_source_builds_again(project):
    run(project)
    module = project / "unit_module.py"
    module.write_text(module.read_text().replace("+ 1", "+ 2"))
    assert run(project)["value"] == 110
    assert len(files(project)) == 2


def test_a_changed_constant_of_another_module_builds_again(project):
    run(project)
    (project / "constants.py").write_text("FACTOR = 3\n")
    assert run(project)["value"] == 145


CONSTANTS = """
import enum

class Plain(enum.Enum):
    STEP = {step}

class Deep:
    class Inner(enum.IntEnum):
        START = {start}
        OTHER = 7
"""
USES = """
@fn
def one(n: u64) -> u64:
    return n + constants.Deep.Inner.OTHER
@fn
def two(n: u64) -> u64:
    return one(n) * constants.Plain.STEP.value + constants.Deep.Inner.START
"""


def test_every_constant_a_function_can_name_is_in_the_key(project, monkeypatch):
    import types

    from both import declare

    def key(step, start):
        constants = types.ModuleType("constants")
        exec(CONSTANTS.format(step=step, start=start), vars(constants))
        monkeypatch.setattr("native.function._symbols", {})  # so that symbols are the same each time
        return unit_key([declare(USES, constants=constants)["two"]], "")

    monkeypatch.setattr("native.key.source_text", lambda filename: "")
    assert key(2, 3) == key(2, 3)
    assert len({key(2, 3), key(3, 3), key(2, 4)}) == 3


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


def empty(path):
    path.write_bytes(b"")


def replace_by_directory(path):
    path.unlink()
    path.mkdir()


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path, 0o600)


def replace_by_symlink(path):
    real = path.with_suffix(".real")
    path.rename(real)
    path.symlink_to(real)


def let_others_write(path):
    path.chmod(0o666)


DAMAGES = [flip, truncate, empty, replace_by_directory, replace_by_fifo, replace_by_symlink, let_others_write]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_a_file_that_cannot_be_trusted_is_built_again(project, damage):
    run(project)
    (image,) = files(project)
    damage(image)
    again = run(project)
    assert again["value"] == 100
    assert "llvmlite" in again["heavy"]
    if damage is not replace_by_directory:  # a directory stays in the way: it is built at each start
        assert "llvmlite" not in run(project)["heavy"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_and_directory_are_not_used(project):
    run(project)
    (image,) = files(project)
    os.chown(image, 65534, 65534)
    assert "llvmlite" in run(project)["heavy"]
    os.chown(image.parent, 65534, 65534)
    assert "llvmlite" in run(project)["heavy"]
    assert run(project)["value"] == 100


def test_a_cache_that_cannot_be_written_is_done_without(project):
    (project / "cache").write_text("a file where the directory would be")
    assert run(project)["value"] == 100


def test_builders_at_once_all_get_the_right_code(project):
    processes = [start(project) for _ in range(4)]
    results = [finish(p) for p in processes]
    assert {r["value"] for r in results} == {100}
    assert len(files(project)) == 1  # no temporary file, no lock stays behind
    assert "llvmlite" not in run(project)["heavy"]


@pytest.fixture
def private(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bulkhead" / "native"


def test_a_builder_that_stopped_does_not_stop_the_next(private, monkeypatch):
    import fcntl

    monkeypatch.setattr(cache, "_PATIENCE", 0.1)
    private.mkdir(parents=True, mode=0o700)
    with open(private / "key.lock", "w") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        assert cached("key", lambda: b"built") == b"built"


def test_a_failed_build_leaves_nothing(private):
    def build():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cached("key", build)
    assert list(private.iterdir()) == []


def test_what_nobody_used_for_a_month_is_removed(private):
    cached("old", lambda: b"1")
    month = time.time() - 40 * 24 * 3600
    os.utime(private / "old", (month, month))
    cached("new", lambda: b"2")
    assert [p.name for p in private.iterdir()] == ["new"]


def test_use_keeps_a_file_young(private):
    cached("old", lambda: b"1")
    os.utime(private / "old", (0, 0))
    assert cached("old", lambda: b"never") == b"1"
    cached("new", lambda: b"2")
    assert {p.name for p in private.iterdir()} == {"old", "new"}
