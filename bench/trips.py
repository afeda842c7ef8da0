"""Round trips over the link: notifications and MMIO reads against a bare pyzmq round trip.

48 bytes there and back between two PAIR sockets over ipc are the peer; a pair of eventfds shows what the host can do at
all (`bench.link`, a program of its own).
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.measure import Figure, Goal, Run
from bench.ring import once, program, ratio_of

PEER = "bare pyzmq"
AGAINST = "awake against wake-up"
GOALS = {"wake-up": Goal("<=", 1.6), AGAINST: Goal("<=", 1)}


def measure(run: Run) -> Iterator[Figure]:
    """A figure for each way, and what staying awake makes of a wake-up."""
    rounds = run.rounds(7)
    run.progress(f"{rounds} rounds")
    rows = program("bench.link", "--rounds", str(rounds), "--trips", "200" if run.quick else "1000")
    bare = rows.pop(PEER)
    for name, row in rows.items():
        peer, note = (rows["wake-up"], "the peer is the wake-up") if name == AGAINST else (bare, "")
        yield Figure(name, "µs", once(row["us"]), once(peer["us"]), ratio_of(row, rounds), GOALS.get(name), note)
