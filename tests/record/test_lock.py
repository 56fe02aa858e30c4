"""One writer for one spool: the second is told, the first untouched, a dead one holds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgewarden.errors import HardwareFault, OperatorFault
from edgewarden.ports import Stored
from edgewarden.record.spool import DiskSpool
from edgewarden.wire.record import RecordClass

CAP = 4 << 20
ALARM = int(RecordClass.ALARM)
HOLDER = """
import sys
from pathlib import Path
from edgewarden.record.spool import DiskSpool
spool = DiskSpool(Path(sys.argv[1]), 4 << 20)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_writer_is_refused_and_the_first_loses_nothing(tmp_path: Path) -> None:
    first = DiskSpool(tmp_path, CAP)
    first.put([Stored(ALARM, 1, b"the record that must stay")])
    with pytest.raises(OperatorFault) as refused:
        DiskSpool(tmp_path, CAP)
    assert refused.value.code == "EW-SPL-009"
    first.put([Stored(ALARM, 2, b"second")])
    assert [s.data for s in first.peek(ALARM, 0, 9, 9999)] == [
        b"the record that must stay",
        b"second",
    ]
    first.close()


def test_closing_lets_the_next_one_in(tmp_path: Path) -> None:
    DiskSpool(tmp_path, CAP).close()
    second = DiskSpool(tmp_path, CAP)
    assert second.heads()[ALARM][0] == 0
    second.close()


def test_a_killed_writer_holds_nothing(tmp_path: Path) -> None:
    line = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(OperatorFault):
            DiskSpool(tmp_path, CAP)
        holder.kill()
        holder.wait(60)
    DiskSpool(tmp_path, CAP).close()
    assert (tmp_path / "lock").exists()


def test_a_folder_that_cannot_be_opened_lets_go_of_the_lock(tmp_path: Path) -> None:
    (tmp_path / "alarm").write_text("a file where a folder should be")
    with pytest.raises(HardwareFault):
        DiskSpool(tmp_path, CAP)
    (tmp_path / "alarm").unlink()
    DiskSpool(tmp_path, CAP).close()
    assert (tmp_path / "alarm").is_dir()
