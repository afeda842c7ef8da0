"""`bulkhead ps`: a table that fits its terminal."""

from __future__ import annotations

from typing import Any

from launcher.inspect.ps import table_of


def device(id: str, **others: Any) -> dict[str, Any]:
    """One row of the keeper's answer."""
    row = {"id": id, "role": "blk", "pid": 4711, "state": "running", "reason": "", "epoch": 1, "restarts": 0}
    return row | {"memory": 13 << 20, "cpu": 1.0, "requests": 100, "bytes": 4096, "queue": 0} | others


def look(*rows: dict[str, Any]) -> dict[str, Any]:
    """A machine as `ps` sees it."""
    return {"machine": "vm1", "phase": "running", "uptime": 3.0, "kips": 0, "guest": "", "at": 1.0, "processes": rows}


def test_a_long_path_is_shown_by_its_name() -> None:
    seen = look(device("blk0", backend="file:/a/long/way/to/the/directory/of/root.ext4"))
    assert table_of(seen, seen, None).splitlines()[-1].endswith("  file:root.ext4")


def test_a_backend_that_is_no_path_is_shown_as_it_is() -> None:
    seen = look(device("net0", backend="user,hostfwd=tcp:8080-80"))
    assert table_of(seen, seen, None).splitlines()[-1].endswith("  user,hostfwd=tcp:8080-80")


def test_where_its_sockets_are_has_a_line_of_its_own() -> None:
    seen = look(device("blk0")) | {"serial": "/run/one/serial", "qmp": "/run/one/qmp"}
    title, places, header, _ = table_of(seen, seen, None).splitlines()
    assert (title, header.split()[0]) == ("machine vm1 · running 3s · 0 MIPS", "ID")
    assert places == "  serial /run/one/serial · qmp /run/one/qmp"


def test_the_table_fits_into_eighty_columns() -> None:
    seen = look(device("blk0", backend="file:/images/root.ext4"), device("rng0", role="rng"))
    lines = table_of(seen, seen, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "file:root.ext4" in lines[-2]


def test_where_there_is_room_the_role_is_shown() -> None:
    seen = look(device("blk0", backend="file:/images/root.ext4"))
    assert "ROLE" in table_of(seen, seen, 100)
    assert "ROLE" in table_of(seen, seen, None)
