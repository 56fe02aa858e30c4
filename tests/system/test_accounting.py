"""Row A10 of attestation: records lost, doubled and out of order on their way through a real broker
are all accounted for: what was sent is what is stored and what is missing, and nothing twice.
"""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgewarden.wire.record import RecordClass
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.store import gaps
from edgewarden_fleet.store.schema import open_store
from tests.fleet.standing import Client, RealBoard, client_of, standing_fleet
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")
PER_RUN = 50
"""100,000 records by ``--runs 2000``."""
LOST, DOUBLED = 0.05, 0.05
NEIGHBOURS = 8
"""A record overtakes so many at most."""
DEVICE = "gw-lossy"
WAIT_S, SLOWEST_A_S = 60, 100
"""After the last record: so long, and as long again as so many a second take. The sender does not
wait for the verifier, and the broker keeps what that has not taken."""


def on_the_way(count: int, chance: random.Random) -> list[int]:
    """Sequence numbers 1 to count as they arrive: the first and the last always, and once."""
    late = {n: n + chance.random() * NEIGHBOURS for n in range(2, count)}
    for n in chance.sample(range(2, count), round(count * LOST)):
        del late[n]
    twice = chance.sample(sorted(late), round(count * DOUBLED))
    arrivals = [*late.items(), *((n, late[n] + chance.random() * NEIGHBOURS) for n in twice)]
    return [1, *(n for n, _ in sorted(arrivals, key=lambda one: one[1])), count]


def test_all_that_was_sent_is_stored_or_missing(tmp_path: Path, runs: int) -> None:
    count = PER_RUN * runs
    order = on_the_way(count, random.Random(10))
    came, head, reordered, again = set[int](), 0, 0, 0
    for seq in order:
        again += seq in came
        reordered += seq not in came and seq < head
        came.add(seq)
        head = max(head, seq)
    assert reordered > count / 10, "they do overtake each other"
    with standing_fleet(tmp_path / "fleet") as standing:
        board = RealBoard(standing.enrol(DEVICE))
        client = client_of(standing, board)
        try:
            arrive(client, board, order)
            bound_s = WAIT_S + count / SLOWEST_A_S
            wait_until(lambda: chain(standing.show(DEVICE))["head"] == count, bound_s)
            wait_until(lambda: refusals(standing.show(DEVICE)) == again, WAIT_S)
        finally:
            client.close()
        shown = chain(standing.show(DEVICE))
        missing = not_come(FleetFolder(standing.folder).database)
    print(f"a10: {count} made, {shown['records']} stored, {len(missing)} missing, {again} again")
    assert missing == set(range(1, count + 1)) - came
    assert shown["dropped"] == len(missing), "of the gaps themselves a hundred are shown"
    assert shown["records"] == len(came) == count - round(count * LOST)
    assert shown["reordered"] == reordered
    assert shown["refused"] == {"replay": again}, "in one session nothing is sent twice"


def arrive(client: Client, board: RealBoard, order: list[int]) -> None:
    client.publish(board.topic("s", "status"), board.status({}), retain=True)
    bulk = RecordClass.BULK
    made = [board.introduce(bulk), *(board.event(bulk, n=n) for n in range(2, max(order) + 1))]
    for seq in order:
        assert client.publish(made[seq - 1].topic, made[seq - 1].data) < 0x80


def refusals(shown: dict[str, Any]) -> int:
    return sum(chain(shown)["refused"].values())


def not_come(database: Path) -> set[int]:
    """What the store says is missing, to the last number."""
    with closing(open_store(database, read_only=True)) as db:
        found = gaps.unexplained(db, DEVICE, RecordClass.BULK)
    return {n for gap in found for n in range(gap.first, gap.last + 1)}


def chain(shown: dict[str, Any]) -> Any:
    return shown["chain"]["bulk"]
