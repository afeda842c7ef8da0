"""`bulkhead stop`, `restart`, `pause` and `cont`: orders to a keeper, and the wait until they are done."""

from __future__ import annotations

import argparse
import time
from typing import Any

from launcher.cli.exitcodes import ExitCode
from launcher.control import Line, machine_arguments, reach, request
from proto.errors import ChannelClosed, ConfigError, DeadlineMissed

__all__ = [
    "await_running",
    "cont",
    "guest_arguments",
    "pause",
    "restart",
    "restart_arguments",
    "stop",
    "stop_arguments",
]

STOP_DEADLINE = 10.0  # seconds
RESTART_DEADLINE = 15.0
PAUSE_DEADLINE = 5.0
PERIOD = 0.005  # seconds between two questions whether the new process serves


def stop_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `stop`."""
    machine_arguments(parser)


def stop(arguments: argparse.Namespace) -> int:
    """End a machine; returns when it is gone."""
    with reach(arguments) as channel:
        try:
            channel.send("STOP")
            while (answer := channel.recv(STOP_DEADLINE)).kind != "ERROR":
                answer.close()
            raise ConfigError(answer.body.get("error", "refused"), hint=answer.body.get("hint", ""))
        except ChannelClosed:
            return ExitCode.OK
        except DeadlineMissed:
            raise ConfigError(
                f"the machine did not end within {STOP_DEADLINE:.0f} s", hint="bulkhead ps shows why"
            ) from None


def restart_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `restart`."""
    parser.add_argument("id", metavar="ID", help="the device: blk0, rng0, …")
    machine_arguments(parser)


def restart(arguments: argparse.Namespace) -> int:
    """Replace a device's process; returns when the new one serves."""
    with reach(arguments) as channel:
        began = time.monotonic()
        epoch = request(channel, "RESTART", id=arguments.id)["epoch"]
        row = await_running(channel, arguments.id, epoch, began + RESTART_DEADLINE)
        took = time.monotonic() - began
        print(f"{arguments.id} {row['pid']} serves, epoch {row['epoch']}, after {took * 1000:.0f} ms")
    return ExitCode.OK


def guest_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pause` and `cont`."""
    machine_arguments(parser)


def pause(arguments: argparse.Namespace) -> int:
    """Have the guest stand still; returns when it does."""
    return _order_guest(arguments, "PAUSE", "paused")


def cont(arguments: argparse.Namespace) -> int:
    """Have the guest go on; returns when it does."""
    return _order_guest(arguments, "CONT", "running")


def _order_guest(arguments: argparse.Namespace, kind: str, phase: str) -> int:
    with reach(arguments) as channel:
        deadline = time.monotonic() + PAUSE_DEADLINE
        request(channel, kind)
        while request(channel, "PS")["phase"] != phase:
            if time.monotonic() > deadline:
                raise ConfigError(f"the core did not obey within {PAUSE_DEADLINE:.0f} s")
            time.sleep(PERIOD)
    return ExitCode.OK


def await_running(channel: Line, id: str, epoch: int, deadline: float) -> dict[str, Any]:
    """The row of `ps` of a device once its process of that epoch, or a later one, serves. Raises ConfigError."""
    while True:
        row: dict[str, Any] = next(row for row in request(channel, "PS")["processes"] if row["id"] == id)
        if row["epoch"] >= epoch and row["state"] == "running":
            return row
        if time.monotonic() > deadline:
            why = f": {row['reason']}" if row["reason"] else ""
            raise ConfigError(f"{id} is {row['state']}{why}", hint=f"See: bulkhead logs {id}")
        time.sleep(PERIOD)
