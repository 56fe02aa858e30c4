"""A disk that somebody else filled: bulk goes, its gap is signed, alarms stay, and all is well
afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.daemon.clock import SystemClock
from edgewarden.errors import HardwareFault
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.reader import iterate, verify
from edgewarden.record.spool import BALLAST, FOLDER, DiskSpool
from edgewarden.record.storage import StorageThread
from edgewarden.trust.keys import FileSigner, verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import OCSF, Event, Plain, Reading, Severity
from edgewarden.wire.record import Kind, Record, RecordClass, decode_record
from tests.noise import noise
from tests.system import loopfs
from tests.system.cards import Card, standing
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "loop-mount")

ALARM, AUDIT, BULK = RecordClass
KEY = FileSigner.generate()
IMAGE_MB = 24
CAP_BYTES = 16 << 20
WAIT_S = 60.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[loopfs.LoopFs]:
    with loopfs.made(tmp_path, IMAGE_MB) as fs:
        yield fs


@contextlib.contextmanager
def storing(fs: loopfs.LoopFs) -> Iterator[StorageThread]:
    clock = SystemClock()
    storage = StorageThread(
        lambda: Journal(DiskSpool(fs.root / FOLDER, CAP_BYTES), "gw-full", clock, KEY),
        Introduction(KEY, (b"leaf",), "test"),
        clock,
        bulk_commit_s=3600,
        bulk_commit_bytes=1 << 16,
    )
    storage.start()
    try:
        yield storage
    finally:
        storage.stop()


def alarm(**detail: Plain) -> Event:
    return Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, 1, detail)


def add_bulk(storage: StorageThread, batches: int) -> None:
    for n in range(batches):
        for i in range(30):
            storage.submit_reading(Reading("s", "n", "", noise(2000, 30 * n + i), 1))
        with contextlib.suppress(HardwareFault):
            storage.flush().result(WAIT_S)


def fill_up(fs: loopfs.LoopFs) -> Path:
    """Another program takes every block that is left."""
    hog = fs.root / "hog"
    with hog.open("ab") as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), b"h" * size)
    with pytest.raises(OSError, match="No space") as caught:
        (fs.root / "probe").write_bytes(b"x" * 4096)
    assert caught.value.errno == errno.ENOSPC
    (fs.root / "probe").unlink(missing_ok=True)
    return hog


def opened(fs: loopfs.LoopFs, record_class: RecordClass) -> list[Record]:
    return [
        decode_record(cose.open_envelope(s.data, ContentType.RECORD).payload)
        for s in iterate(fs.root, record_class)
    ]


def details(fs: loopfs.LoopFs) -> list[object]:
    return [r.body["detail"] for r in opened(fs, ALARM) if r.kind == Kind.EVENT]


def test_a09_bulk_is_evicted_with_a_signed_gap_and_every_alarm_is_kept(disk: loopfs.LoopFs) -> None:
    """Acceptance 9 (dataplane), ENOSPC."""
    with storing(disk) as storage:
        add_bulk(storage, 80)
        fill_up(disk)
        for n in range(400):
            storage.submit_event(alarm(n=n, text=noise(1000, n)), ALARM)
            if n % 40 == 0:
                add_bulk(storage, 2)
        storage.flush().result(WAIT_S)
        assert storage.fault() is None
        assert storage.totals()["alarm_events"] == 400
        assert storage.state()[BULK].evicted > 0
    kept = [d for d in details(disk) if isinstance(d, dict) and "n" in d]
    assert [d["n"] for d in kept] == list(range(400))
    told = [r.body["code"] for r in opened(disk, ALARM) if r.body.get("code")]
    assert told == ["EW-SPL-006"] * 2, "one each about the disk and what went, not one per record"
    gaps = [r.body for r in opened(disk, AUDIT) if r.kind == Kind.GAP]
    assert {g["reason"] for g in gaps} == {"disk full"}
    report = verify(disk.root, verifier_for)
    assert report.ok, report
    assert report.classes[BULK].gaps[0][0] == 1


def test_a09_with_nothing_to_evict_the_ballast_carries_the_alarms(disk: loopfs.LoopFs) -> None:
    with storing(disk) as storage:
        storage.flush().result(WAIT_S)
        assert (disk.root / FOLDER / BALLAST).exists()
        fill_up(disk)
        for n in range(100):
            storage.submit_event(alarm(n=n, text="x" * 500), ALARM)
        storage.flush().result(WAIT_S)
        assert not (disk.root / FOLDER / BALLAST).exists()
    assert [d["n"] for d in details(disk) if isinstance(d, dict) and "n" in d] == list(range(100))
    assert verify(disk.root, verifier_for).ok


def test_a09_it_recovers_when_space_returns(disk: loopfs.LoopFs) -> None:
    with storing(disk) as storage:
        add_bulk(storage, 20)
        hog = fill_up(disk)
        add_bulk(storage, 40)
        lost = storage.totals().get("bulk_no_room", 0) + storage.state()[BULK].evicted
        assert lost > 0
        hog.unlink()
        before = storage.state()[BULK]
        add_bulk(storage, 20)
        after = storage.state()[BULK]
        assert storage.fault() is None
        assert after.durable >= before.durable + 10
        assert after.evicted == before.evicted
        assert (disk.root / FOLDER / BALLAST).exists(), "the reserve is taken again"
    assert verify(disk.root, verifier_for).ok


def test_a09_it_starts_on_a_full_disk_and_loses_nothing_it_had(disk: loopfs.LoopFs) -> None:
    with storing(disk) as storage:
        add_bulk(storage, 40)
        for n in range(10):
            storage.submit_event(alarm(n=n), ALARM)
        storage.flush().result(WAIT_S)
    fill_up(disk)
    (disk.root / FOLDER / BALLAST).unlink()
    fill_up(disk)  # the ballast is gone, too
    had = [r.seq for r in opened(disk, ALARM)]
    with storing(disk) as storage:
        assert storage.alive()
        storage.submit_event(alarm(n=10), ALARM)
        with contextlib.suppress(HardwareFault):
            storage.flush().result(WAIT_S)
        (disk.root / "hog").unlink()
        storage.flush().result(WAIT_S)
        assert storage.fault() is None
    assert [r.seq for r in opened(disk, ALARM)][: len(had)] == had
    kept = [d["n"] for d in details(disk) if isinstance(d, dict) and "n" in d]
    assert kept == list(range(11))
    assert verify(disk.root, verifier_for).ok


@pytest.mark.needs("mosquitto")
def test_status_says_it_while_readings_are_counted_and_not_stored() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ew-tight-") as folder,
        loopfs.made(Path(folder), IMAGE_MB) as fs,
        standing(Path(folder)) as stage,
    ):
        enrolled = stage.enrolled().state
        card = stage.keep(Card(Path(shutil.copytree(enrolled, fs.root / "gw"))))
        text = card.settings.read_text()
        card.settings.write_text(text.replace("[spool]\n", "[spool]\nfree_percent = 50\n"))

        def said() -> dict[str, str]:
            reasons = card.status().get("reasons")
            assert isinstance(reasons, list)
            return {one["code"]: one["next"] for one in reasons}

        card.start()
        wait_until(lambda: "reasons" in card.status() and "EW-AGT-002" not in said(), WAIT_S)
        assert "EW-SPL-006" not in said()
        hog = fs.root / "hog"
        free = os.statvfs(fs.root)
        hog.write_bytes(bytes(free.f_bavail * free.f_frsize * 3 // 4))
        wait_until(lambda: said().get("EW-SPL-006"), WAIT_S)
        assert card.status()["verdict"] == "failing"
        hog.unlink()
        wait_until(lambda: "EW-SPL-006" not in said(), WAIT_S)
