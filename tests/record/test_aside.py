"""A record that a broker will never take: durable beside the spool, named by a signed gap, and the
class goes on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.ports import Stored
from edgewarden.record.aside import MAX_RECORDS, Aside
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.spool import DiskSpool
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import OCSF, Event, Severity
from edgewarden.wire.record import Kind, RecordClass, decode_record, record_hash
from tests.fakes.clock import FakeClock

ALARM, AUDIT, BULK = RecordClass


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    spool = DiskSpool(tmp_path / "spool", 8 << 20)
    made = Journal(spool, "gw-demo", FakeClock(), FileSigner.generate())
    made.introduce(Introduction(FileSigner.generate(), (b"leaf",), "1"))
    for n in range(3):
        made.event(ALARM, Event(OCSF.HEALTH, 1, Severity.HIGH, 1, {"n": n}))
    spool.ack(ALARM, 1)
    return made


def test_the_record_is_kept_as_it_is_and_a_gap_names_it(journal: Journal, tmp_path: Path) -> None:
    box = Aside(tmp_path / "aside")
    before, bad, after = journal.spool.peek(ALARM, 0, 9, 1 << 20), 2, 3
    assert [r.seq for r in before] == [2, 3, 4]
    assert journal.set_aside(ALARM, bad, "set aside: 0x95", box)
    (kept,) = (tmp_path / "aside").iterdir()
    assert kept.name == "alarm-0000000000000002.cose"
    assert kept.read_bytes() == before[0].data
    assert [r.seq for r in journal.spool.peek(ALARM, 0, 9, 1 << 20)] == [after, after + 1]
    gap = decode_record(
        cose.open_envelope(journal.spool.peek(AUDIT, 1, 9, 1 << 20)[-1].data, ContentType.RECORD)
        .payload
    )  # fmt: skip
    assert gap.kind == Kind.GAP
    assert (gap.body["class"], gap.body["first"], gap.body["last"]) == (int(ALARM), bad, bad)
    assert gap.body["after"] == record_hash(before[0].data)
    assert gap.body["reason"] == "set aside: 0x95"
    journal.spool.close()
    again = DiskSpool(tmp_path / "spool", 8 << 20)
    assert again.losses() == [], "a start takes it for no damage"
    again.close()


def test_what_is_not_the_oldest_unaccepted_record_stays(journal: Journal, tmp_path: Path) -> None:
    box = Aside(tmp_path / "aside")
    assert not journal.set_aside(ALARM, 9, "no such record", box)
    assert not (tmp_path / "aside").exists()
    journal.spool.close()


def test_a_full_box_takes_no_more_and_nothing_is_accepted(journal: Journal, tmp_path: Path) -> None:
    box = Aside(tmp_path / "aside")
    for seq in range(1, MAX_RECORDS + 1):
        assert box.keep(Stored(int(BULK), seq, b"x"))
    assert box.keep(Stored(int(BULK), 1, b"x")), "the same one again is one file"
    assert not journal.set_aside(ALARM, 2, "set aside", box)
    assert journal.spool.state()[ALARM].acked == 1
    assert len(list((tmp_path / "aside").iterdir())) == MAX_RECORDS
    journal.spool.close()


def test_a_disk_that_refuses_leaves_the_record_where_it_is(
    journal: Journal, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HardwareFault):
        journal.set_aside(ALARM, 2, "set aside", Aside(tmp_path / "file" / "aside"))
    assert journal.spool.state()[ALARM].acked == 1
    journal.spool.close()
