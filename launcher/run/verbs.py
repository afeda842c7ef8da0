"""Running a machine: the verbs."""

from launcher.cli.verb import Verb

__all__ = ["VERBS"]

RUN_DETAILS = """\
Starts a RISC-V machine whose devices are processes of their own. Without --kernel, --boot or firmware it
starts the Debian guest, if `bulkhead images` has fetched it, else the bundled one. In the console Ctrl-A x
quits and Ctrl-A h shows help. With COMMAND it boots Debian, runs COMMAND there, prints its output alone and
exits with its status; standard input is COMMAND's (text: a pipe's end arrives as Ctrl-D).

The Debian guest's root disk is a private copy that is gone afterwards: every run starts from the same
system. What shall stay goes to a --disk, or keep the whole root with --root FILE."""

VERBS = (
    Verb(
        "run",
        "start a machine and be its console; or run COMMAND in Linux",
        "bulkhead run [options] [-- COMMAND [ARGUMENT…]]",
        "run.command:run",
        "run.command:add_arguments",
        RUN_DETAILS,
        (
            ("bulkhead run", "a console"),
            ("bulkhead run -- uname -a", "one command in Linux"),
            ("bulkhead run --disk data.img -m 512M --smp 2", "a disk of your own, as vdb"),
            ("bulkhead run --kernel Image --append 'console=ttyS0 root=/dev/vda' --disk root.ext4", "your own Linux"),
            ("bulkhead run --bios none --kernel program.elf", "a bare-metal program"),
            ("bulkhead run --device ./mydev.py:MyDevice,key=value", "a device of your own"),
        ),
        takes_command=True,
        group="machine",
    ),
    Verb(
        "demo",
        "show it working: Linux from a disk that lives in another process",
        "bulkhead demo [--guest debian|bundled]",
        "run.demo:run",
        "run.demo:add_arguments",
        "Boots twice, writes and verifies 64 MiB; meanwhile the disk's process is killed five times and its image\n"
        "changes its format. Leaves nothing behind.",
        group="machine",
    ),
    Verb(
        "serve",
        "serve a disk, a folder, a network card or a device to another host",
        "bulkhead serve URI | --share DIR,tag=TAG | --net URI | --device X  --keys DIR [--listen tcp://HOST:PORT]",
        "serve:run",
        "serve:add_arguments",
        "The other host has control.secret and server.public of the keys. It gets the bytes of requests, never\n"
        "anything of this host but the device, one machine at a time (docs/relay.md).",
        (
            ("bulkhead keys create keys", "once"),
            ("bulkhead serve disk.img --keys keys", "a disk, at port 5757"),
            ("bulkhead run --disk remote:keys=keys://server:5757", "on the other host"),
        ),
        sweeps=False,
        completes="files",
        group="remote",
    ),
)
