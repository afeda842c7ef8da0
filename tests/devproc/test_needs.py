"""What a device may reach is computed from its description, and from nothing that it could have written itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from devproc.blk.qcow2_tools import create as create_image
from devproc.needs import Needs, libraries, needs_of, needs_of_peer


def words(needs: Needs) -> dict[str, str]:
    return dict(needs.rules)


def test_a_plain_image_and_nothing_beside_it(tmp_path):
    image = str(tmp_path / "disk.img")
    assert words(needs_of("blk", f"file:{image}")) == {image: "write"}
    assert words(needs_of("blk", f"file:{image},ro")) == {image: "read"}
    assert words(needs_of("blk", f"file:{image}", {"ro": "on"})) == {image: "read"}
    assert words(needs_of("blk", f"delay:ms=5:error:percent=0:file:{image}")) == {image: "write"}


def test_an_overlay_is_written_and_what_is_below_is_not(tmp_path):
    below, overlay = str(tmp_path / "below.img"), str(tmp_path / "new.ovl")
    needs = needs_of("blk", f"snapshot:overlay={overlay}:file:{below}")
    assert words(needs) == {overlay: "write", below: "read"}
    assert needs.create == [overlay] and needs.nameless == 0
    assert needs_of("blk", f"snapshot:file:{below}").nameless == 1


def test_a_backing_chain_is_followed_by_its_headers(tmp_path):
    base, middle, top = (str(tmp_path / name) for name in ("base.img", "middle.qcow2", "top.qcow2"))
    Path(base).write_bytes(bytes(1 << 20))
    create_image(middle, 1 << 20, backing="base.img", backing_format="raw")
    create_image(top, 1 << 20, backing="middle.qcow2", backing_format="qcow2")
    assert words(needs_of("blk", f"qcow2:{top}")) == {top: "write", middle: "read", base: "read"}
    assert words(needs_of("blk", f"qcow2:backing=off:{top}")) == {top: "write"}


def test_a_chain_that_comes_back_ends(tmp_path):
    one, two = (str(tmp_path / name) for name in ("one.qcow2", "two.qcow2"))
    create_image(one, 1 << 20, backing="two.qcow2", backing_format="qcow2")
    create_image(two, 1 << 20, backing="one.qcow2", backing_format="qcow2")
    assert set(words(needs_of("blk", f"qcow2:{one}"))) == {one, two}


@pytest.mark.parametrize(
    ("uri", "targets"),
    [
        ("http:cache=1M://example.org/disk.img", ["http://example.org/disk.img"]),
        ("https://example.org:8443/disk.img", ["https://example.org:8443/disk.img"]),
        ("nbd://[::1]/", ["tcp:::1:10809"]),
        ("nbd+unix:///?socket=/run/nbd.sock", ["unix:/run/nbd.sock"]),
        ("nbds://server:1234/x", ["tcp:server:1234"]),
        ("nbds+unix:///?socket=/run/nbd.sock", ["unix:/run/nbd.sock"]),
    ],
)
def test_where_a_disk_connects(uri, targets):
    assert needs_of("blk", uri).targets == targets


def test_an_encrypted_disk_reads_its_certificates_and_not_the_servers_key(tmp_path):
    for name in ("ca-cert.pem", "client-cert.pem", "client-key.pem", "server-key.pem"):
        (tmp_path / name).touch()
    rules = needs_of("blk", f"nbds:certificates={tmp_path}://server/").rules
    mine = {path for path, word in rules if word == "read" and path.startswith(str(tmp_path))}
    assert mine == {str(tmp_path / name) for name in ("ca-cert.pem", "client-cert.pem", "client-key.pem")}


def test_a_share_is_its_directory(tmp_path):
    needs = needs_of("9p", str(tmp_path), {"tag": "x"})
    assert (needs.profile, words(needs), needs.writable) == ("share", {str(tmp_path): "tree"}, [str(tmp_path)])
    needs = needs_of("virtiofs", str(tmp_path), {"ro": True})
    assert (words(needs), needs.writable) == ({str(tmp_path): "read"}, [])


def test_your_own_device_reads_python_files_beside_it_and_what_you_name(tmp_path):
    device, secret, data = tmp_path / "mydev.py", tmp_path / "secret", tmp_path / "data"
    for path in (device, secret, data, tmp_path / "helper.py"):
        path.touch()
    needs = needs_of(f"{device}:Mine", "", {"table": str(data), "n": 3})
    assert words(needs) == {
        str(device): "read",
        str(tmp_path): "list",
        str(tmp_path / "helper.py"): "read",
        str(data): "write",
    }


@pytest.mark.parametrize("uri", ["", "nonsense:", "qcow2:/nowhere", "file:", "qcow2:nbd://h/", "http:x=1://h/"])
def test_what_is_wrong_is_left_to_the_device(uri):
    assert isinstance(needs_of("blk", uri), Needs)


def test_plain_values_survive_a_packet(tmp_path):
    needs = needs_of("blk", f"qcow2:{tmp_path}/x")
    assert Needs.from_dict(needs.as_dict()) == needs


def test_a_peer_makes_its_socket_and_nothing_else(tmp_path):
    assert words(needs_of_peer(f"stream:unix:{tmp_path}/s,server"))[str(tmp_path)] == "socket"
    assert needs_of_peer(f"hub:{tmp_path}/h").create == [f"{tmp_path}/h.lock"]
    assert str(tmp_path) not in words(needs_of_peer("user"))


def test_libraries_hold_no_home():
    assert all(word in ("read", "list") or path == "/dev/null" for path, word in libraries())
    assert os.path.expanduser("~") not in dict(libraries())
