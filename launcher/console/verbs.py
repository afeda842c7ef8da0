"""The console of a machine that runs already: the verbs."""

from launcher.cli.verb import Verb

__all__ = ["VERBS"]

VERBS = (
    Verb(
        "attach",
        "be the console of a machine that was started with --detach",
        "bulkhead attach [--machine NAME] | attach ID [-- COMMAND]",
        "console.attach:run",
        "console.attach:add_arguments",
        "Shows what the guest said meanwhile, then is its console. Ctrl-A d, the terminal's end or a signal leave the\n"
        "machine running; Ctrl-A x ends it. As often as you like, one console at a time.",
        (
            ("bulkhead run --detach --name web", "start one"),
            ("bulkhead attach --machine web", "its console"),
            ("bulkhead attach blk0 -- python -m pdb", "a device under a debugger: the same as `bulkhead debug`"),
        ),
        takes_command=True,
        sweeps=False,
        group="machine",
        completes="processes",
    ),
)
