"""A log on a full disk loses lines, and its process nothing."""

import subprocess
import sys
from pathlib import Path

PRINTS = """
import sys
from proto.logs import lose_what_does_not_fit
lose_what_does_not_fit()
for number in range({count}):
    print("line", number, "ü")
    print("error", number, file=sys.stderr)
sys.exit(3)
"""


def run(count: int, path: str) -> int:
    with open(path, "wb") as log:
        program = [sys.executable, "-c", PRINTS.format(count=count)]
        return subprocess.run(program, stdout=log, stderr=log, check=False, timeout=60).returncode


def test_lines_come_in_order_and_at_once(tmp_path: Path) -> None:
    assert run(2, str(tmp_path / "log")) == 3
    assert (tmp_path / "log").read_text() == "line 0 ü\nerror 0\nline 1 ü\nerror 1\n"


def test_a_file_that_takes_no_more_ends_nobody(tmp_path: Path) -> None:
    """The limit of a file's size stands for a disk that is full: the system call fails the same way."""
    path = tmp_path / "log"
    words = f"trap '' XFSZ; ulimit -f 1; exec {sys.executable} -c '{PRINTS.format(count=1000)}' >{path} 2>&1"
    assert subprocess.run(["bash", "-c", words], check=False, timeout=60).returncode == 3
    assert path.stat().st_size == 1024


def test_what_is_no_file_is_left_alone() -> None:
    program = (
        "import sys; from proto.logs import lose_what_does_not_fit as f; a = sys.stdout; f(); print(a is sys.stdout)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "True\n"
