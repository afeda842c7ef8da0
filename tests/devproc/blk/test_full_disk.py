"""A host that has no room left, seen from the guest: an I/O error of that request, and of it alone."""

from __future__ import annotations

import os
import resource

import pytest

from devproc.blk.qcow2_tools import create
from proto.virtio import BlkStatus, BlkType

SIZE = 1 << 20


@pytest.mark.parametrize("form", ["file:", "delay:ms=0:file:", "qcow2:", "snapshot:overlay=OVERLAY:file:"])
def test_a_full_disk_is_an_error_of_that_request(attach, tmp_path, form):
    path, overlay = tmp_path / "image", tmp_path / "overlay"
    if form == "qcow2:":
        create(str(path), SIZE)
    else:
        path.write_bytes(bytes(SIZE))
    disk = attach(f"{form.replace('OVERLAY', str(overlay))}{path}")
    pid = disk.front.process.pid
    assert disk.request(BlkType.OUT, 0, data=b"a" * 4096)[0] == BlkStatus.OK
    grows = overlay if overlay.exists() else path
    room = 512 << 10 if form.endswith("file:") and grows == path else os.path.getsize(grows)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    assert disk.request(BlkType.OUT, 1800, data=b"b" * 4096)[0] == BlkStatus.IOERR
    assert disk.request(BlkType.IN, 1800, room=4096) == (BlkStatus.OK, bytes(4096))
    assert disk.request(BlkType.OUT, 0, data=b"c" * 4096)[0] == BlkStatus.OK
    assert disk.request(BlkType.FLUSH)[0] == BlkStatus.OK
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert disk.request(BlkType.OUT, 1800, data=b"d" * 4096)[0] == BlkStatus.OK
    assert disk.request(BlkType.IN, 0, room=4096) == (BlkStatus.OK, b"c" * 4096)
    assert disk.front.stop() == 0
