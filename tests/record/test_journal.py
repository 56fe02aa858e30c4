"""What stands in a record: sequence, chain, who signed it; and what is done when there is no
room.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.ports import Stored
from edgewarden.record.journal import (
    MAX_EVENT_BYTES,
    Introduction,
    Journal,
    SpoolFull,
    Unstorable,
)
from edgewarden.record.segment import DiskFull
from edgewarden.record.spool import DiskSpool
from edgewarden.trust.keys import FileSigner, verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import (
    OCSF,
    Event,
    Plain,
    Reading,
    Severity,
    event_from_map,
    readings_from_senml,
)
from edgewarden.wire.record import (
    NO_PREDECESSOR,
    Kind,
    Record,
    RecordClass,
    decode_record,
    record_hash,
)
from tests.fakes.clock import FakeClock
from tests.fakes.spool import MemorySpool
from tests.noise import noise

REPORT, IDENTITY = FileSigner.generate(), FileSigner.generate()
WHO = Introduction(IDENTITY, (b"leaf", b"issuing"), "1.2.3")
ALARM, AUDIT, BULK = RecordClass


def journal_on(spool: MemorySpool | DiskSpool) -> Journal:
    journal = Journal(spool, "gw-demo", FakeClock(boot_ns=7_000_000_000), REPORT)
    journal.introduce(WHO)
    return journal


def event(**detail: Plain) -> Event:
    return Event(OCSF.HEALTH, 1, Severity.LOW, 6_000_000_000, detail)


def records(spool: MemorySpool | DiskSpool, record_class: RecordClass) -> list[Stored]:
    return spool.peek(record_class, 0, 10_000, 1 << 30)


def opened(stored: Stored) -> Record:
    """The payload, its signature checked by the right one of the two keys."""
    envelope = cose.open_envelope(stored.data, ContentType.RECORD)
    record = decode_record(envelope.payload)
    signer = IDENTITY if record.kind == Kind.REPORT_KEY else REPORT
    assert envelope.kid == signer.kid
    cose.check_signature(envelope, verifier_for(signer.public_key()))
    return record


def test_every_class_begins_with_an_introduction_of_the_report_key() -> None:
    spool = MemorySpool()
    journal_on(spool)
    for c in RecordClass:
        (first,) = records(spool, c)
        record = opened(first)
        assert (record.kind, record.seq, record.prev) == (Kind.REPORT_KEY, 1, NO_PREDECESSOR)
        assert record.body == {"key": REPORT.public_key(), "agent": "1.2.3", "acked": 0}
        envelope = cose.open_envelope(first.data, ContentType.RECORD)
        assert envelope.x5chain == WHO.x5chain


def test_the_second_start_goes_on_in_sequence_and_chain() -> None:
    spool = MemorySpool()
    journal_on(spool)
    first = spool.heads()[AUDIT][1]
    spool.ack(AUDIT, 1)
    second = Journal(spool, "gw-demo", FakeClock(), FileSigner.generate())
    second.introduce(WHO)
    (again,) = records(spool, AUDIT)
    record = opened(again)
    assert (record.seq, record.body["acked"]) == (2, 1)
    assert record.prev == first


def test_events_are_chained_and_timed() -> None:
    spool = MemorySpool()
    journal = journal_on(spool)
    assert [journal.event(ALARM, event(n=n)) for n in range(3)] == [2, 3, 4]
    stored = records(spool, ALARM)
    for before, after in pairwise(stored):
        assert opened(after).prev == record_hash(before.data)
    last = opened(stored[-1])
    assert event_from_map(last.body) == event(n=2)
    assert (last.time.boot_ns, last.time.state) == (7_000_000_000, "unsynced")
    assert last.device == "gw-demo"
    assert journal.heads()[ALARM] == (4, record_hash(stored[-1].data))


def test_a_batch_holds_readings_events_and_counts() -> None:
    spool = MemorySpool()
    journal = journal_on(spool)
    reading = Reading("gps", "lat", "lat", 48.1, 6_500_000_000)
    assert journal.batch([reading], [event(a=1)], {"bulk_dropped": 3}) == 2
    record = opened(records(spool, BULK)[-1])
    assert record.kind == Kind.BATCH
    assert readings_from_senml(record.body["readings"], record.time.boot_ns) == [reading]
    assert record.body["counts"] == {"bulk_dropped": 3}
    events = record.body["events"]
    assert isinstance(events, list)
    assert [event_from_map(e) for e in events] == [event(a=1)]


def test_an_attestation_names_evidence_and_heads() -> None:
    spool = MemorySpool()
    journal = journal_on(spool)
    heads = journal.heads()
    journal.attestation(b"\x11" * 32, heads)
    body = opened(records(spool, AUDIT)[-1]).body
    assert body["evidence"] == b"\x11" * 32
    assert body["heads"] == {int(c): [seq, digest] for c, (seq, digest) in heads.items()}


def test_a_long_event_keeps_everything_but_its_detail() -> None:
    spool = MemorySpool()
    journal = journal_on(spool)
    journal.event(ALARM, event(text=["x" * 8000] * 8))
    detail = event_from_map(opened(records(spool, ALARM)[-1]).body).detail
    assert set(detail) == {"truncated_bytes"}
    assert int(str(detail["truncated_bytes"])) > MAX_EVENT_BYTES


def test_an_event_without_encoding_is_still_an_event() -> None:
    spool = MemorySpool()
    journal = journal_on(spool)
    journal.event(ALARM, event(n=1 << 70))
    got = event_from_map(opened(records(spool, ALARM)[-1]).body)
    assert set(got.detail) == {"unstorable"}


def test_a_batch_that_is_too_long_is_given_back() -> None:
    spool = MemorySpool()
    journal = journal_on(spool)
    readings = [Reading("s", "n", "", noise(1000, n), 1) for n in range(200)]
    with pytest.raises(Unstorable):
        journal.batch(readings, [], {})
    assert journal.heads()[BULK][0] == 1, "no sequence is used for what is not stored"


def test_eviction_is_signed_into_audit_before_the_records_go(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, 2 << 20)
    journal = journal_on(spool)
    readings = [Reading("s", "n", "", noise(900, n), 1) for n in range(60)]
    for _ in range(40):
        journal.batch(readings, [], {})
    evicted = spool.state()[BULK].evicted
    gaps = [r for s in records(spool, AUDIT) if (r := opened(s)).kind == Kind.GAP]
    assert evicted > 0
    assert len(gaps) >= 2
    covered = [
        n
        for g in gaps
        for n in range(int(str(g.body["first"])), int(str(g.body["last"])) + 1)
        if g.body["class"] == BULK
    ]
    assert covered == list(range(1, evicted + 1))
    assert gaps[-1].body["reason"] == "spool full"
    first_left = opened(records(spool, BULK)[0])
    assert first_left.seq == evicted + 1
    assert gaps[-1].body["after"] == first_left.prev
    assert gaps[0].body["before"] == NO_PREDECESSOR
    for one, other in pairwise(gaps):
        assert one.body["after"] == other.body["before"]
    assert [loss.reason for loss in journal.take_evictions()] == ["spool full"] * len(gaps)
    spool.close()


def test_what_was_acknowledged_goes_without_a_gap_statement(tmp_path: Path) -> None:
    """The newest segment, all of it acknowledged, is closed and given up for room."""
    spool = DiskSpool(tmp_path, 2 << 20)
    journal = journal_on(spool)
    journal.batch([Reading("s", "n", "", noise(900, n), 1) for n in range(60)], [], {})
    last = spool.state()[BULK].durable
    spool.ack(BULK, last)
    journal.event(AUDIT, event(n=1))  # an acknowledgement is durable with the next commit
    assert journal._evict("disk full")
    assert [opened(s).kind for s in records(spool, AUDIT) if opened(s).kind == Kind.GAP] == []
    assert spool.losses() == []
    assert (spool.state()[BULK].evicted, journal.take_evictions()) == (0, [])
    journal.batch([Reading("s", "n", "", "x", 1)], [], {})
    assert [opened(s).seq for s in records(spool, BULK)] == [last + 1]
    spool.close()


def test_when_only_alarms_are_left_a_new_one_is_refused_and_none_is_lost() -> None:
    spool = MemorySpool(cap_bytes=6000)
    journal = journal_on(spool)
    stored = 0
    while spool.room_for(ALARM, 600):
        journal.event(ALARM, event(text="x" * 200))
        stored += 1
    assert stored > 5
    with pytest.raises(SpoolFull):
        journal.event(ALARM, event(text="x" * 400))
    assert len(records(spool, ALARM)) == stored + 1


def test_on_a_full_disk_bulk_goes_and_the_alarm_is_stored() -> None:
    spool = MemorySpool()
    journal = journal_on(spool)
    for n in range(6):
        journal.batch([], [event(n=n)], {})
    spool.refuse = DiskFull("full")
    spool.has_ballast = True  # lending it makes the fake's disk writable again
    journal.event(ALARM, event(what="urgent"))
    assert not spool.has_ballast
    gap = opened(records(spool, AUDIT)[-1])
    assert (gap.kind, gap.body["reason"]) == (Kind.GAP, "disk full")
    assert event_from_map(opened(records(spool, ALARM)[-1]).body).detail == {"what": "urgent"}


def test_a_disk_full_for_good_is_said_and_takes_no_sequence() -> None:
    spool = MemorySpool()
    journal = journal_on(spool)
    spool.has_ballast = False
    spool.refuse = DiskFull("full")
    with pytest.raises(DiskFull):
        journal.event(ALARM, event())
    spool.refuse = HardwareFault("I/O error")
    with pytest.raises(HardwareFault):
        journal.event(ALARM, event())
    spool.refuse = None
    assert journal.event(ALARM, event()) == 2


def test_damage_is_explained_by_a_gap_record(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path, 4 << 20)
    journal = journal_on(spool)
    journal.event(ALARM, event())
    spool.close()
    (newest,) = (tmp_path / "alarm").glob("*.seg")
    newest.write_bytes(bytes(newest.stat().st_size))
    again = DiskSpool(tmp_path, 4 << 20)
    second = journal_on(again)
    (loss,) = second.explain_losses()
    assert second.explain_losses() == []
    gap = opened(records(again, AUDIT)[-1]).body
    assert (gap["class"], gap["first"], gap["last"]) == (ALARM, loss.first, loss.last)
    introduction = opened(records(again, ALARM)[0])
    assert introduction.seq == loss.last + 1
    assert introduction.prev == gap["after"]
    again.close()
