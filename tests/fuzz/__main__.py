"""Coverage-guided fuzzing: `python -m tests.fuzz TARGET --seconds 3600 --corpus DIR`; without a TARGET, what there is.

The seeds are written to DIR/TARGET/, which then grows with every input that reaches new code. A finding ends the run:
its input is in DIR/TARGET.crash-…, its traceback on standard error. `--report FILE` appends a line a run: target,
seconds, inputs, entries of the corpus, how it ended; `--table FILE` sums that up. `--input FILE` tries one input,
without atheris.

Needs atheris (the optional dependencies `fuzz`), which instruments the project's own modules and, beside them, what the
compiler of restricted Python makes of functions for their Python run.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fuzz.harness import workshop_for_child

LONGEST = 1 << 15  # bytes of an input
MEMORY = 2048  # MiB
DEADLINE = 60  # seconds of an input: more than in the suite, for runs in the background of a busy host
INSIDE = "--inside"  # this process is the one that fuzzes
PACKAGES = ["proto", "devproc", "launcher"]


def main() -> int:
    if sys.argv[2:3] == [INSIDE]:
        _fuzz(sys.argv[1], sys.argv[3:])
        return 0
    arguments = _arguments()
    from tests.fuzz.targets import TARGETS

    if arguments.table:
        _print_table(Path(arguments.table), list(TARGETS))
        return 0
    if not arguments.target:
        for target in TARGETS.values():
            print(f"{target.name:10} {target.what}")
        return 0
    if arguments.target not in TARGETS:
        sys.exit(f"there is no target {arguments.target}: {', '.join(TARGETS)}")
    if arguments.input:
        target = TARGETS[arguments.target]
        target.seeds()
        target.try_one(Path(arguments.input).read_bytes())
        return 0
    corpus = Path(arguments.corpus, arguments.target)
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in TARGETS[arguments.target].seeds():
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    return _run(arguments, corpus)


def _arguments() -> Any:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Coverage-guided fuzzing of one parser.")
    parser.add_argument("target", nargs="?", help="what to fuzz; none: list them")
    parser.add_argument("--seconds", type=int, default=60, help="how long (60)")
    parser.add_argument("--corpus", default="/tmp/bulkhead-fuzz", metavar="DIR", help="where inputs are kept")
    parser.add_argument("--report", default="", metavar="FILE", help="append a line about the run")
    parser.add_argument("--table", default="", metavar="FILE", help="sum such a report up, for docs/testing.md")
    parser.add_argument("--input", default="", metavar="FILE", help="try this input alone")
    return parser.parse_args()


def _print_table(report: Path, names: list[str]) -> None:
    """Minutes and inputs a target; runs that ended in a finding count their inputs alone."""
    seconds, inputs = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for line in report.read_text().splitlines():
        name, took, count, *_ = line.split("\t")
        if name in seconds:
            seconds[name] += int(took) if took.isdigit() else 0
            inputs[name] += int(count) if count.isdigit() else 0
    for name in names:
        print(f"| {name} | {seconds[name] // 60} | {inputs[name]:,} |".replace(",", " "))


def _run(arguments: Any, corpus: Path) -> int:
    """libFuzzer leaves its process when it ends, so it gets one of its own, whose last lines are the result."""
    options = [
        f"-max_total_time={arguments.seconds}",
        f"-timeout={DEADLINE}",
        f"-rss_limit_mb={MEMORY}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={corpus}.",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    command = [sys.executable, "-m", "tests.fuzz", arguments.target, INSIDE, *options, str(corpus)]
    from launcher.keeper.child import die_with_parent  # not where the fuzzing process would import it uninstrumented

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what is made here goes
    with workshop_for_child() as environment:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            preexec_fn=die_with_parent(),
        )
    found = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stdout)
    count, ended = (found[1] if found else "?"), "ok" if done.returncode == 0 else f"finding ({done.returncode})"
    took = re.search(r"Done \d+ runs in (\d+) second", done.stdout)
    line = f"{arguments.target}\t{took[1] if took else '?'}\t{count}\t{len(list(corpus.iterdir()))}\t{ended}"
    print(line)
    if arguments.report:
        with open(arguments.report, "a") as file:
            file.write(line + "\n")
    if done.returncode:
        print("\n".join(done.stdout.splitlines()[-60:]), file=sys.stderr)
    return done.returncode


def _fuzz(name: str, options: list[str]) -> None:
    """In a process of its own: instrument, import, and never come back."""
    import atheris

    from native import pyrun

    with atheris.instrument_imports(include=PACKAGES):
        from tests.fuzz.targets import TARGETS

    build = pyrun._PythonRun.build
    pyrun._PythonRun.build = lambda self: atheris.instrument_func(build(self))  # type: ignore[method-assign]
    target = TARGETS[name]
    target.seeds()
    atheris.Setup([sys.argv[0], *options], target.try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
