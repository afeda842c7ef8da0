"""Traffic, in a file: the verbs."""

from launcher.cli.verb import Verb

__all__ = ["VERBS"]

VERBS = (
    Verb(
        "record",
        "write what driver and devices say, with payload, to a file",
        "bulkhead record ID… -o FILE [--for S] [--until TEXT | --around TEXT [--seconds N]] [--block] [--json]",
        "record.cli:run",
        "record.cli:add_arguments",
        "Until Ctrl-C, the machine's end, or what --for and --until say; goes on while devices die and are swapped.\n"
        "Slows nobody: what is too much is counted as lost. Filters are those of `bulkhead trace`: docs/recording.md.",
        (
            ("bulkhead record blk0 net0 -o boot.rec", "until Ctrl-C"),
            ("bulkhead record blk0 -o r --around 'status == IOERR'", "the ten seconds around the next error"),
            ("bulkhead record blk0 -o r --until 'latency > 1s' --for 60", "up to the first slow request"),
        ),
        group="traffic",
        completes="processes",
    ),
    Verb(
        "export",
        "turn a recording into a file for Perfetto, Wireshark, programs",
        "bulkhead export FILE --to perfetto|pcapng|json [-o OUT] [--no-payload]",
        "record.export:run",
        "record.export:add_arguments",
        "pcapng has the frames of network cards, json a line for each request and message. For perfetto FILE may also\n"
        "be what `bulkhead trace --json` wrote. Open it at https://ui.perfetto.dev, which keeps it in the browser.",
        (
            ("bulkhead export boot.rec --to perfetto -o boot.json", ""),
            ("bulkhead export boot.rec --to pcapng -o boot.pcapng", "wireshark boot.pcapng"),
            ("bulkhead export boot.rec --to json --no-payload", ""),
        ),
        sweeps=False,
        completes="files",
        group="traffic",
    ),
)
