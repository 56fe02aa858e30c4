"""Data plane, acceptance 11: offline with twice the quota of records.

The disk never holds more than the cap and one segment, looked at after every commit; the signed gap
records name exactly the sequences that are missing at a real broker's subscriber, no more and no
less; all alarms arrive, before any reading. ``--runs N`` makes it N times the quota more.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from edgewarden.daemon.clock import SystemClock
from edgewarden.link.drain import FETCH_COUNT
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.quota import Quotas
from edgewarden.record.spool import BALLAST, FOLDER, MAX_SEGMENT_BYTES, DiskSpool
from edgewarden.record.storage import StorageThread
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import Reading
from edgewarden.wire.record import Kind, Record, RecordClass, RecordTime, decode_record
from tests.broker import Broker, Pki, Subscriber
from tests.noise import noise
from tests.system.uplinks import DEVICE, Gateway, event
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")

ALARM, AUDIT, BULK = RecordClass
CAP_BYTES = 16 << 20
SEGMENT_BYTES = 3 << 20
"""A segment of 1.4 MB (an eighth of bulk's 70 %), and the log beside it of at most 2 MB."""
BATCH_FACTS, FACT_BYTES = 30, 2000
WAIT_S = 120.0


def storing(state: Path, cap_bytes: int = CAP_BYTES) -> StorageThread:
    clock, key = SystemClock(), FileSigner.generate()
    storage = StorageThread(
        lambda: Journal(
            DiskSpool(state / FOLDER, cap_bytes, Quotas(free_percent=0)), DEVICE, clock, key
        ),
        Introduction(FileSigner.generate(), (b"leaf",), "test"),
        clock,
        bulk_commit_s=3600,
        bulk_commit_bytes=1 << 17,
    )
    storage.start()
    return storage


def used_bytes(state: Path) -> int:
    """What lies on the disk; a file that goes meanwhile counts nothing."""
    found = 0
    for path in (state / FOLDER).rglob("*"):
        if path.name != BALLAST and path.is_file():
            found += path.stat().st_size
    return found


def write_offline(storage: StorageThread, state: Path, total_bytes: int) -> tuple[int, int]:
    """Alarms, audit records and batches, total_bytes of batches; (most on disk, alarms)."""
    most, alarms = 0, 0
    for n in range(total_bytes // (BATCH_FACTS * FACT_BYTES)):
        for i in range(BATCH_FACTS):
            text = noise(FACT_BYTES, n * BATCH_FACTS + i)
            storage.submit_reading(Reading("s", "n", "", text, 1))
        if n % 3 == 0:
            storage.submit_event(event(n=alarms, text="a" * 500), ALARM)
            storage.submit_event(event(n=alarms, text="u" * 500), AUDIT)
            alarms += 1
        storage.flush().result(WAIT_S)
        most = max(most, used_bytes(state))
    return most, alarms


def heard_records(heard: Subscriber) -> list[Record]:
    """As they came, each once."""
    seen: dict[tuple[int, int], Record] = {}
    for topic, payload, _ in heard.messages:
        if "/r/" in topic:
            record = decode_record(cose.open_envelope(payload, ContentType.RECORD).payload)
            seen.setdefault((record.record_class, record.seq), record)
    return list(seen.values())


def told_and_missing(records: list[Record], durable: int) -> tuple[list[int], list[int]]:
    """Bulk sequences that gap records name (each as often as named), and those that never came."""
    gaps = [r.body for r in records if r.kind == Kind.GAP and r.body["class"] == BULK]
    told = [n for g in gaps for n in range(int(str(g["first"])), int(str(g["last"])) + 1)]
    came = {r.seq for r in records if r.record_class == BULK}
    return sorted(told), [n for n in range(1, durable + 1) if n not in came]


def test_a11_twice_the_quota_offline_is_bounded_counted_and_alarms_come_first(
    tmp_path: Path, broker: Broker, pki: Pki, runs: int
) -> None:
    state = tmp_path / "state"
    storage = storing(state)
    try:
        total = 2 * Quotas().quota_bytes(CAP_BYTES, BULK) * max(1, runs // 20)
        most, alarms = write_offline(storage, state, total)
        before = storage.state()
    finally:
        storage.stop()
    assert before[BULK].evicted > 0
    assert most <= CAP_BYTES + SEGMENT_BYTES
    pair = pki.folder / f"{DEVICE}.pem", pki.folder / f"{DEVICE}.key"
    fleet = pki.folder / "fleet.pem", pki.folder / "fleet.key"
    with (
        Subscriber(broker.port, pki.context(*fleet), ["ew/1/#"]) as heard,
        Gateway(state, broker.port, lambda: pki.context(*pair)) as one,
    ):
        wait_until(one.drained, WAIT_S)
        last = one.storage.state()
        wait_until(lambda: len(heard_records(heard)) >= _expected(last), WAIT_S)
        records = heard_records(heard)
    told, missing = told_and_missing(records, last[BULK].durable)
    assert told == missing == list(range(1, before[BULK].evicted + 1))
    details = [r.body["detail"] for r in records if r.record_class == ALARM and "detail" in r.body]
    numbers = [d["n"] for d in details if isinstance(d, dict) and "n" in d]
    assert numbers == list(range(alarms)), "every alarm, in order"
    at = [i for i, r in enumerate(records) if _is_old_alarm(r, before[ALARM].durable)]
    ahead = Counter(r.record_class for r in records[: max(at)])
    assert len(at) > 2 * FETCH_COUNT, "alarms are fetched in several turns"
    assert ahead == {ALARM: len(at) - 1}, "alarms all first"


def _expected(state: dict[int, object]) -> int:
    return sum(int(s.durable) - int(s.evicted) for s in state.values())  # type: ignore[attr-defined]


def _is_old_alarm(record: Record, upto: int) -> bool:
    return record.record_class == ALARM and record.seq <= upto


def test_a11_the_harness_sees_a_spool_without_a_bound(tmp_path: Path) -> None:
    """Negative control: what the test above writes is more than it allows to lie there."""
    storage = storing(tmp_path, CAP_BYTES * 8)
    try:
        most, _ = write_offline(storage, tmp_path, 2 * Quotas().quota_bytes(CAP_BYTES, BULK))
        assert storage.state()[BULK].evicted == 0
    finally:
        storage.stop()
    assert most > CAP_BYTES + SEGMENT_BYTES
    assert MAX_SEGMENT_BYTES > SEGMENT_BYTES


def test_a11_the_harness_sees_a_gap_record_that_says_another_number() -> None:
    """Negative control: one sequence too many or too few shows."""

    def record(record_class: RecordClass, seq: int, kind: str, body: dict[str, object]) -> Record:
        when = RecordTime(1, 1, None, "unsynced")
        return Record(DEVICE, bytes(16), record_class, seq, bytes(32), when, kind, body)

    came = [record(BULK, n, Kind.BATCH, {}) for n in (4, 5)]
    for last in (2, 3, 4):
        gap = record(AUDIT, 1, Kind.GAP, {"class": int(BULK), "first": 1, "last": last})
        told, missing = told_and_missing([*came, gap], 5)
        assert (told == missing) is (last == 3)
