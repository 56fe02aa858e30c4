"""Acceptance 12 of the data plane: what a clock that is wrong, or set, must not cost.

The clock of link's whole process is ruled by the test, OpenSSL's included. That signed time brings
such a board on line is in test_no_clock.py.
"""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.daemon.timekeeper import STEPPED_CODE
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.record import Kind, Record, RecordClass, decode_record
from edgewarden.wire.timing import ANCHOR_CODE
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority
from edgewarden_fleet.ca.folder import FleetFolder, new_key
from edgewarden_fleet.store.anchors import shift_s
from edgewarden_fleet.verify.offline import check_file
from tests.broker import Pki
from tests.soak.ordeal import DEVICE, END_S, Day, await_live, ordeal
from tests.system.cards import Card, Stage, standing
from tests.system.impostor import Impostor
from tests.system.stepped_clock import YEAR_S, SteppedClock
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "mosquitto", "gcc")

WAIT_S = 60.0
HOUR_S, DAY_S = 3600.0, 86_400.0
A_LITTLE_S = 300.0
"""Less than a CA of this minute is dated back: all but the leaf holds then."""
FUTURE_S = 20.0 * YEAR_S
STEPS_S = [FUTURE_S, FUTURE_S - HOUR_S, FUTURE_S - HOUR_S - 1]
"""Twenty years ahead; an hour back from there; a leap second back."""


@pytest.fixture
def stage() -> Iterator[Stage]:
    """In a folder with a short name: a socket's path ends at 107 bytes."""
    with (
        tempfile.TemporaryDirectory(prefix="ew-a12-") as folder,
        standing(Path(folder)) as made,
    ):
        yield made


# --- whom it speaks to ---------------------------------------------------------------------------


def foreign(folder: Path, fleet: FleetFolder) -> tuple[Path, Path]:
    """Another CA's, everything else right."""
    return Pki(folder / "foreign", "foreign").issue("broker", server=True)


def of_a_gateway(folder: Path, fleet: FleetFolder) -> tuple[Path, Path]:
    """Our CA's, and its key was stolen with a board."""
    key = new_key()
    leaf = certificates.make_gateway(
        fleet.issuing(), key.public_key(), "main", "localhost", time.time()
    )
    return put(folder, leaf, key, fleet.issuing())


def of_another_name(folder: Path, fleet: FleetFolder) -> tuple[Path, Path]:
    """Our CA's for some other server of the fleet."""
    key = new_key()
    leaf = certificates.make_server(fleet.issuing(), key.public_key(), ["elsewhere"], time.time())
    return put(folder, leaf, key, fleet.issuing())


def of_the_past(folder: Path, fleet: FleetFolder) -> tuple[Path, Path]:
    """Once right, name and all; by a clock that was set back a little it still is."""
    key, ended_s = new_key(), time.time() - A_LITTLE_S / 5
    made_s = ended_s - certificates.SERVER_DAYS * DAY_S
    host = fleet.settings().broker.host
    leaf = certificates.make_server(fleet.issuing(), key.public_key(), [host], made_s)
    return put(folder, leaf, key, fleet.issuing())


def put(
    folder: Path, leaf: x509.Certificate, key: ec.EllipticCurvePrivateKey, issuing: Authority
) -> tuple[Path, Path]:
    folder.mkdir()
    cert, key_file = folder / "cert.pem", folder / "key.pem"
    cert.write_text(certificates.pem(leaf) + certificates.pem(issuing.certificate))
    key_file.write_bytes(FileSigner(key).to_pem())
    return cert, key_file


def in_1970() -> float:
    """Seconds ahead of the machine's clock, negative."""
    return 60.0 - time.time()


IMPOSTORS = (
    (foreign, (in_1970(), FUTURE_S, -HOUR_S)),
    (of_a_gateway, (in_1970(),)),
    (of_another_name, (FUTURE_S, -1.0)),
    (of_the_past, (-A_LITTLE_S, in_1970())),
)
"""What they show, and how far ahead link's clock is then."""


def test_a12_no_clock_makes_it_speak_to_another_broker(stage: Stage, tmp_path: Path) -> None:
    card, clock = stage.enrolled(), SteppedClock(tmp_path / "clock")
    fleet = FleetFolder(stage.fleet.folder)
    stage.fleet.stop_broker()
    clock.ahead(in_1970())
    card.start(clock.environment)
    for kind, clocks_s in IMPOSTORS:
        pair = kind(tmp_path / f"keys-{kind.__name__}", fleet)
        at = tmp_path / kind.__name__
        with Impostor(at, stage.fleet.broker_port, *pair) as impostor:
            for ahead_s in clocks_s:
                clock.ahead(ahead_s)
                before = impostor.refused()
                wait_until(lambda i=impostor, n=before: i.refused() >= n + 2, WAIT_S)
            assert impostor.got() == []
            assert not connected(card)
            impostor.take_from_anybody()  # the control
    assert {s["acked"] for s in spool(card).values()} == {0}
    clock.ahead(in_1970())
    stage.fleet.start_broker()
    wait_until(lambda: connected(card) and drained(card), WAIT_S)


def connected(card: Card) -> bool:
    uplink = card.status().get("uplink")
    return isinstance(uplink, dict) and bool(uplink["connected"])


def spool(card: Card) -> dict[str, dict[str, int]]:
    found = card.status().get("spool", {})
    assert isinstance(found, dict)
    return found


def drained(card: Card) -> bool:
    now = spool(card)
    return bool(now) and all(s["acked"] == s["durable"] for s in now.values())


# --- what it does about it -----------------------------------------------------------------------

WATCHED_S = 4.0
BUSY = 150
"""Sleeps beyond twice the calm ones: a step costs an exchange with the fleet, two records and a
handshake or so, each of a few. A timer that finds itself always due takes thousands a second."""


def test_a12_a_step_keeps_nothing_busy(stage: Stage, tmp_path: Path) -> None:
    """Counted are the sleeps of all threads, in the C library: what is busy does not rest less
    often but more."""
    card, clock = stage.enrolled(), SteppedClock(tmp_path / "clock")
    card.start(clock.environment)
    card.reports()
    calm = slept(clock)
    for ahead_s in (FUTURE_S, FUTURE_S - HOUR_S, in_1970()):
        clock.ahead(ahead_s)
        assert slept(clock) <= 2 * calm + BUSY, f"{ahead_s} s ahead"


def slept(clock: SteppedClock) -> float:
    """How often in WATCHED_S, however long this process was kept from looking again."""
    before, began = clock.waits(), time.monotonic()
    time.sleep(WATCHED_S)
    return (clock.waits() - before) * WATCHED_S / (time.monotonic() - began)


# --- what it keeps -------------------------------------------------------------------------------


PLACED_S = 300.0
"""Two clocks are not read at one moment, and the answer with the time may come late; an hour or
twenty years is what this is about."""


@pytest.mark.needs("loop-mount")
def test_a12_a_backlog_under_a_clock_that_is_set_arrives_whole_and_in_order() -> None:
    """Two boots without the fleet, the second begun in 1970, three steps in each."""
    with tempfile.TemporaryDirectory(prefix="ew-a12-") as folder, ordeal(Path(folder), 12) as day:
        first = day.clock.boot_id
        day.fleet.stop_broker()
        day.fleet.stop_server()
        for ahead_s in STEPS_S:
            day.clock.ahead(ahead_s)
            live_on(day)
        second = reboot_in_1970(day)
        for ahead_s in STEPS_S:
            live_on(day)
            day.clock.ahead(ahead_s)
        live_on(day)
        day.fleet.start_server()
        day.fleet.start_broker()
        day.clock.ahead(-HOUR_S)  # while the backlog drains, and time is asked for at once
        await_live(day.card)
        live_on(day)
        day.board.close()
        wait_until(day._all_there, END_S)
        seen = day.account()
        stored = {c: day._records(c) for c in RecordClass}
        roots = FleetFolder(day.fleet.folder).roots()
        with day._store() as db:
            db.row_factory = sqlite3.Row
            off_s = {
                (c, r.seq): shift_s(db, DEVICE, int(c), r.seq)
                for c, all_of in stored.items()
                for r in map(read, all_of)
            }
    assert (seen.missing, seen.twice, seen.holes, seen.gaps) == ((), (), (), 0)
    assert not seen.findings & {"fork", "clone", "older_state"}
    for c, messages in stored.items():
        records = list(map(read, messages))
        assert [r.seq for r in records] == list(range(1, len(records) + 1))
        in_order(records, [first, second])
        for record in records:
            placed(record, off_s[c, record.seq])
    told(list(map(read, stored[RecordClass.AUDIT])), second)
    signed(stored[RecordClass.AUDIT], roots)


def read(data: bytes) -> Record:
    return decode_record(cose.open_envelope(data, cose.ContentType.RECORD).payload)


def live_on(day: Day) -> None:
    """Until more is durable than was, of what the board says from here on."""
    bulk, sent = spool(day.card)["bulk"]["durable"], day.board.sent
    wait_until(lambda: day.board.sent >= sent + 10, WAIT_S)
    wait_until(lambda: spool(day.card)["bulk"]["durable"] >= bulk + 2, WAIT_S)


def reboot_in_1970(day: Day) -> bytes:
    """Link ends in order once it has read all that was said; the name of the boot after it."""
    with day.board.plugs:
        wait_until(lambda: read_all(day), WAIT_S)
        day.card.end()
        made = day.clock.another_boot()
        day.clock.ahead(in_1970())
        day.start_link()
        wait_until(lambda: listens(day), WAIT_S)
    return made


def read_all(day: Day) -> bool:
    sensors = day.card.status().get("sensors")
    return isinstance(sensors, dict) and sensors["steady"]["readings"] == day.board.sent


def listens(day: Day) -> bool:
    sensors = day.card.status().get("sensors")
    if not isinstance(sensors, dict):
        return False
    return len(sensors) == 2 and all(
        s["state"] not in ("closed", "reopen") for s in sensors.values()
    )


def in_order(records: Sequence[Record], boots: list[bytes]) -> None:
    """By sequence: the first boot's, then the second's, each by its time since boot; the bytes
    say so, whatever the wall clock says."""
    assert [b for b, _ in groupby(r.boot_id for r in records)] == boots
    for _, of_boot in groupby(records, lambda r: r.boot_id):
        times = [r.time.boot_ns for r in of_boot]
        assert times == sorted(times)


def placed(record: Record, off_s: float) -> None:
    """By what was vouched for, or by the anchor of its boot: where it was in real time."""
    ago_s = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - record.time.boot_ns) / 1e9
    shown_s = record.time.wall_ns / 1e9 + off_s
    assert abs(shown_s - (time.time() - ago_s)) < PLACED_S, record.time


TOLD_S = HOUR_S / 2
"""1970 went on while this ran; and a leap second is no step."""


def told(audit: Sequence[Record], second: bytes) -> None:
    """One anchor in the boot that nobody vouched for; each step, or two of them as one."""
    events = [r for r in audit if r.kind == Kind.EVENT]
    anchors = [r for r in events if r.body.get("code") == ANCHOR_CODE and r.boot_id == second]
    assert len(anchors) == 1
    steps_s = [
        r.body["detail"]["by_ms"] / 1000  # type: ignore[index]
        for r in events
        if r.body.get("code") == STEPPED_CODE and r.boot_id == second
    ]
    assert abs(sum(steps_s) - (-HOUR_S - in_1970())) < TOLD_S, steps_s
    unset = [r.time.wall_ns / 1e9 for r in audit if r.time.uncertainty_ms is None]
    assert max(unset) > time.time() + FUTURE_S - DAY_S, "no record was made under a false clock"


def signed(messages: Sequence[bytes], roots: Sequence[x509.Certificate]) -> None:
    """By the CA certificate alone, all of them; and one altered anchor is seen."""
    lines = list(check_file(b"".join(messages), roots, time.time()))
    assert [(x.outcome, x.why) for x in lines if not x.accepted] == []
    changed = [m.replace(b"utc_ns", b"utc_nz") for m in messages]
    assert changed != list(messages)
    lines = list(check_file(b"".join(changed), roots, time.time()))
    assert "bad_signature" in {x.outcome for x in lines}
