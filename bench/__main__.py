"""`python -m bench`: run the benchmarks, print their figures, and keep them in docs/performance.md.

Each benchmark is a module of this package with PEER, who it is compared with, and `measure(run)`, which yields its
figures. Goals that are missed do not make the exit status 1; a benchmark that fails does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import time

from bench import page
from bench.measure import Figure, Missing, Run, host

BENCHMARKS = {
    "mips": "speed of the interpreter",
    "boot": "from the command to a prompt",
    "ring": "block requests at the ring",
    "fs_ring": "requests of a shared folder at the ring",
    "trips": "notifications and MMIO round trips",
    "disk": "block requests from inside a guest",
    "share": "a shared folder from inside a guest",
    "net": "the network from inside a guest",
    "idle": "what idle machines cost",
    "start": "starting processes",
    "trace": "what tracing costs",
    "recovery": "from kill -9 of a device to its next answer",
    "swap": "how long a swap keeps the guest waiting",
}


class Progress:
    """One line on standard error that is written over, where that is a terminal."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self.shown:
            sys.stderr.write(f"\r\x1b[K{text[:110]}")
            sys.stderr.flush()

    def clear(self) -> None:
        self("")


def line(peer: str, figure: Figure) -> str:
    """A figure for the screen."""
    what, ours, theirs, ratio, spread, goal, note = page.row(figure)
    text = f"  {what:44} {ours:>14}"
    if theirs:
        text += f"  {peer} {theirs:>12}  ratio {ratio.strip('*')}"
    text += f"  ({spread})"
    text += f"  goal {goal.replace('**', '')}" if goal else ""
    return text + (f"  {note}" if note else "")


def run_benchmark(name: str, quick: bool, quiet: bool) -> tuple[str, list[Figure]]:
    """Run one; figures are printed as they come."""
    module = importlib.import_module(f"bench.{name}")
    progress = Progress()
    figures = []
    if not quiet:
        print(f"{name}: {BENCHMARKS[name]}", flush=True)
    try:
        for figure in module.measure(Run(quick, lambda text: progress(f"  {name}: {text}"))):
            progress.clear()
            figures.append(figure)
            if not quiet:
                print(line(module.PEER, figure), flush=True)
    finally:
        progress.clear()
    return module.PEER, figures


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Run the benchmarks.")
    parser.add_argument("--only", metavar="NAME", action="append", choices=BENCHMARKS, help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--quick", action="store_true", help="see that it works: few rounds, and the page is left alone"
    )
    parser.add_argument("--json", action="store_true", help="print figures as JSON; the page is left alone")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is measured starts from compiled modules, as when installed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave every `with`: machines end, images go
    began, failed, results = time.monotonic(), False, {}
    if not options.json:
        print(f"on {host()}")
    for name in options.only or BENCHMARKS:
        load, started = os.getloadavg()[0], time.monotonic()
        try:
            peer, figures = run_benchmark(name, options.quick, options.json)
        except Missing as error:
            print(f"{name}: skipped: {error}", file=sys.stderr)
            continue
        except Exception as error:
            failed = True
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        seconds = round(time.monotonic() - started, 1)
        results[name] = {
            "peer": peer,
            "load": round(load, 2),
            "seconds": seconds,
            "figures": [figure.as_dict() for figure in figures],
        }
        if not options.json:
            print(f"  {seconds:.0f} s, host load {load:.1f} before; again: python -m bench --only {name}", flush=True)
        if not options.quick and not options.json:
            page.update(name, peer, figures, load)
    if options.json:
        print(json.dumps({"host": host(), "results": results}, indent=1))
    else:
        print(f"{time.monotonic() - began:.0f} s" + ("" if options.quick else f"; the tables are in {page.PAGE}"))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
