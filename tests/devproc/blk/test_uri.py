"""How a disk is named: the grammar, and what is said about mistakes in it."""

from __future__ import annotations

import contextlib
import os

import pytest
from disk_model import read
from hypothesis import given
from hypothesis import strategies as st

from devproc.blk.backend import open_backend
from devproc.blk.uri import SCHEMES, Uri, absolute, name_overlays, parse_uri
from proto.errors import ConfigError


@pytest.mark.parametrize(
    "text, scheme, parameters, target",
    [
        ("disk.img", "file", {}, "disk.img"),
        ("./qcow2:x", "file", {}, "./qcow2:x"),
        ("file:disk.img", "file", {}, "disk.img"),
        ("delay:ms=5:file:disk.img", "delay", {"ms": "5"}, "file:disk.img"),
        ("error:op=read:when=/tmp/a%3Ab:x.img", "error", {"op": "read", "when": "/tmp/a:b"}, "x.img"),
        ("http://host:80/a=b:c", "http", {}, "//host:80/a=b:c"),
        ("http:cache=16M://host/x", "http", {"cache": "16M"}, "//host/x"),
        ("nbd+unix:///e?socket=/run/x", "nbd+unix", {}, "///e?socket=/run/x"),
        ("snapshot:overlay=o:delay:ms=1:qcow2:q", "snapshot", {"overlay": "o"}, "delay:ms=1:qcow2:q"),
    ],
)
def test_a_uri_is_read_from_the_left(text, scheme, parameters, target):
    uri = parse_uri(text)
    assert (uri.scheme, uri.given, uri.target) == (scheme, parameters, target)


@given(st.text("ab:%=,/ é", min_size=1, max_size=20))
def test_any_value_can_be_written(value):
    uri = Uri("error", {"when": value}, "file:x")
    assert parse_uri(str(uri)) == uri


@given(st.text("abeflo:=%/.,+-", max_size=40))
def test_any_text_is_parsed_or_refused(text):
    with contextlib.suppress(ConfigError):
        parse_uri(text)


@pytest.mark.parametrize(
    "text, said",
    [
        ("qcow:disk.img", "did you mean qcow2?"),
        ("snapshto:disk.img", "did you mean snapshot?"),
        ("delay:sm=5:disk.img", "delay: has no parameter sm; did you mean ms?"),
        ("delay:ms=fast:disk.img", "ms=fast: expected number from 0 to 600000"),
        ("delay:ms=1:dlay:ms=1:disk.img", "did you mean delay?"),
        ("delay:ms=1:ms=2:disk.img", "given twice"),
        ("delay:ms=1:", "names no uri"),
        ("pause:disk.img", "pause: needs when="),
        ("http:localhost/x", "two slashes"),
        ("file:bs=4:x", "file: has no parameter bs"),
    ],
)
def test_mistakes_are_named_at_every_level(text, said):
    with pytest.raises(ConfigError) as caught:
        absolute(text, os.path.abspath)
    assert said in caught.value.message, caught.value.describe()


def test_an_unknown_operation_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(bytes(512))
    with pytest.raises(ConfigError, match="'reed'"):
        open_backend(f"delay:op=reed+write:{tmp_path}/x")


def test_paths_become_absolute_wherever_they_stand():
    text = absolute("snapshot:overlay=o:error:when=w:file:x,y.img", lambda path: f"/there/{path}")
    assert text == "snapshot:overlay=/there/o:error:when=/there/w:file:/there/x,y.img"
    assert absolute("qcow2:x", lambda path: f"/there/{path}") == "qcow2:file:/there/x"
    assert absolute("http://host/x", lambda path: f"/there/{path}") == "http://host/x"


def test_overlays_without_a_file_get_one():
    assert name_overlays("snapshot:x", "/s/blk0") == "snapshot:overlay=/s/blk0.overlay:x"
    assert name_overlays("snapshot:overlay=mine:x", "/s/blk0") == "snapshot:overlay=mine:x"
    assert name_overlays("log:http://h/x", "/s/b") == "log:http:overlay=/s/b+.overlay://h/x"
    assert name_overlays("file:x", "/s/b") == "file:x"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_has_a_class_with_a_sentence(scheme):
    cls = SCHEMES[scheme].load()
    assert cls.__doc__ and callable(cls.open)


def test_ro_at_the_end_is_for_the_whole_stack(tmp_path):
    (tmp_path / "x").write_bytes(b"a" * 1024)
    disk = open_backend(f"log:snapshot:file:{tmp_path}/x,ro")
    assert disk.read_only and read(disk, 512, 512) == b"a" * 512
    disk.close()


def test_a_path_that_looks_like_a_parameter_is_written_so_that_it_is_none():
    """Found by fuzzing."""
    uri = parse_uri("file:./a=b:c")
    assert (uri.given, uri.target) == ({}, "./a=b:c")
    assert parse_uri(str(parse_uri("a=b:c"))).given == {}


@pytest.mark.parametrize(
    "text", ["luks:disk.luks", "pause:disk.img", "delay:ms=x:disk.img", "rate:bytes=many:disk.img"]
)
def test_a_parameter_that_is_missing_or_wrong_is_shown_by_an_example(text):
    with pytest.raises(ConfigError) as refused:
        absolute(text, str)
    scheme = text.partition(":")[0]
    assert f"For example: {scheme}:" in refused.value.hint and "--device" not in refused.value.hint
