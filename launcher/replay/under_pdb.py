"""A device process in the foreground under pdb: `python -m launcher.replay.under_pdb FILE LINE`.

It runs until FILE:LINE is reached the first time, and there the debugger asks what to do; what the device raises ends
in the debugger as well, where it was raised.
"""

from __future__ import annotations

import bdb
import pdb
import signal
import sys
import traceback

from devproc.main import main

__all__ = ["run"]


def run(file: str, line: int) -> int:
    """The device process. Returns its exit status."""
    debugger = pdb.Pdb(nosigint=True)
    debugger.rcLines = ["continue"]
    problem = debugger.set_break(file, line, temporary=True)
    if problem:
        print(problem, file=sys.stderr)
    try:
        return int(debugger.runcall(main) or 0)
    except bdb.BdbQuit:
        return 1
    except Exception as error:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        traceback.print_exc()
        pdb.post_mortem(error.__traceback__)
        return 1


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], int(sys.argv[2])))
