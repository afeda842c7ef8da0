"""A machine's figures for Prometheus: the process that answers GET /metrics (`--metrics PORT`).

Started by the keeper when somebody asks for the first time (launcher/keeper/services.py). Counters are since the
machine started and outlive the processes that count; the text format is Prometheus's 0.0.4.
"""

from __future__ import annotations

import contextlib
import http.server
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from launcher.control import connect
from launcher.inspect.ps import look
from launcher.service import begin
from proto.errors import BulkheadError

__all__ = ["METRICS", "main", "render"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """One metric: `value` takes a row of `ps`, or the whole look when it is the machine's."""

    name: str
    kind: str  # counter or gauge
    text: str
    value: Callable[[Row], float | None]
    of: str = "process"  # device, process or machine


METRICS = (
    Metric("uptime_seconds", "gauge", "Since the machine started.", lambda seen: seen["uptime"], "machine"),
    Metric("guest_running", "gauge", "1 while the guest runs, 0 while it is paused or not there.",
           lambda seen: float(seen["phase"] == "running"), "machine"),
    Metric("instructions_per_second", "gauge", "Instructions that all harts retired.",
           lambda seen: seen["kips"] * 1000.0, "machine"),
    Metric("instructions_total", "counter", "Instructions retired.", lambda row: row.get("instructions")),
    Metric("process_up", "gauge", "1 while the process serves.", lambda row: float(row["state"] == "running")),
    Metric("process_memory_bytes", "gauge", "Memory that only this process has.", lambda row: row["memory"]),
    Metric("process_cpu_seconds_total", "counter", "CPU time of the present process.", lambda row: row["cpu"]),
    Metric("device_restarts_total", "counter", "Processes that replaced another.",
           lambda row: row["restarts"], "device"),
    Metric("device_quarantined", "gauge", "1 while its requests get I/O errors.",
           lambda row: float(row["state"] == "quarantined"), "device"),
    Metric("device_requests_total", "counter", "Requests completed.", lambda row: row.get("requests"), "device"),
    Metric("device_bytes_total", "counter", "Bytes moved.", lambda row: row.get("bytes"), "device"),
    Metric("device_errors_total", "counter", "Requests answered with an error.",
           lambda row: row.get("errors"), "device"),
    Metric("device_in_flight", "gauge", "Requests taken and not yet answered.",
           lambda row: row.get("queue"), "device"),
)  # fmt: skip


def render(seen: dict[str, Any]) -> str:
    """The figures of one look (`launcher.inspect.ps.look`) in Prometheus's text format."""
    return "".join(line + "\n" for metric in METRICS for line in _lines(metric, seen))


def _lines(metric: Metric, seen: dict[str, Any]) -> Iterator[str]:
    samples = list(_samples(metric, seen))
    if samples:
        yield f"# HELP bulkhead_{metric.name} {metric.text}"
        yield f"# TYPE bulkhead_{metric.name} {metric.kind}"
        yield from samples


def _samples(metric: Metric, seen: dict[str, Any]) -> Iterator[str]:
    machine = _quoted(seen["machine"])
    if metric.of == "machine":
        yield f'bulkhead_{metric.name}{{machine="{machine}"}} {metric.value(seen):.12g}'
        return
    for row in seen["processes"]:
        if metric.of == "device" and row["restarts"] is None:
            continue
        value = metric.value(row)
        if value is not None:
            labels = f'machine="{machine}",id="{_quoted(row["id"])}",role="{_quoted(row["role"])}"'
            yield f"bulkhead_{metric.name}{{{labels}}} {value:.12g}"


def _quoted(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


class _Handler(http.server.BaseHTTPRequestHandler):
    machine = ""
    timeout = 10.0  # seconds for a client to say what it wants

    def do_GET(self) -> None:
        if self.path.split("?")[0] not in ("/metrics", "/"):
            self.send_error(404, "only /metrics is served")
            return
        try:
            with connect(self.machine) as control:
                text = render(look(control)).encode()
        except BulkheadError as error:
            self.send_error(503, str(error))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a scrape every few seconds is no news."""


def main() -> int:
    """Entry of the process: until the keeper has gone."""
    begun = begin()
    if begun is None:
        return 1
    keeper, _Handler.machine, listeners = begun
    for listener in listeners:
        listener.setblocking(True)
        server = http.server.ThreadingHTTPServer(("", 0), _Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = listener
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with contextlib.suppress(BulkheadError):
        keeper.recv()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
