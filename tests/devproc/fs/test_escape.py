"""A guest cannot leave the shared directory, whatever it sends and whoever renames what meanwhile."""

import errno
import os
import struct
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ninep_client import Client, message

from devproc.fs.beneath import Beneath
from devproc.fs.ninep.messages import REQUESTS, Type
from proto.errors import ConfigError

SECRET = b"not for the guest"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    return path


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"../secret", b"/etc/passwd", b"a\0b", b"x" * 256])
def test_what_is_not_a_name_names_nothing(client, share, secret, name):
    calls = [
        (Type.LCREATE, 0, name, os.O_RDWR, 0o644, 0),
        (Type.MKDIR, 0, name, 0o755, 0),
        (Type.SYMLINK, 0, name, b"x", 0),
        (Type.UNLINKAT, 0, name, 0),
        (Type.RENAMEAT, 0, name, 0, b"x"),
        (Type.RENAMEAT, 0, b"x", 0, name),
        (Type.LINK, 0, 0, name),
    ]
    for call in calls:
        with pytest.raises(OSError) as refused:
            client.call(*call)
        assert refused.value.errno in (errno.EINVAL, errno.ENAMETOOLONG, errno.EBUSY)
    assert os.listdir(share) == [] and secret.read_bytes() == SECRET


@pytest.mark.parametrize("target", ["../secret", "..", "/", "/etc", "/proc/self/cwd", "/proc/self/root"])
def test_no_symbolic_link_is_followed(client, share, secret, target):
    os.symlink(target, share / "link")
    client.walk(1, b"link")
    assert client.stat(1)["mode"] & 0o170000 == 0o120000
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        client.call(Type.LOPEN, 1, os.O_RDONLY)
    for name in (b"secret", b"passwd", b"etc"):
        with pytest.raises(OSError):
            client.call(Type.WALK, 1, 2, [name])
    with pytest.raises(OSError):
        client.call(Type.LCREATE, 1, b"new", os.O_RDWR, 0o644, 0)
    client.call(Type.WALK, 0, 3, [])
    with pytest.raises(OSError):
        client.call(Type.LCREATE, 3, b"link", os.O_RDWR | os.O_TRUNC, 0o644, 0)
    assert secret.read_bytes() == SECRET


def test_pipes_and_devices_of_the_host_are_not_opened(client, share):
    os.mkfifo(share / "pipe")
    client.walk(1, b"pipe")
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        client.call(Type.LOPEN, 1, os.O_RDONLY)


def test_a_race_of_directory_and_link_lets_nothing_out(client, share, tmp_path):
    """One thread swaps a directory and a link to the outside as fast as it can; nothing of the outside is ever seen."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(SECRET)
    (share / "real").mkdir()
    (share / "real" / "f").write_bytes(b"inside")
    os.symlink(outside, share / "link")
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            for old, new in (("real", "d"), ("d", "real"), ("link", "d"), ("d", "link")):
                os.rename(share / old, share / new)

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    try:
        for _ in range(1500):
            try:
                client.call(Type.WALK, 0, 1, [b"d", b"f"])
                client.call(Type.LOPEN, 1, os.O_RDWR)
                seen.add(client.read(1))
            except OSError as error:
                assert error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EBADF, errno.EAGAIN)
            if 1 in client.session.fids:
                client.call(Type.CLUNK, 1)
    finally:
        stop.set()
        thread.join()
    assert SECRET not in seen and seen <= {b"inside"}


def test_what_is_not_a_directory_is_not_shared(tmp_path, secret):
    for path in (secret, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=str(path)):
            Beneath(str(path))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.binary(max_size=80), st.integers(0, 64))
def test_hostile_bytes_get_an_answer_or_none(client, data, room):
    answer = client.raw(data, room)
    assert len(answer) <= room
    if answer:
        assert struct.unpack_from("<I", answer)[0] == len(answer)


NUMBER = st.sampled_from([0, 1, 2, 3, 255, 4096, 1 << 31, (1 << 32) - 1])
NAME = st.sampled_from([b"", b"a", b"b", b"..", b"a/b", b"\0", b"../secret", b"x" * 300, b"\xff\xfe"])
FIELD = {
    "1": st.integers(0, 255),
    "2": st.integers(0, 0xFFFF),
    "4": NUMBER,
    "8": NUMBER | st.sampled_from([1 << 62, 1 << 63, (1 << 64) - 1]),
    "s": NAME,
    "n": st.lists(NAME, max_size=17),
}


@st.composite
def hostile_messages(draw):
    kind = draw(st.sampled_from(sorted(set(REQUESTS) - {Type.VERSION})))
    fields = [draw(FIELD[field.rpartition(":")[2]]) for field in REQUESTS[kind].split()]
    return message(kind, 1, *fields, data=draw(st.binary(max_size=40)))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(hostile_messages(), max_size=25))
def test_hostile_sessions_stay_inside(tmp_path_factory, messages):
    place = tmp_path_factory.mktemp("hostile")
    (place / "share").mkdir()
    (place / "secret").write_bytes(SECRET)
    client = Client(place / "share")
    try:
        for data in messages:
            answer = client.raw(data, 600)
            assert struct.unpack_from("<I", answer)[0] == len(answer)
    finally:
        client.close()
    assert sorted(os.listdir(place)) == ["secret", "share"] and (place / "secret").read_bytes() == SECRET
