"""A disk that answers with I/O errors: what link and the record room make of a real EIO.

The ext4 lies on a loop device over another one, and that one is cut short and made whole again
(loopfs.ErringFs): the block layer answers reads and writes alike with EIO, and afterwards it is the
same disk with what was on it. So does a card that loses its contact for a while.

Here nothing can be read either, other than where a filesystem turns read-only
(test_memory_mode.py): not the backlog, not the folder it lies in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.daemon.clock import SystemClock
from edgewarden.daemon.storage import build_storage
from edgewarden.errors import EdgewardenError
from edgewarden.record.journal import Introduction
from edgewarden.record.reader import iterate, verify
from edgewarden.record.storage import StorageThread
from edgewarden.settings.schema import Settings
from edgewarden.trust.keys import FileSigner, verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import OCSF, Event, Reading, Severity
from edgewarden.wire.record import Kind, Record, RecordClass, decode_record
from tests.system import loopfs
from tests.system.worlds import IMAGE_MB, WAIT_S, world_on
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "loop-mount")

ALARM, AUDIT, BULK = RecordClass
OUTAGES = 3
WHO = Introduction(FileSigner.generate(), (b"leaf",), "test")


@pytest.mark.needs("mosquitto")
def test_a09_it_answers_with_io_errors_and_comes_back(tmp_path: Path) -> None:
    with loopfs.erring(tmp_path / "disk", IMAGE_MB) as disk, world_on(disk, tmp_path) as world:
        world.start()
        link = world.card.link
        assert link is not None
        disk.answer_with_errors()
        world.await_mode("memory")
        assert "EW-SPL-010" in world.codes()
        wait_until(lambda: "EW-SPL-010" in world.stage.findings(), WAIT_S)
        before = world.memory()[0]
        wait_until(lambda: world.memory()[0] > before + 1, WAIT_S)

        disk.heal()
        world.await_mode("disk")
        wait_until(lambda: not world.memory()[1], WAIT_S)
        wait_until(world.settled, WAIT_S)
        world.no_second_history()
        assert link.poll() is None, "one process, from end to end"
        assert not {"memory_gap", "memory_cut"} & world.stage.findings()


@contextlib.contextmanager
def storing(state: Path) -> Iterator[StorageThread]:
    """The storage as link builds it."""
    settings = Settings()
    settings = replace(
        settings,
        paths=replace(settings.paths, state=str(state)),
        spool=replace(settings.spool, cap_bytes=16 << 20, bulk_commit_s=3600),
    )
    storage = build_storage(settings, "gw-eio", WHO, FileSigner.generate(), SystemClock())
    storage.start()
    try:
        yield storage
    finally:
        storage.stop()


def tell(storage: StorageThread, numbers: range) -> bool:
    """Alarms and a batch of bulk, one commit each; whether the disk has them."""
    for n in numbers:
        event = Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, 1, {"n": n})
        storage.submit_event(event, ALARM)
        storage.submit_reading(Reading("s", "n", "", "x" * 2000, 1))
    try:
        storage.flush().result(WAIT_S)
    except EdgewardenError:
        return False
    return True


def opened(state: Path, record_class: RecordClass) -> list[Record]:
    return [
        decode_record(cose.open_envelope(s.data, ContentType.RECORD).payload)
        for s in iterate(state, record_class)
    ]


def alarms(records: list[Record]) -> list[int]:
    details = [r.body["detail"] for r in records if r.kind == Kind.EVENT]
    return [int(d["n"]) for d in details if isinstance(d, dict) and "n" in d]


def carried(state: Path) -> list[Record]:
    """What was signed in memory, as audit has it."""
    ends = [r.body["records"] for r in opened(state, AUDIT) if r.kind == Kind.MEMORY]
    datas = [data for end in ends if isinstance(end, list) for data in end]
    return [decode_record(cose.open_envelope(d, ContentType.MEMORY).payload) for d in datas]


@pytest.mark.parametrize("features", ["has_journal", "^has_journal"])
def test_a09_every_alarm_is_kept_over_io_errors(tmp_path: Path, features: str) -> None:
    """With a journal ext4 stops itself at the first error; without one it goes on, and only fsync
    tells."""
    told = 0
    with loopfs.erring(tmp_path, IMAGE_MB, features) as disk:
        with storing(disk.root) as storage:
            for _ in range(OUTAGES):
                assert tell(storage, range(told, told + 20))
                disk.answer_with_errors()
                assert not tell(storage, range(told + 20, told + 30))
                assert not tell(storage, range(told + 30, told + 40))
                told += 40
                with pytest.raises(EdgewardenError):  # and never OSError: that ends the uplink
                    asyncio.run(storage.peek(ALARM, 0, 1, 1 << 16))
                disk.heal()
                assert tell(storage, range(told, told))
                assert storage.memory().since_ns is None
        on_disk = alarms(opened(disk.root, ALARM)), alarms(carried(disk.root))
        assert verify(disk.root, verifier_for).ok
        assert all(on_disk)
        assert sorted(on_disk[0] + on_disk[1]) == list(range(told))
