"""A spool that holds more than its cap, since that became smaller: it starts, bulk goes with a
signed gap record, and alarms stay and go on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edgewarden.ports import ClassState
from edgewarden.record import lane as lane_module
from edgewarden.record import spool as spool_module
from edgewarden.record.journal import MAX_EVICTIONS, Introduction, Journal, SpoolFull
from edgewarden.record.quota import MIN_CAP_BYTES, Quotas
from edgewarden.record.reader import iterate, verify
from edgewarden.record.segment import SUFFIX, remove_files
from edgewarden.record.spool import FOLDER, MIN_SEGMENT_BYTES, DiskSpool
from edgewarden.record.storage import StorageThread
from edgewarden.settings.faults import SettingsFaults
from edgewarden.settings.source import SourceFile
from edgewarden.settings.validate import load
from edgewarden.trust.keys import FileSigner, verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import OCSF, Event, Plain, Reading, Severity
from edgewarden.wire.record import Kind, Record, RecordClass, decode_record
from tests.fakes.clock import FakeClock
from tests.noise import noise

ALARM, AUDIT, BULK = RecordClass
KEY = FileSigner.generate()
WHO = Introduction(KEY, (b"leaf",), "test")
BEFORE_BYTES = 64 << 20
BATCHES = 4 * MAX_EVICTIONS
"""Two a segment: more of those have to go than one record may give up one by one."""
WAIT_S = 30.0


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many files as a spool of gigabytes has."""
    monkeypatch.setattr(spool_module, "MAX_SEGMENT_BYTES", MIN_SEGMENT_BYTES)


def event(n: int, size_bytes: int = 100) -> Event:
    detail: dict[str, Plain] = {"n": n, "text": noise(size_bytes, n)}
    return Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, 1, detail)


@contextmanager
def opened(state: Path, cap_bytes: int) -> Iterator[Journal]:
    spool = DiskSpool(state / FOLDER, cap_bytes)
    journal = Journal(spool, "gw-demo", FakeClock(), FileSigner.generate())
    try:
        journal.introduce(WHO)
        yield journal
    finally:
        spool.close()


def held(state: Path, alarms: int, audits: int, batches: int) -> None:
    """A spool as an earlier start left it."""
    with opened(state, BEFORE_BYTES) as journal:
        for n in range(alarms):
            journal.event(ALARM, event(n))
        for n in range(audits):
            journal.event(AUDIT, event(n, 30_000))
        for n in range(batches):
            texts = [noise(1000, 100 * n + i) for i in range(66)]
            journal.batch([Reading("s", "n", "", text, 1) for text in texts], [], {})


def records(state: Path, record_class: RecordClass) -> list[Record]:
    return [
        decode_record(cose.open_envelope(s.data, ContentType.RECORD).payload)
        for s in iterate(state, record_class)
    ]


def numbers(state: Path, record_class: RecordClass) -> list[int]:
    details = [r.body["detail"] for r in records(state, record_class) if r.kind == Kind.EVENT]
    return [int(d["n"]) for d in details if isinstance(d, dict) and "n" in d]


def gaps(state: Path) -> list[tuple[int, int, str]]:
    bodies = [r.body for r in records(state, AUDIT) if r.kind == Kind.GAP]
    return [(int(str(b["first"])), int(str(b["last"])), str(b["reason"])) for b in bodies]


def total(state: dict[int, ClassState]) -> int:
    return sum(one.bytes for one in state.values())


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Far more bulk than the smaller cap allows."""
    state = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(spool_module, "MAX_SEGMENT_BYTES", MIN_SEGMENT_BYTES)
        held(state, alarms=5, audits=2, batches=BATCHES)
    return state


@pytest.mark.parametrize("record_class", RecordClass)
def test_bulk_goes_at_the_first_record_and_every_alarm_stays(
    full: Path, tmp_path: Path, record_class: RecordClass
) -> None:
    shutil.copytree(full / FOLDER, tmp_path / FOLDER)
    files = len(list((tmp_path / FOLDER / "bulk").glob("*" + SUFFIX)))
    with opened(tmp_path, MIN_CAP_BYTES) as journal:
        assert total(journal.spool.state()) > 2 * MIN_CAP_BYTES
        if record_class is BULK:
            journal.batch([Reading("s", "n", "", "x", 1)], [], {})
        else:
            journal.event(record_class, event(99))
        state = journal.spool.state()
        assert total(state) <= MIN_CAP_BYTES
        share = Quotas().quota_bytes(MIN_CAP_BYTES, BULK)
        assert state[BULK].bytes > share - 4 * MIN_SEGMENT_BYTES, "no more than had to go"
        left = len(list((tmp_path / FOLDER / "bulk").glob("*" + SUFFIX)))
        assert files - left > MAX_EVICTIONS
        evicted = state[BULK].evicted
    assert gaps(tmp_path)[0] == (1, gaps(tmp_path)[0][1], "spool full")
    assert len(gaps(tmp_path)) <= 2, "one gap record for all that was too much"
    assert gaps(tmp_path)[-1][1] == evicted
    assert numbers(tmp_path, ALARM) == [*range(5), *([99] if record_class is ALARM else [])]
    assert numbers(tmp_path, AUDIT) == [0, 1, *([99] if record_class is AUDIT else [])]
    report = verify(tmp_path, verifier_for)
    assert report.ok, report
    assert report.classes[BULK].first == evicted + 1


@pytest.mark.parametrize("deleted", [0, 3, 20])
def test_a_power_cut_before_the_last_deletion_tells_and_counts_nothing_twice(
    full: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: int
) -> None:
    class PowerCut(BaseException):
        pass

    left = [deleted]

    def until_the_cut(path: Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise PowerCut
        remove_files(path)

    shutil.copytree(full / FOLDER, tmp_path / FOLDER)
    with opened(tmp_path, MIN_CAP_BYTES) as journal, monkeypatch.context() as patched:
        patched.setattr(lane_module, "remove_files", until_the_cut)
        with pytest.raises(PowerCut):
            journal.event(ALARM, event(99))
    with opened(tmp_path, MIN_CAP_BYTES) as journal:
        assert total(journal.spool.state()) < 2 * MIN_CAP_BYTES
        journal.event(ALARM, event(98))
        evicted = journal.spool.state()[BULK].evicted
        assert [s.seq for s in journal.spool.peek(BULK, 0, 1, 1)] == [evicted + 1]
    told = gaps(tmp_path)
    assert [first for first, *_ in told] == [1, *[last + 1 for _, last, _ in told[:-1]]]
    assert told[-1][1] == evicted
    assert verify(tmp_path, verifier_for).ok


def test_alarms_go_on_where_audit_alone_is_more_than_the_cap(tmp_path: Path) -> None:
    held(tmp_path, alarms=5, audits=160, batches=8)
    with opened(tmp_path, MIN_CAP_BYTES) as journal:
        audit = journal.spool.state()[AUDIT]
        assert audit.bytes > MIN_CAP_BYTES
        journal.event(ALARM, event(5))
        assert journal.spool.state()[BULK].evicted == 0, "it would not help"
        with pytest.raises(SpoolFull):
            journal.event(AUDIT, event(999))
        with pytest.raises(SpoolFull):
            journal.batch([], [], {"seen": 1})
        journal.event(ALARM, event(6))
        assert journal.spool.state()[BULK].evicted == 0, "nor would it have helped those"
        journal.spool.ack(AUDIT, audit.durable)
        journal.event(AUDIT, event(160))
        journal.batch([], [], {"seen": 1})
    assert numbers(tmp_path, ALARM) == list(range(7))
    assert verify(tmp_path, verifier_for).ok


def test_what_is_refused_all_the_same_costs_bulk_what_is_beyond_its_quota_alone(
    full: Path, tmp_path: Path
) -> None:
    """The smaller cap allows bulk its quota; what lies above it goes, whoever asks."""
    shutil.copytree(full / FOLDER, tmp_path / FOLDER)
    with opened(tmp_path, BEFORE_BYTES) as journal:
        for n in range(2, 160):
            journal.event(AUDIT, event(n, 30_000))
    quota = Quotas().quota_bytes(MIN_CAP_BYTES, BULK)
    with opened(tmp_path, MIN_CAP_BYTES) as journal:
        for _ in range(3):
            with pytest.raises(SpoolFull):
                journal.event(AUDIT, event(999))
            assert 0 <= quota - journal.spool.state()[BULK].bytes < 4 * MIN_SEGMENT_BYTES
    assert verify(tmp_path, verifier_for).ok


def test_no_refusal_costs_bulk_however_little_is_missing(tmp_path: Path) -> None:
    """Audit up to where the alarms' quota begins, then whatever is left, to the last byte."""
    held(tmp_path, alarms=1, audits=100, batches=4)
    refused = 0
    with opened(tmp_path, MIN_CAP_BYTES) as journal:
        for size_bytes in (30_000, 20_000, 10_000, 7000, 5000, 4000, 3000, 2000, 1000, 1):
            with suppress(SpoolFull):
                while True:
                    before = journal.spool.state()[BULK].evicted
                    journal.event(AUDIT, event(999, size_bytes))
            assert journal.spool.state()[BULK].evicted == before, size_bytes
            refused += 1
        assert journal.spool.state()[BULK].evicted > 0, "what helps goes"
    assert refused == 10
    assert verify(tmp_path, verifier_for).ok


@pytest.mark.parametrize(
    ("audit_bytes", "damaged_bytes", "whose"),
    [(3_900_000, 0, BULK), (2_400_000, 1_400_000, BULK), (3_700_000, 200_000, ALARM)],
)
def test_alarms_find_their_quota_beside_what_cannot_go(
    tmp_path: Path, audit_bytes: int, damaged_bytes: int, whose: RecordClass
) -> None:
    """The file that bulk goes on in stays, however little audit left; so does a damaged one."""
    n = 0
    with opened(tmp_path, BEFORE_BYTES) as journal:
        while journal.spool.state()[AUDIT].bytes < audit_bytes:
            journal.event(AUDIT, event(n, 10_000))
            n += 1
        journal.batch([], [], {"seen": 1})
    if damaged_bytes:
        (good,) = (tmp_path / FOLDER / whose.label).glob("*" + SUFFIX)
        with good.with_suffix(".bad").open("wb") as file:
            file.truncate(damaged_bytes)
    quota = Quotas().quota_bytes(MIN_CAP_BYTES, ALARM)
    with opened(tmp_path, MIN_CAP_BYTES) as journal:
        n = 0
        beside = damaged_bytes if whose is ALARM else 0
        while journal.spool.state()[ALARM].bytes - beside < quota - 2000:
            journal.event(ALARM, event(n))
            n += 1
    assert numbers(tmp_path, ALARM) == list(range(n))


def test_the_storage_starts_on_it_and_tells_once(full: Path, tmp_path: Path) -> None:
    shutil.copytree(full / FOLDER, tmp_path / FOLDER)
    clock = FakeClock()
    storage = StorageThread(
        lambda: Journal(DiskSpool(tmp_path / FOLDER, MIN_CAP_BYTES), "gw-demo", clock, KEY),
        WHO,
        clock,
        bulk_commit_s=3600,
        bulk_commit_bytes=1 << 16,
    )
    storage.start()
    try:
        storage.submit_event(event(5), ALARM)
        storage.submit_event(event(2), AUDIT)
        storage.flush().result(WAIT_S)
        assert (storage.fault(), storage.lost()) == (None, 0)
        assert total(storage.state()) <= MIN_CAP_BYTES
    finally:
        storage.stop()
    assert numbers(tmp_path, ALARM) == list(range(6))
    told = [r.body["code"] for r in records(tmp_path, ALARM) if r.body.get("code")]
    assert told == ["EW-SPL-003"]
    assert verify(tmp_path, verifier_for).ok


def test_the_least_cap_is_the_one_of_the_settings() -> None:
    def asked(cap_bytes: int) -> int:
        text = f"[spool]\ncap_bytes = {cap_bytes}\n"
        return load([SourceFile("edgewarden.toml", text)]).settings.spool.cap_bytes

    assert asked(MIN_CAP_BYTES) == MIN_CAP_BYTES
    with pytest.raises(SettingsFaults):
        asked(MIN_CAP_BYTES - 1)
