"""Disks on web servers: plain files and split ones, and servers that misbehave in the middle."""

from __future__ import annotations

import random
import threading
import time

import pytest
from authority import Authority
from disk_model import Model, random_requests, read, write
from web_server import Server

from devproc.blk.backend import open_backend
from devproc.blk.http import parse_split
from proto.errors import BackendError, ConfigError

SIZE = (1 << 20) + 512 * 3
CONTENT = random.Random(4).randbytes(SIZE)
BLOCK = 64 << 10


@pytest.fixture
def server():
    server = Server()
    server.files["/disk.img"] = CONTENT
    yield server
    server.close()


def uri(server, words="", path="/disk.img"):
    return f"http:{words}{server.url.removeprefix('http:')}{path}"


def test_what_is_read_is_the_file_and_what_is_written_stays_here(server, tmp_path):
    model = random_requests(uri(server, f"overlay={tmp_path}/o:chunk=16k:cache=128k:"), CONTENT, 3, 120, reopen=True)
    assert server.files["/disk.img"] == CONTENT
    disk = open_backend(uri(server, f"overlay={tmp_path}/o:"))
    model.check(disk)
    disk.close()


def test_a_read_only_disk_needs_no_overlay(server, opened):
    disk = opened(uri(server) + ",ro")
    assert disk.read_only
    Model(CONTENT).check(disk)


def test_connections_are_kept(server, opened):
    disk = opened(uri(server, "chunk=16k:ahead=0:") + ",ro")
    for at in range(0, SIZE - 4096, 16 << 10):
        read(disk, at, 4096)
    assert server.connections == 1


def test_each_chunk_is_fetched_once_and_read_ahead(server, opened):
    disk = opened(uri(server, "chunk=64k:ahead=3:") + ",ro")
    server.requests.clear()
    for at in range(0, 256 << 10, 4096):
        assert read(disk, at, 4096) == CONTENT[at : at + 4096]
    deadline = time.monotonic() + 60
    while len(server.requests) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(int(asked.removeprefix("bytes=").split("-")[0]) >> 16 for _, asked in server.requests) == list(
        range(7)
    )


def test_a_chunk_on_its_way_is_waited_for(server, opened):
    disk = opened(uri(server, "chunk=64k:ahead=0:") + ",ro")
    server.requests.clear()
    server.pause = 0.2
    found = []
    readers = [threading.Thread(target=lambda at=at: found.append(read(disk, at, 512))) for at in range(0, 8192, 1024)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(server.requests) == 1 and len(found) == 8


def test_the_cache_is_bounded(server, opened):
    disk = opened(uri(server, "chunk=16k:cache=64k:ahead=0:") + ",ro")
    Model(CONTENT).check(disk)
    assert disk._chunks.count() == 4


@pytest.mark.parametrize("fault", ["reset", "short", "503"])
def test_a_fault_that_passes_is_not_noticed(server, opened, fault):
    disk = opened(uri(server, "ahead=0:") + ",ro")
    server.fault(fault, count=2)
    assert read(disk, 0, 4096) == CONTENT[:4096]


def test_a_server_that_stalls_is_an_error_of_that_request(server, opened):
    disk = opened(uri(server, "timeout=1:retries=1:ahead=0:chunk=64k:") + ",ro")
    server.fault("stall", count=2)
    begin = time.monotonic()
    with pytest.raises(BackendError, match="does not answer"):
        read(disk, 0, 512)
    assert time.monotonic() - begin < 10
    assert read(disk, 0, 512) == CONTENT[:512]


def test_a_server_that_goes_on_failing_is_an_error_of_that_request(server, opened):
    disk = opened(uri(server, "retries=1:ahead=0:") + ",ro")
    server.fault("503", count=2)
    with pytest.raises(BackendError, match="503"):
        read(disk, 0, 512)
    assert read(disk, 0, 512) == CONTENT[:512]


@pytest.mark.parametrize(
    "fault, said", [("changed", "has changed"), ("whole", "has changed"), ("other range", "range"), ("long", "more")]
)
def test_a_wrong_answer_is_an_error_and_never_data(server, opened, fault, said):
    disk = opened(uri(server, "ahead=0:retries=0:chunk=64k:") + ",ro")
    server.fault(fault)
    with pytest.raises(BackendError, match=said):
        read(disk, 65536, 512)
    assert read(disk, 65536, 512) == CONTENT[65536 : 65536 + 512]


def test_a_file_that_changes_is_not_mixed(server, opened):
    disk = opened(uri(server, "ahead=0:chunk=64k:") + ",ro")
    before = read(disk, 0, 512)
    server.files["/disk.img"] = bytes(SIZE)
    server.etags["/disk.img"] = '"two"'
    with pytest.raises(BackendError, match="has changed on the server"):
        read(disk, 512 << 10, 512)
    assert read(disk, 0, 512) == before


def test_an_overlay_does_not_go_onto_a_changed_file(server, tmp_path):
    disk = open_backend(uri(server, f"overlay={tmp_path}/o:"))
    write(disk, 0, bytes(512))
    disk.close()
    server.etags["/disk.img"] = '"two"'
    with pytest.raises(ConfigError, match="has changed since the overlay"):
        open_backend(uri(server, f"overlay={tmp_path}/o:"))


def test_redirections_are_followed(server, opened):
    server.redirects = {"/a": "/b", "/b": f"{server.url}/disk.img"}
    assert read(opened(uri(server, path="/a") + ",ro"), 512, 512) == CONTENT[512:1024]
    server.redirects = {"/a": "/b", "/b": "/a"}
    with pytest.raises(ConfigError, match="without end"):
        open_backend(uri(server, path="/a"))


def test_what_cannot_be_a_disk_is_refused(server):
    server.files["/odd"] = b"x" * 1000
    for path, said in (("/odd", "512-byte sectors"), ("/none", "404")):
        with pytest.raises(ConfigError, match=said):
            open_backend(uri(server, path=path))
    server.fault("whole")
    with pytest.raises(ConfigError, match="whole files only"):
        open_backend(uri(server))
    with pytest.raises(ConfigError, match="cannot open"):
        open_backend("http:retries=0:timeout=1://127.0.0.1:1/x")


# -- split disks -------------------------------------------------------------------------------------------------------


@pytest.fixture
def split(server):
    """Eleven blocks of 64 KB, five of them in groups of two."""
    content = CONTENT[: 11 * BLOCK]
    blocks = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
    server.files["/d/blk.txt"] = b"""{ // as found in the wild
        block_size: 64, n_block: 11, "prefetch": [3, 1, 4, 7, 5], /* in this order */ prefetch_group_len: 2 }"""
    for number, data in enumerate(blocks):
        server.files[f"/d/blk{number:09}.bin"] = data
    for number, group in enumerate([(3, 1), (4, 7)]):
        server.files[f"/d/grp{number:09}.bin"] = b"".join(blocks[block] for block in group)
    return content


def test_a_split_disk_reads_as_one(server, split, tmp_path):
    model = random_requests(uri(server, f"overlay={tmp_path}/o:", "/d/blk.txt"), split, 8, 80)
    assert len(model.data) == len(split)
    paths = [path for path, _ in server.requests]
    assert "/d/grp000000000.bin" in paths and "/d/grp000000001.bin" in paths
    assert not {"/d/blk000000003.bin", "/d/blk000000004.bin"} & set(paths)
    assert len(paths) == len(set(paths))


def test_prefetched_groups_come_first_and_a_missing_group_is_no_harm(server, split, opened):
    del server.files["/d/grp000000001.bin"]
    disk = opened(uri(server, path="/d/blk.txt") + ",ro")
    assert read(disk, 4 * BLOCK, BLOCK) == split[4 * BLOCK : 5 * BLOCK]
    Model(split).check(disk)


def test_a_block_of_the_wrong_size_is_an_error_of_that_request(server, split, opened):
    server.files["/d/blk000000009.bin"] = b"short"
    disk = opened(uri(server, "retries=0:ahead=0:", "/d/blk.txt") + ",ro")
    with pytest.raises(BackendError):
        read(disk, 9 * BLOCK, 512)
    assert read(disk, 8 * BLOCK, 512) == split[8 * BLOCK : 8 * BLOCK + 512]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "{block_size: 3, n_block: 1}",
        "{block_size: 256, n_block: 0}",
        "{block_size: 256, n_block: 99999999999999}",
        "{block_size: 256, n_block: 2, prefetch: [2]}",
        "{block_size: 256, n_block: 2, prefetch: [1, 1]}",
        "{block_size: 1048576, n_block: 1}",
        "[" * 10000,
    ],
    ids=range(9),
)
def test_a_description_that_does_not_add_up_is_refused(text):
    with pytest.raises(ConfigError):
        parse_split(text, "http://x/blk.txt")


# -- encrypted ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority():
    return Authority()


@pytest.fixture
def encrypted(authority, tmp_path):
    """A server that shows a certificate for localhost, and wants one."""
    made = []

    def begin(name="localhost"):
        server = Server()
        pki = authority.server(tmp_path / f"server-{name}", name)
        server.encrypt(pki, authority.client(tmp_path / "client") / "ca-cert.pem")
        server.files["/disk.img"] = CONTENT
        made.append(server)
        return server

    yield begin
    for server in made:
        server.close()


def https(server, words="", path="/disk.img"):
    return f"https:{words}{server.url.removeprefix('https:')}{path}"


def test_an_encrypted_disk_is_read_and_its_overlay_written(encrypted, tmp_path):
    server = encrypted()
    words = f"certificates={tmp_path}/client:overlay={tmp_path}/o:chunk=16k:cache=128k:"
    random_requests(https(server, words), CONTENT, 5, 80, reopen=True)
    assert server.files["/disk.img"] == CONTENT
    server.files |= {"/d/blk.txt": b"{block_size: 64, n_block: 2}", "/d/blk000000000.bin": CONTENT[:BLOCK]}
    disk = open_backend(https(server, f"certificates={tmp_path}/client:", "/d/blk.txt") + ",ro")
    assert read(disk, 512, 512) == CONTENT[512:1024]
    disk.close()


def test_connections_are_made_anew_with_their_certificates(encrypted, opened, tmp_path):
    server = encrypted()
    disk = opened(https(server, f"certificates={tmp_path}/client:ahead=0:chunk=16k:") + ",ro")
    before = server.connections
    server.fault("reset", count=2)
    assert read(disk, 0, 4096) == CONTENT[:4096]
    assert server.connections >= before + 2


def test_a_server_that_is_not_who_it_should_be_is_refused(encrypted, authority, tmp_path):
    server, another = encrypted(), encrypted("elsewhere")
    Authority("another").client(tmp_path / "stranger", anonymous=True)
    for words, where, said in (
        ("", server, "certificate does not hold"),
        (f"certificates={tmp_path}/stranger:", server, "certificate does not hold"),
        (f"certificates={tmp_path}/client:", another, "certificate does not hold"),
        (f"certificates={tmp_path}/none:", server, "are not complete"),
    ):
        begin = time.monotonic()
        with pytest.raises(ConfigError, match=said) as refused:
            open_backend(https(where, words))
        assert refused.value.hint and time.monotonic() - begin < 30
    with pytest.raises(ConfigError, match="cannot open"):  # it speaks no plain HTTP
        open_backend(f"http:retries=0:timeout=5:{server.url.removeprefix('https:')}/disk.img")


def test_a_server_that_wants_to_know_us_gets_our_certificate(encrypted, authority, tmp_path):
    server = encrypted()
    authority.client(tmp_path / "nobody", anonymous=True)
    with pytest.raises(ConfigError, match="cannot open"):
        open_backend(https(server, f"certificates={tmp_path}/nobody:retries=0:timeout=5:"))
