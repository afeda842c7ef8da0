"""State in memory that the supervisor holds."""

import gc
import os
from pathlib import Path

from devproc.kept import KEPT_SIZE, Kept


def test_its_mapping_goes_with_the_object():
    """Found by fuzzing: a process that begins again and again could map nothing more."""
    fd = os.memfd_create("kept-once")
    try:
        os.ftruncate(fd, KEPT_SIZE)
        for number in range(10):
            kept = Kept(fd)
            assert kept.load() == (b"" if number == 0 else b"state")
            kept.store(b"state")
        del kept
        gc.collect()
        assert "kept-once" not in Path("/proc/self/maps").read_text()
    finally:
        os.close(fd)
