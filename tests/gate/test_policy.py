"""What gate believes of the policy files: a policy goes forward only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.errors import OperatorFault
from edgewarden.gate.doors import Doors
from edgewarden.gate.policy import Policy
from edgewarden.judge.exec_table import EMPTY, compile_list
from edgewarden.wire.gate_files import ExecTier, compile_gate_config

pytestmark = pytest.mark.needs("root")


class Files:
    """state/policy as the one-shot leaves it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "policy"
        self.folder.mkdir(mode=0o755)
        (folder / "run").mkdir()
        (self.folder / "gate.conf").write_bytes(compile_gate_config([], "learn", link_uid=0))
        self.put("a", 7)
        self.doors = Doors(str(folder))
        self.policy = self.start()

    def start(self) -> Policy:
        """As gate does."""
        if self.doors.run_fd >= 0:
            os.close(self.doors.run_fd)
        return Policy(self.doors, str(self.folder.parent / "run"))

    def tier(self, tier: str, reason: str = "EINVAL") -> None:
        """The canary's word, written as it writes it."""
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fresh = self.folder.parent / "run" / ".new"
        fresh.write_bytes(ExecTier(tier, "none", reason, boot_id).dump())
        fresh.rename(fresh.with_name("exec-tier"))

    def put(self, name: str, generation: int) -> None:
        table = compile_list([(name, name.encode() * 32)], generation=generation)
        (self.folder / "exec.table").write_bytes(table)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    made = Files(tmp_path)
    yield made
    os.close(made.doors.proc_fd)
    os.close(made.doors.policy_fd)
    os.close(made.doors.run_fd)


def test_a_table_of_a_lower_generation_is_refused_and_the_last_one_stays(files: Files) -> None:
    files.put("b", 6)
    with pytest.raises(OperatorFault) as caught:
        files.policy.reload()
    assert caught.value.fields["name"] == "older"
    assert files.policy.table.generation == 7
    assert [code for code, _, _ in files.policy.alarms] == ["EW-EXEC-017"]


def test_the_same_generation_and_a_higher_one_are_taken(files: Files) -> None:
    files.put("b", 7)
    files.policy.reload()
    files.put("c", 8)
    files.policy.reload()
    assert files.policy.table.generation == 8
    assert files.policy.alarms == []


def test_a_person_may_go_back(files: Files) -> None:
    files.put("b", 6)
    files.policy.reload(older=True)
    assert files.policy.table.generation == 6


def test_m5_a_start_goes_forward_only_too(files: Files) -> None:
    """An older table copied back, or brought along by a restored folder, while gate was away."""
    files.put("b", 6)
    again = files.start()
    assert again.table is EMPTY, "nothing is on the list rather than what was withdrawn"
    assert [(code, severity) for code, severity, _ in again.alarms] == [("EW-EXEC-017", 4)]
    assert "generation 6, and 7 was in use" in again.alarms[0][2]
    with pytest.raises(OperatorFault) as caught:
        again.reload()
    assert caught.value.fields["name"] == "older"
    again.reload(older=True)
    assert (again.table.generation, files.start().table.generation) == (6, 6)
    files.put("c", 8)
    assert files.start().table.generation == 8


def test_m5_a_mark_that_is_damaged_or_not_roots_locks_nobody_out(files: Files) -> None:
    mark = files.folder / "used"
    mark.write_bytes(mark.read_bytes()[:-1])
    files.put("b", 6)
    assert files.start().table.generation == 6


def test_a_better_tier_is_worth_a_try_and_a_worse_one_an_alarm(files: Files) -> None:
    policy = files.policy
    assert (policy.look(), policy.tier.tier) == (False, "T0")
    files.tier("T3", "")
    assert (policy.look(), policy.tier.tier, policy.proved) == (True, "T3", "T3")
    assert policy.look() is False  # nothing new
    files.tier("T2")
    assert (policy.look(), policy.tier.tier, policy.proved) == (False, "T2", "T3")
    assert policy.alarms == [("EW-EXEC-063", 5, "tier T2 after T3: EINVAL")]
    files.tier("T3", "")
    assert (policy.look(), policy.tier.tier) == (False, "T3")  # it was armed all the while
    assert len(policy.alarms) == 1


def test_a_word_of_the_canary_that_cannot_be_believed_is_a_lesser_tier(files: Files) -> None:
    files.tier("T3", "")
    assert files.policy.look()
    (files.folder.parent / "run" / "exec-tier").write_bytes(b"T4, honestly")
    assert files.policy.look() is False
    assert files.policy.tier.tier == "T0"
    assert [code for code, _, _ in files.policy.alarms] == ["EW-EXEC-063"]
