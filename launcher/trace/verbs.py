"""Traffic, as it happens, here or from elsewhere: the verbs."""

from launcher.cli.verb import Verb

__all__ = ["VERBS"]

VERBS = (
    Verb(
        "trace",
        "tell what driver and devices say to each other, as it happens",
        "bulkhead trace [ID…] [--filter TEXT] [--summary] [--json] [--connect URI | --listen URI]",
        "trace.cli:run",
        "trace.cli:add_arguments",
        "Every process writes down what it does, always; this shows it, and slows nobody: who is too slow to read it\n"
        "is told what he missed. Ctrl-C ends it. Fields of filters and of JSON: docs/trace.md.",
        (
            ("bulkhead trace blk0 --filter 'latency > 1ms'", "slow requests of a disk"),
            ("bulkhead trace --summary --for 10", "latencies of ten seconds, by operation"),
            ("bulkhead trace core --all --last 100", "the last of everything, now"),
            (
                "bulkhead trace --listen tcp://*:4711 --keys keys",
                "let others look; keys by `bulkhead keys create keys`",
            ),
            ("bulkhead trace --connect tcp://host:4711 --keys keys", "look from there"),
        ),
        group="look",
        completes="processes",
    ),
    Verb(
        "keys",
        "make the keys with which a machine may be looked at from elsewhere",
        "bulkhead keys create DIR",
        "trace.keys:run",
        "trace.keys:add_arguments",
        "server.secret stays on the machine's host; give viewer.secret and server.public to who may look, and\n"
        "control.secret and server.public to who may also give orders.",
        (("bulkhead keys create keys", "six files in keys/, of which the secrets are yours alone"),),
        sweeps=False,
        group="remote",
        completes="create",
    ),
)
