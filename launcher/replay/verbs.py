"""A recording, fed to a device: the verbs."""

from launcher.cli.verb import Verb

__all__ = ["VERBS"]

VERBS = (
    Verb(
        "replay",
        "feed a recording to a device without a guest; compare answers",
        "bulkhead replay FILE [SPEC] [--device ID] [--request N] [--speed real|max] [--pdb] [--json]",
        "replay.cli:run",
        "replay.cli:add_arguments",
        "FILE is a recording or a crash bundle. Without SPEC a disk gets an image as the recording shows that it was,\n"
        "and a network card a cable: nothing of yours is touched. SPEC is what --disk takes, a directory, or\n"
        "PATH.py:Class. Exit code 0: the same answers; 1: others, or the device died.",
        (
            ("bulkhead replay boot.rec --device blk0", "the disk of a recording"),
            ("bulkhead replay boot.rec ./mydev.py:MyDevice --request 17 --pdb", "one request under pdb"),
            ("bulkhead replay ~/.local/state/bulkhead/crashes/vm1/20261121-120107.332-blk0", "what killed a device"),
        ),
        sweeps=False,
        completes="files",
        group="traffic",
    ),
)
