"""The machine-code path of 9P killed before every statement that it comes to: the successor, in Python, gives the
answer that the request had, or carries it out, and the client cannot tell.
"""

import os
from functools import cache

import pytest
from killed_code import compiled, countdown, killed_in
from ninep_client import message
from ninep_fast_client import FastClient, kept, plain, state

from devproc.fs.fast import log, looking, once
from devproc.fs.ninep import answering, fast, opening, walking
from devproc.fs.ninep.messages import Type

# What only puts together in memory that nobody sees yet has no steps.
STEPPED = {
    once: ("once_begin",),
    log: ("record_end",),
    answering: ("error", "finish"),
    walking: ("walk", "clunk", "_arrive", "_part", "_look"),
    opening: ("open_fid", "_open"),
}


@cache
def stepped():
    """`serve` with steps."""
    return compiled("ninep-killed", (looking, log, once, answering, walking, opening, fast), STEPPED)


@pytest.fixture(scope="module", name="countdown")
def the_countdown():
    """Sets the word: so many steps are made; 0: all."""
    with countdown() as count:
        yield count


def walked(client):
    client.walk(1, b"d", b"f")


def opened(client):
    walked(client)
    client.call(Type.LOPEN, 1, os.O_RDWR)


# The request, and what comes before it.
CASES = {
    "clone": (lambda client: None, Type.WALK, 0, 1, []),
    "walk": (lambda client: None, Type.WALK, 0, 1, [b"d", b"f"]),
    "walk of the same fid": (lambda client: client.walk(1, b"d"), Type.WALK, 1, 1, [b"f"]),
    "walk to nothing": (lambda client: None, Type.WALK, 0, 1, [b"absent"]),
    "walk a part": (lambda client: None, Type.WALK, 0, 1, [b"d", b"absent"]),
    "clone of an open fid": (opened, Type.WALK, 1, 2, []),
    "clunk": (walked, Type.CLUNK, 1),
    "clunk of an open fid": (opened, Type.CLUNK, 1),
    "open": (walked, Type.LOPEN, 1, os.O_RDWR),
    "open a directory": (lambda client: client.walk(1, b"d"), Type.LOPEN, 1, 0o200000),
}


def run(place, case, countdown, steps):
    """A client whose process was killed at a step; the request, and whether it was."""
    (place / "d").mkdir(parents=True)
    (place / "d" / "f").write_bytes(b"contents")
    client = FastClient(place, run=stepped())
    prepare, *request = CASES[case]
    prepare(client)
    data = message(request[0], 7, *request[1:])
    client.session.fids.catch_up()
    client.lay_out(data, 8192, False, 5)
    dead = killed_in(lambda: client.run(client.native.known, client.chain, 0), countdown, steps)
    client.killed()
    return client, data, dead


def everything(client, data):
    """The answer when the request comes again, and what the session is then, for this process and for a successor."""
    answer = plain(client.raw(data, again=True, head=5), data[4])
    for fid, (_, _, flags, *_) in state(client).items():
        if flags == os.O_RDWR:
            assert client.read(fid) == b"contents"
    return answer, [(number, fid[:5]) for number, fid in state(client).items()], kept(client)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_at_each_step_it_is_done_once(tmp_path, countdown, case):
    client, data, _ = run(tmp_path / "whole", case, countdown, 0)
    wanted = everything(client, data)
    client.close()
    assert wanted[0][4] == data[4] + 1 or case == "walk to nothing"
    steps, killed = 0, True
    while killed:
        steps += 1
        client, data, killed = run(tmp_path / str(steps), case, countdown, steps)
        assert everything(client, data) == wanted, f"killed at step {steps}"
        client.close()
    assert steps > 10
