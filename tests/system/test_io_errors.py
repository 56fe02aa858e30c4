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
from edgewarden.daemon.storage import build_storage, cap_for
from edgewarden.errors import EdgewardenError
from edgewarden.ports import Stored
from edgewarden.record.fresh import FRESH_BYTES
from edgewarden.record.journal import Introduction
from edgewarden.record.patience import LOOKS
from edgewarden.record.reader import iterate, verify
from edgewarden.record.storage import StorageThread
from edgewarden.settings.schema import Settings
from edgewarden.trust.keys import FileSigner, verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import OCSF, Event, Reading, Severity
from edgewarden.wire.record import Kind, Record, RecordClass, decode_record
from tests.noise import noise
from tests.system import loopfs
from tests.system.worlds import IMAGE_MB, WAIT_S, world_on
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "loop-mount")

ALARM, AUDIT, BULK = RecordClass
OUTAGES = 3
MADE_MB = 22
"""Of IMAGE_MB: what is behind it gets the sectors that will be bad."""
TEXT_BYTES, LONG_BYTES = 1000, 4000
"""Of an alarm; twenty of the long ones are more than what is kept of the newest records
(record/fresh.py): the first is asked of the disk."""
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
        spool=replace(settings.spool, cap_bytes=16 << 20, cap_percent=95, bulk_commit_s=3600),
    )
    cap, key = cap_for(settings), FileSigner.generate()
    storage = build_storage(settings, cap, "gw-eio", WHO, key, SystemClock())
    storage.start()
    try:
        yield storage
    finally:
        storage.stop()


def tell(storage: StorageThread, numbers: range, size_bytes: int = TEXT_BYTES) -> bool:
    """Alarms and a batch of bulk, one commit each; whether the disk has them."""
    for n in numbers:
        detail = {"n": n, "text": noise(size_bytes, n)}
        event = Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, 1, detail)
        storage.submit_event(event, ALARM)
        storage.submit_reading(Reading("s", "n", "", noise(2000, n), 1))
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
                assert tell(storage, range(told, told + 20), LONG_BYTES)
                assert 20 * LONG_BYTES > FRESH_BYTES
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


def drained(storage: StorageThread, told: int) -> tuple[list[Stored], int]:
    """All alarms as an uplink asks for them, which goes on asking when it is refused, and how often
    that was; meanwhile a gateway has more to tell, ``told`` and on."""
    found, refused = list[Stored](), 0
    while refused < 3 * LOOKS:
        after = found[-1].seq if found else 0
        try:
            more = asyncio.run(storage.peek(ALARM, after, 32, 1 << 16))
        except EdgewardenError:
            refused += 1
            assert tell(storage, range(told, told + 1)), "the disk takes what it is given"
            told += 1
            assert asyncio.run(storage.peek(BULK, 0, 1, 1 << 16)), "the other classes go on"
            continue
        if not more:
            break
        found += more
    return found, refused


def test_a09_bad_sectors_hold_up_no_class_and_what_they_cost_is_told(tmp_path: Path) -> None:
    """In the middle of what waits, so that all that comes behind would wait for ever."""
    told = 400
    with loopfs.erring(tmp_path, IMAGE_MB, made_mb=MADE_MB) as disk:
        with storing(disk.root) as storage:
            assert tell(storage, range(told))
        oldest, *others = sorted((disk.root / "spool" / "alarm").glob("*.seg"))
        assert others
        disk.spoil(oldest, oldest.stat().st_size // 2)
        with storing(disk.root) as storage:
            found, refused = drained(storage, told)
            assert refused == LOOKS - 1
            assert tell(storage, range(0))
            durable = storage.state()[ALARM].durable
        came = {one.seq for one in found}
        missing = [n for n in range(1, durable + 1) if n not in came]
        gaps = [r.body for r in opened(disk.root, AUDIT) if r.kind == Kind.GAP]
        named = [n for g in gaps for n in range(int(str(g["first"])), int(str(g["last"])) + 1)]
        codes = [r.body.get("code") for r in opened(disk.root, ALARM)]
    behind = int(others[0].name[:16])
    assert missing
    assert max(missing) < behind, "nothing is lost of another file"
    assert min(missing) > 20, "what can be read in front of it is kept"
    assert named == missing, "each loss is signed, and nothing else"
    assert "EW-SPL-002" in codes


def test_a09_what_cannot_be_read_for_a_moment_is_not_lost(tmp_path: Path) -> None:
    """SQLite calls a page that the device does not give a damaged one."""
    told = 400
    with loopfs.erring(tmp_path, IMAGE_MB) as disk:
        with storing(disk.root) as storage:
            assert tell(storage, range(told))
        with storing(disk.root) as storage:
            assert len(asyncio.run(storage.peek(ALARM, 0, 32, 1 << 16))) == 32  # the file is open
            disk.answer_with_errors()
            with pytest.raises(EdgewardenError):
                asyncio.run(storage.peek(ALARM, 64, 32, 1 << 16))
            disk.answer_again()
            assert storage.fault() is None, "nothing was written, nothing was refused"
            found, refused = drained(storage, told)
            assert refused == 0
            assert [one.seq for one in found] == list(range(1, storage.state()[ALARM].durable + 1))
        assert verify(disk.root, verifier_for).ok
        assert alarms(opened(disk.root, ALARM)) == list(range(told))
